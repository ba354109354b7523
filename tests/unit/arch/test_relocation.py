"""Displaced instructions: encodings, refusals, and original and slot run and compared."""

from __future__ import annotations

import struct
import subprocess
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from iced_x86 import Decoder, FlowControl, Instruction, Mnemonic, Register

from dprobed.arch.x86_64.relocation import (
    MAX_SLOT,
    Displaced,
    Position,
    RelocationError,
    Where,
    displace,
    instruction_length,
)

pytestmark = pytest.mark.slow

ADDRESS = 0x10000100
NEAR = 0x18000000
FAR = 0x7E0000000000
PAD = 0x14000000  # a page of int3: a landing place
DATA = 0x20000000  # as in relocate_runner.c
STACK = 0x28000000
MIDDLE = 0x2000

REGISTERS = (
    *("r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"),
    *("rdi", "rsi", "rbp", "rbx", "rdx", "rax", "rcx", "rsp", "flags"),
)
SIGTRAP = 5


def code_of(displaced: Displaced, slot: int) -> list[Instruction]:
    """The slot's instructions, without its constants."""
    found = list(Decoder(64, displaced.code, ip=slot))
    ends = {offset for offset, _ in displaced.positions}
    code = [one for one in found if one.ip - slot <= max(ends)]
    assert ends == {one.ip - slot for one in code}, "a position that is no instruction"
    return code


# --- encodings ---------------------------------------------------------------------------------


def test_the_copy_is_exact_and_followed_by_a_jump_back() -> None:
    displaced = displace(bytes.fromhex("48 89 e5 ff ff"), ADDRESS, NEAR)
    assert displaced.code[:3].hex() == "4889e5"
    assert displaced.code[3:] == b"\xe9" + (ADDRESS + 3 - NEAR - 8).to_bytes(
        4, "little", signed=True
    )
    assert displaced.length == 3
    assert displaced.positions == (
        (0, Position(Where.BEFORE, ADDRESS)),
        (3, Position(Where.AFTER, ADDRESS + 3)),
    )


def test_a_slot_far_away_jumps_through_a_constant() -> None:
    displaced = displace(b"\x90", ADDRESS, FAR)
    assert displaced.code == b"\x90\xff\x25\0\0\0\0" + (ADDRESS + 1).to_bytes(8, "little")


@pytest.mark.parametrize("code", ["c3", "f3 c3", "c2 10 00", "ff e0", "3e ff e0", "ff 27", "0f 0b"])
def test_nothing_follows_what_does_not_fall_through(code: str) -> None:
    displaced = displace(bytes.fromhex(code), ADDRESS, NEAR)
    assert displaced.code == bytes.fromhex(code)
    assert displaced.branches


@pytest.mark.parametrize("slot", [NEAR, ADDRESS + 0x60000000])
@pytest.mark.parametrize(
    "code",
    [
        "48 8b 05 11 22 33 04",
        "c7 05 11 22 33 04 01 02 03 04",  # an immediate behind the displacement
        "62 f1 7c 48 28 05 11 22 33 04",  # EVEX
        "c5 fc 10 05 11 22 33 04",
        "67 48 8d 05 11 22 33 f4",  # eip-relative: modulo 2**32
    ],
)
def test_rip_relative_operands_mean_the_same_place(code: str, slot: int) -> None:
    original = Decoder(64, bytes.fromhex(code), ip=ADDRESS).decode()
    copy = code_of(displace(bytes.fromhex(code), ADDRESS, slot), slot)[0]
    assert copy.ip_rel_memory_address == original.ip_rel_memory_address
    assert copy.code == original.code
    assert f"{copy}" == f"{original}"


def test_a_branch_to_itself_goes_to_the_original() -> None:
    displaced = displace(bytes.fromhex("eb fe"), ADDRESS, NEAR)
    assert code_of(displaced, NEAR)[0].near_branch_target == ADDRESS
    displaced = displace(bytes.fromhex("e2 fe"), ADDRESS, NEAR)
    assert code_of(displaced, NEAR)[-1].near_branch_target == ADDRESS
    displaced = displace(bytes.fromhex("48 8d 05 f9 ff ff ff"), ADDRESS, NEAR)  # lea rax,[rip-7]
    assert code_of(displaced, NEAR)[0].ip_rel_memory_address == ADDRESS


def test_every_place_inside_a_call_can_be_undone() -> None:
    displaced = displace(bytes.fromhex("e8 10 00 00 00"), ADDRESS, NEAR)
    assert displaced.positions == (
        (0, Position(Where.BEFORE, ADDRESS)),
        (6, Position(Where.INSIDE, ADDRESS, rsp_delta=8)),
    )


def test_behind_a_system_call_rcx_is_still_to_be_set() -> None:
    displaced = displace(bytes.fromhex("0f 05"), ADDRESS, NEAR)
    after = ADDRESS + 2
    assert displaced.positions == (
        (0, Position(Where.BEFORE, ADDRESS)),
        (2, Position(Where.AFTER, after, rcx=after)),
        (12, Position(Where.AFTER, after)),
    )
    assert displaced.is_syscall
    assert not displaced.branches


def test_a_transaction_aborts_to_the_original_place() -> None:
    """xbegin cannot be run on every processor."""
    for slot in (NEAR, FAR):
        displaced = displace(bytes.fromhex("c7 f8 10 00 00 00"), ADDRESS, slot)
        code = code_of(displaced, slot)
        assert f"{code[0]}".startswith("xbegin")
        assert code[0].near_branch_target == code[2].ip
        assert displaced.positions[1:] == (
            (6, Position(Where.AFTER, ADDRESS + 6)),
            (code[2].ip - slot, Position(Where.AFTER, ADDRESS + 0x16)),
        )


@pytest.mark.parametrize(
    ("code", "is_syscall", "is_rep", "may_fault", "branches"),
    [
        ("90", False, False, False, False),
        ("48 8d 04 24", False, False, False, False),
        ("0f 1f 00", False, False, False, False),
        ("f3 0f 1e fa", False, False, False, False),
        ("48 01 c8", False, False, False, False),
        ("48 01 08", False, False, True, False),
        ("f0 48 01 08", False, False, True, False),
        ("48 f7 f1", False, False, True, False),
        ("8e d8", False, False, True, False),
        ("0f 20 c0", False, False, True, False),
        ("0f 58 c1", False, False, True, False),
        ("f3 a4", False, True, True, False),
        ("f2 ae", False, True, True, False),
        ("a4", False, False, True, False),
        ("0f 05", True, False, True, False),
        ("cd 80", True, False, True, False),
        ("74 02", False, False, False, True),
        ("eb 02", False, False, False, True),
        ("ff e0", False, False, True, True),
        ("e8 00 00 00 00", False, False, True, True),
        ("c3", False, False, True, True),
    ],
)
def test_flags(code: str, is_syscall: bool, is_rep: bool, may_fault: bool, branches: bool) -> None:
    displaced = displace(bytes.fromhex(code), ADDRESS, NEAR)
    assert displaced.is_syscall == is_syscall
    assert displaced.is_rep == is_rep
    assert displaced.may_fault == may_fault
    assert displaced.branches == branches


@pytest.mark.parametrize(
    ("code", "slot", "reason"),
    [
        ("cc", NEAR, "a breakpoint of another debugger is there (int3)"),
        ("cd 03", NEAR, "an interrupt instruction other than int 0x80"),
        ("f1", NEAR, "an interrupt instruction other than int 0x80"),
        ("ce", NEAR, "no x86-64 instruction is there (ce)"),
        ("48 8b", NEAR, "no x86-64 instruction is there (48 8b)"),
        ("", NEAR, "no x86-64 instruction is there (nothing)"),
        ("9a 00 00 00 00 00 00", NEAR, "no x86-64 instruction is there (9a 00 00 00 00 00 00)"),
        ("ff 18", NEAR, "a far call"),
        ("ff 28", NEAR, "a far jump"),
        ("cb", NEAR, "retf cannot run outside of its place"),
        ("cf", NEAR, "iretd cannot run outside of its place"),
        ("48 cf", NEAR, "iretq cannot run outside of its place"),
        ("0f 34", NEAR, "sysenter cannot run outside of its place"),
        ("66 e8 00 00 00 00", NEAR, "a near branch with an operand size prefix: processors differ"),
        ("66 48 26 e8 00 00 00 00", NEAR, "a near branch with an operand size prefix"),
        ("66 c3", NEAR, "a near branch with an operand size prefix: processors differ"),
        ("66 c7 f8 00 00", NEAR, "xbegin with an operand size prefix"),
        ("9d", NEAR, "it can begin single stepping, which would show"),
        ("66 9d", NEAR, "it can begin single stepping, which would show"),
        ("ff d4", NEAR, "call rsp: the push that stands for it changes the target"),
        ("ff 54 24 f8", NEAR, "a call through a stack word that the call itself may write"),
        ("67 ff 54 24 f1", NEAR, "a call through a stack word that the call itself may write"),
        ("ff 94 24 f8 ff ff 7f", NEAR, "a call through the stack, 2 GiB above it"),
        ("48 8b 05 00 00 00 00", FAR, "its operand at 0x10000107 is more than 2 GiB away"),
        ("ff 15 00 00 00 00", FAR, "its operand at 0x10000106 is more than 2 GiB away"),
    ],
)
def test_refused(code: str, slot: int, reason: str) -> None:
    with pytest.raises(RelocationError) as caught:
        displace(bytes.fromhex(code), ADDRESS, slot)
    assert caught.value.reason.startswith(reason)


def test_instruction_length() -> None:
    assert instruction_length(bytes.fromhex("f3 0f 1e fa 55"), ADDRESS) == 4
    assert instruction_length(b"\xcc", ADDRESS) == 1
    with pytest.raises(RelocationError):
        instruction_length(b"\x06", ADDRESS)


# --- the same on the processor -----------------------------------------------------------------


class Final(NamedTuple):
    """How a run ended: at which signal, with which state."""

    signal: int
    fault: int
    regs: dict[str, int]
    rip: int
    same_vectors: bool
    changed: int
    first: int
    last: int


Runner = Callable[[bytes, Displaced, int, dict[str, int]], tuple[Final, Final]]


@pytest.fixture(scope="module")
def runner(build_target: Callable[..., Path]) -> Iterator[Runner]:
    """Runs the instruction in its place and from its slot: both final states."""
    process = subprocess.Popen(
        [build_target("relocate_runner.c")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdin and process.stdout
    stdin, stdout = process.stdin, process.stdout
    layout = struct.Struct(f"<{2 + len(REGISTERS)}Q5Q")

    def run(
        code: bytes, displaced: Displaced, slot: int, regs: dict[str, int]
    ) -> tuple[Final, Final]:
        length = displaced.length
        stdin.write(
            struct.pack("<5Q", ADDRESS, slot, PAD, length, len(displaced.code))
            + code[:length].ljust(16, b"\0")
            + displaced.code.ljust(64, b"\0")
            + struct.pack("<17Q", *(regs[name] for name in REGISTERS))
        )
        stdin.flush()
        ends = []
        for _ in range(2):
            data = stdout.read(layout.size)
            assert len(data) == layout.size, f"the runner died ({process.wait()}) of {code.hex()}"
            signal, fault, *values = layout.unpack(data)
            count = len(REGISTERS)
            rip, same, changed, first, last = values[count:]
            final = dict(zip(REGISTERS, values[:count], strict=True))
            ends.append(Final(signal, fault, final, rip, bool(same), changed, first, last))
        return ends[0], ends[1]

    yield run
    stdin.close()
    assert process.wait(60) == 0
    stdout.close()


def registers(**given: int) -> dict[str, int]:
    """Each register points to its own place in the data, unless given."""
    regs = {name: DATA + MIDDLE + 64 * i for i, name in enumerate(REGISTERS)}
    return regs | {"rsp": STACK + MIDDLE, "flags": 0x202} | given


def compare(
    runner: Runner, code: bytes, slot: int, regs: dict[str, int]
) -> tuple[Final, Displaced]:
    """Run both; all that can be seen must be equal. Returns how it ended."""
    displaced = displace(code, ADDRESS, slot)
    original, copy = runner(code, displaced, slot, regs)
    final = dict(copy.regs)
    rip, in_slot = copy.rip, slot <= copy.rip < slot + len(displaced.code)
    written = 0
    if in_slot:  # it stopped on its way: take it out as the tracer would
        where, rip, rsp_delta, rcx = dict(displaced.positions)[copy.rip - slot]
        final["rsp"] += rsp_delta
        if rcx is not None:
            final["rcx"] = rcx
        if where is Where.INSIDE:
            # The word that the push wrote is dead. Some processors natively write it as well before
            # they find that the target is no address: then nothing differs.
            written = 8
            dead = range(final["rsp"] - 8, final["rsp"])
            assert not copy.changed or (copy.first in dead and copy.last in dead)
    assert (copy.signal, rip, final) == (original.signal, original.rip, original.regs)
    assert copy.fault == original.fault or (in_slot and original.fault == ADDRESS)
    assert copy.changed <= written, f"memory differs at {copy.first:#x}..{copy.last:#x}"
    assert copy.same_vectors, "x87, vector or mask registers differ"
    return original, displaced


#: code, registers, and where it must end (address of the int3; 0 for a fault in its place).
NEXT = object()
LANDING = PAD + 0x10
KINDS: list[tuple[str, dict[str, int], object]] = [
    ("90", {}, NEXT),
    ("55", {}, NEXT),
    ("f3 0f 1e fa", {}, NEXT),
    ("f0 48 0f c1 07", {}, NEXT),  # lock xadd [rdi],rax
    ("f0 48 0f c7 0f", {}, NEXT),  # lock cmpxchg16b [rdi]
    ("64 48 8b 04 25 00 00 00 00", {}, NEXT),  # mov rax,fs:0
    ("48 a1 00 20 00 20 00 00 00 00", {}, NEXT),  # mov rax,moffs64
    ("48 8b 05 fa 1e 00 10", {}, NEXT),  # mov rax,[rip+…] in the data
    ("c6 05 fa 1e 00 10 55", {}, NEXT),  # mov byte [rip+…],0x55
    ("67 48 8d 05 11 22 33 f4", {}, NEXT),
    ("c5 fc 10 05 00 1f 00 10", {}, NEXT),
    ("62 f1 7c 48 10 05 00 1f 00 10", {}, NEXT),  # vmovups zmm0,[rip+…]
    ("62 f1 7c 48 11 07", {}, NEXT),
    ("62 f1 74 49 58 07", {}, NEXT),  # vaddps zmm0{k1},zmm1,[rdi]
    ("c5 f8 77", {}, NEXT),
    ("f3 a4", {"rcx": 100}, NEXT),
    ("f3 48 ab", {"rcx": 5, "flags": 0x602}, NEXT),  # rep stosq, backwards
    ("f2 ae", {"rcx": 1000, "rax": 0x20}, NEXT),
    ("f3 a6", {"rcx": 1000}, NEXT),
    ("f3 a4", {"rcx": 1 << 40}, 0),  # runs out of the data
    ("48 f7 f1", {"rdx": 0, "rcx": 7}, NEXT),
    ("48 f7 f1", {"rcx": 0}, 0),  # divides by zero
    ("48 8b 00", {"rax": 0x123}, 0),
    ("0f 0b", {}, 0),
    ("9c", {"flags": 0x8D7}, NEXT),
    ("e8 10 00 00 00", {}, ADDRESS + 0x15),
    ("e8 00 00 00 00", {}, NEXT),
    ("f2 e8 10 00 00 00", {}, ADDRESS + 0x16),
    ("66 66 48 e8 10 00 00 00", {}, ADDRESS + 0x18),
    ("67 e8 10 00 00 00", {}, ADDRESS + 0x16),
    ("40 26 3e 74 10", {"flags": 0x242}, ADDRESS + 0x15),  # a REX prefix without effect
    ("ff d0", {"rax": LANDING}, LANDING),
    ("3e ff d0", {"rax": LANDING}, LANDING),
    ("41 ff d4", {"r12": LANDING}, LANDING),
    ("ff 17", {"rdi": STACK + MIDDLE + 0x90}, LANDING),
    ("ff 17", {"rdi": 0x123}, 0),
    ("41 ff 14 24", {"r12": STACK + MIDDLE + 0x90}, LANDING),
    ("ff 14 24", {"rsp": STACK + MIDDLE + 0x90}, LANDING),
    ("ff 54 24 10", {}, LANDING),
    ("ff 54 24 d0", {}, LANDING),
    ("67 ff 54 24 10", {}, LANDING),
    ("ff 94 24 10 01 00 00", {}, LANDING),
    ("ff 54 cc 08", {"rcx": 1}, LANDING),
    ("ff 14 25 10 20 00 28", {}, LANDING),
    ("ff 15 0a 1f 00 18", {}, LANDING),
    ("ff 25 0a 1f 00 18", {}, LANDING),
    ("ff d0", {"rax": 1 << 60}, 0),
    ("eb 10", {}, ADDRESS + 0x12),
    ("e9 10 00 00 00", {}, ADDRESS + 0x15),
    ("ff e0", {"rax": LANDING}, LANDING),
    ("ff e4", {}, None),
    ("3e ff e0", {"rax": LANDING}, LANDING),
    ("ff 64 24 10", {}, LANDING),
    ("c3", {"rsp": STACK + MIDDLE + 0x10}, LANDING),
    ("f3 c3", {"rsp": STACK + MIDDLE + 0x10}, LANDING),
    ("f2 c3", {"rsp": STACK + MIDDLE + 0x10}, LANDING),
    ("c2 10 00", {"rsp": STACK + MIDDLE + 0x10}, LANDING),
    ("e2 10", {"rcx": 5}, ADDRESS + 0x12),
    ("e2 10", {"rcx": 1}, NEXT),
    ("e1 10", {"rcx": 5, "flags": 0x242}, ADDRESS + 0x12),
    ("e0 10", {"rcx": 5, "flags": 0x242}, NEXT),
    ("e3 10", {"rcx": 0}, ADDRESS + 0x12),
    ("e3 10", {"rcx": 1 << 32}, NEXT),
    ("67 e3 10", {"rcx": 1 << 32}, ADDRESS + 0x13),
    ("67 e2 10", {"rcx": 1}, NEXT),
    ("0f 05", {"rax": 39}, NEXT),  # getpid
    ("0f 05", {"rax": 0xFFFFFF}, NEXT),  # ENOSYS
    ("cd 80", {"rax": 20}, NEXT),
]


@cache
def natively_missing() -> frozenset[str]:
    """Those that fault in their place on this machine: its processor has no such vectors, or its
    kernel no 32-bit system calls."""
    has = Path("/proc/cpuinfo").read_text().split()
    missing = {code for code, *_ in KINDS if code[:2] == "62" and "avx512f" not in has}
    missing |= {code for code, *_ in KINDS if code[:2] == "c5" and "avx" not in has}
    emulation = Path("/proc/sys/abi/vsyscall32")  # CONFIG_IA32_EMULATION
    return frozenset(missing if emulation.exists() else missing | {"cd 80"})


def kind_id(kind: object) -> str:
    return kind if isinstance(kind, str) else ""


@pytest.mark.parametrize("slot", [NEAR, FAR], ids=["near", "far"])
@pytest.mark.parametrize(("code", "given", "end"), KINDS, ids=kind_id)
def test_each_kind_of_instruction(
    runner: Runner, code: str, given: dict[str, int], end: object, slot: int
) -> None:
    raw = bytes.fromhex(code)
    if code in natively_missing():
        end = 0
    if slot == FAR and Decoder(64, raw, ip=ADDRESS).decode().is_ip_rel_memory_operand:
        slot = ADDRESS + 0x30000000
    final, displaced = compare(runner, raw, slot, registers(**given))
    assert len(displaced.code) <= MAX_SLOT
    if end is None:
        return
    if end == 0:
        assert final.signal != SIGTRAP
        assert final.rip == ADDRESS
    else:
        expected = ADDRESS + len(raw) if end is NEXT else end
        assert (final.signal, final.rip) == (SIGTRAP, int(str(expected)) + 1)


@pytest.mark.parametrize("slot", [NEAR, FAR], ids=["near", "far"])
@pytest.mark.parametrize("form", ["{:02x} 10", "0f {:02x} 10 00 00 00"], ids=["short", "near"])
def test_every_condition_with_all_flags(runner: Runner, form: str, slot: int) -> None:
    base = 0x70 if form.startswith("{") else 0x80
    for condition in range(16):
        code = bytes.fromhex(form.format(base + condition))
        taken = 0
        for bits in range(32):  # CF PF ZF SF OF
            flags = sum(1 << at for i, at in enumerate((0, 2, 6, 7, 11)) if bits >> i & 1)
            final, _ = compare(runner, code, slot, registers(flags=flags | 0x202))
            taken += final.rip == ADDRESS + len(code) + 0x11
        assert 0 < taken < 32


#: Left out of the generated: what shows time or the processor's inner state, what ends or changes
#: the runner itself (segments, TLS base, trap flag, protection keys, system calls).
_EXCLUDED_WORDS = """
    RD SYS WR XRST XSAVE FXRSTOR FXSAVE POPF IRET UIRET INT LDS LES LFS LGS LSS SWAPGS FNSAVE
    FSAVE FNSTENV FSTENV FLDENV FRSTOR CPUID UMWAIT UMONITOR TPAUSE ENQCMD XBEGIN XGETBV XSETBV
    TILE LDTILE STTILE TDP SENDUIPI STUI CLUI TESTUI MONITOR MWAIT PTWRITE INCSSP SAVEPREV RSTOR
    SETSSBSY CLRSSBSY CLZERO ENCLU PCONFIG VMCALL VMMCALL VMFUNC VMRUN INVL SKINIT STR SLDT SGDT
    SIDT SMSW AES LOADIWKEY ENCODEKEY GETSEC
"""
_EXCLUDED = {
    getattr(Mnemonic, name)
    for name in dir(Mnemonic)
    if name.isupper() and any(name.startswith(word) for word in _EXCLUDED_WORDS.split())
}
_SEGMENTS = {Register.FS, Register.GS, Register.ES, Register.DS, Register.SS, Register.CS}


def is_safe(instruction: Instruction) -> bool:
    """Whether the runner survives it and both runs can be compared."""
    if (
        instruction.is_invalid
        or instruction.mnemonic in _EXCLUDED
        or instruction.flow_control == FlowControl.INTERRUPT
        or instruction.memory_segment in (Register.FS, Register.GS)
    ):
        return False
    if any(instruction.op_register(i) in _SEGMENTS for i in range(instruction.op_count)):
        return False
    target = instruction.near_branch_target
    return not (target and ADDRESS <= target < ADDRESS + instruction.len)


bytes_of = st.integers(0, 255)
prefixes = st.lists(
    st.sampled_from([0x66, 0x67, 0xF2, 0xF3, 0xF0, 0x2E, 0x3E]), max_size=2, unique=True
).map(bytes)
rex = st.one_of(st.just(b""), st.integers(0x40, 0x4F).map(lambda byte: bytes((byte,))))
legacy = st.tuples(
    prefixes,
    rex,
    st.sampled_from([b"", b"", b"\x0f", b"\x0f", b"\x0f\x38", b"\x0f\x3a"]),
).map(b"".join)
vex = st.tuples(bytes_of, bytes_of).map(
    lambda two: bytes((0xC4, two[0] & 0xE0 | 1 + two[0] % 3, two[1] | 0x78 * (two[1] & 1)))
)
evex = st.tuples(bytes_of, bytes_of, bytes_of).map(
    lambda p: bytes((0x62, p[0] & 0xF0 | 1 + p[0] % 3, p[1] | 0x7C, p[2] | 0x08))
)
tails = st.binary(min_size=11, max_size=11)


@st.composite
def instructions(draw: st.DrawFn) -> bytes:
    """Bytes that begin with some instruction; a RIP-relative operand lies in the data."""
    code = draw(st.one_of(legacy, legacy, vex, evex)) + draw(tails)
    decoder = Decoder(64, code[:15], ip=ADDRESS)
    instruction = decoder.decode()
    assume(not instruction.is_invalid)
    if instruction.is_ip_rel_memory_operand:
        at = decoder.get_constant_offsets(instruction).displacement_offset
        target = DATA + MIDDLE + draw(st.integers(-64, 64))
        distance = (target - ADDRESS - instruction.len).to_bytes(4, "little", signed=True)
        code = code[:at] + distance + code[at + 4 :]
        instruction = Decoder(64, code[:15], ip=ADDRESS).decode()
    assume(is_safe(instruction))
    return code[: instruction.len]


values = st.one_of(
    st.integers(-256, 256).map(lambda n: DATA + MIDDLE + n),
    st.integers(-64, 64).map(lambda n: n & (1 << 64) - 1),
    st.integers(0, (1 << 64) - 1),
    st.just(LANDING),
)
states = st.fixed_dictionaries(
    dict.fromkeys(REGISTERS[:15], values)
    | {
        "rsp": st.integers(-32, 32).map(lambda n: STACK + MIDDLE + 8 * n),
        "flags": st.integers(0, 0xFFF),
    }
)


@settings(
    max_examples=1500,
    suppress_health_check=[
        HealthCheck.function_scoped_fixture,
        HealthCheck.filter_too_much,
        HealthCheck.too_slow,
    ],
)
@example(code=b"\xf3\xa4", regs=registers(rcx=1 << 63), slot=NEAR)
@given(
    code=instructions(), regs=states, slot=st.sampled_from([NEAR, NEAR + 3, ADDRESS + 0x2000, FAR])
)
def test_any_instruction(runner: Runner, code: bytes, regs: dict[str, int], slot: int) -> None:
    """Generated instructions with generated registers: refused, or the same in every respect."""
    try:
        displace(code, ADDRESS, slot)
    except RelocationError:
        return
    compare(runner, code, slot, regs)
