"""The verifier on bytes: what no assembler wrote is refused as well."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from dprobed.program.isa import BY_KEY, INSTRUCTIONS, Instruction, encode_one
from dprobed.program.model import MAX_DIAGNOSTICS, Header, ProbeDefinition, Program, ProgramError
from dprobed.program.registers import REGISTER_INDEX
from dprobed.program.rpn.parser import assemble
from dprobed.program.verifier import check, verify


def code_of(*steps: tuple[str, int] | str) -> bytes:
    return b"".join(
        encode_one(BY_KEY[step], ())
        if isinstance(step, str)
        else encode_one(BY_KEY[step[0]], (step[1],))
        for step in steps
    )


def program_of(code: bytes, **more: object) -> Program:
    probe = ProbeDefinition(0, offset="f", entry=0, end=len(code))
    return replace(Program(Header("x"), (probe,), code), **more)


def said(program: Program, file: str = "") -> str:
    with pytest.raises(ProgramError) as caught:
        verify(program, file)
    return str(caught.value)


def accepted(text: str, header: str = "") -> None:
    assemble(f"name = x\n{header}\noffset = f\n{text}\n", "x.rpn")


def refused(text: str, header: str = "") -> list[str]:
    """``line: message`` of all faults; the first instruction is on line 1."""
    start = 2 + len(header.splitlines())
    with pytest.raises(ProgramError) as caught:
        assemble(f"name = x\n{header and header + chr(10)}offset = f\n{text}\n", "x.rpn")
    return [f"{d.line - start}: {d.message}" for d in caught.value.diagnostics]


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (b"\x16", "code offset 0x0: error: unknown opcode 0x16"),
        (code_of("nop") + b"\x4c\x00\x00", "code offset 0x1: error: `push` is cut short"),
        (code_of("nop"), "code offset 0x0: error: runs past the end of its probe's code"),
        (code_of(("jmp label", 99)), "jump to code offset 0x63, outside of the program"),
        (code_of(("jmp label", 3)), "jump to code offset 0x3, into the middle of an instruction"),
        (code_of(("call label", 2), "exit"), "call to code offset 0x2, into the middle"),
        (code_of(("sx label", 7), "exit"), "jump to code offset 0x7, outside of the program"),
        (code_of("callk", "exit"), "`callk` is for kernel programs only"),
        (code_of(("push r,register", 255), "exit"), "unknown register number 255"),
        (code_of(("push word", 1), ("log i32,name", 3)), "name number 3 of the program's list"),
        (code_of(("exit facility", 3)), "facility number 3 of the program's list does not exist"),
        (code_of(("inc lv,index", 0), "exit"), "there is no local variable 0"),
        (code_of(("inc gv,index", 900), "exit"), "the index is 0 to 255, not 900"),
        (code_of("add", "exit"), "`add` needs 2 words on the stack; there is none"),
        (code_of("ret"), "`ret` is reached outside of any subroutine"),
        (b"\x66\x00\x0d", "0 is out of range: 1 to 64"),
        (b"\x66\x41\x0d", "65 is out of range: 1 to 64"),
        (b"\x3a\x40\x0d", "64 is out of range: 0 to 63"),
        (b"\x1b\x00\x00\x0d", "0 is out of range: 1 to 1024"),
        (b"\x7c\x00\x04\x0d", "1024 is out of range: -1024 to 1023"),
        (b"\x00" * 65536 + b"\x0d", "the program is too large: 65537 bytes of code"),
    ],
)
def test_code(code: bytes, message: str) -> None:
    assert message in said(program_of(code))


PROBE = ProbeDefinition(0, offset="f", entry=0, end=1)
GOOD = Program(Header("x"), (PROBE,), b"\x0d")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"probes": ()}, "the program has no probe"),
        ({"header": Header("")}, "header: error: `name` is empty"),
        ({"header": Header("a\x1bb")}, "`name` has a control character"),
        ({"header": Header("x", vars=257)}, "`vars` is 0 to 256, not 257"),
        ({"header": Header("x", modtype="?")}, "`modtype` is user, kernel, kmod"),
        ({"header": Header("x", logmax=1 << 17)}, "`logmax` is 0 to 65536"),
        ({"probes": (replace(PROBE, offset=None),)}, "either an `offset` or an `address`"),
        ({"probes": (replace(PROBE, address="f"),)}, "either an `offset` or an `address`"),
        ({"probes": (replace(PROBE, offset=""),)}, "probe 0: error: `offset` is empty"),
        ({"probes": (replace(PROBE, minor=0),)}, "`minor` is 1 to 65535, not 0"),
        ({"probes": (replace(PROBE, opcode=b"x" * 16),)}, "`opcode` is 1 to 15 bytes, not 16"),
        ({"probes": (replace(PROBE, watchpoint="w"),)}, "a watchpoint needs an `address`"),
        ({"probes": (replace(PROBE, heap=1 << 15),)}, "above heapmax"),
        ({"probes": (replace(PROBE, end=0),)}, "range is not valid"),
        ({"probes": (replace(PROBE, entry=1, end=2),)}, "range is not valid"),
        ({"probes": (replace(PROBE, end=2),)}, "range ends in an instruction"),
        ({"probes": (PROBE, PROBE)}, "the probes' indices do not ascend"),
        ({"probes": (PROBE, replace(PROBE, index=1))}, "range is not valid"),
        ({"facilities": ("trace", "trace")}, "a facility is listed twice"),
        ({"facilities": ("a b",)}, "`a b` is not a facility"),
        ({"facilities": (0,)}, "`0` is not a facility"),
        ({"names": ("a", "a")}, "a name is listed twice"),
        ({"names": ("",)}, "a name is empty"),
        ({"names": ("a" * 256,)}, "a name is empty, too long"),
        ({"names": ("a\0",)}, "has a control character in it"),
        ({"names": tuple(f"n{number}" for number in range(257))}, "more than 256 different names"),
        ({"lines": ((0, 0, 1),)}, "a line's number or source file does not exist"),
        ({"lines": ((1, 0, 1), (0, 0, 2)), "sources": ("x",)}, "do not ascend"),
        ({"sources": ("a\0",)}, "a source file's name"),
    ],
)
def test_tables(more: dict[str, object], message: str) -> None:
    verify(GOOD)
    assert message in said(replace(GOOD, **more))


def test_a_range_must_not_run_into_the_next_nor_be_entered_by_a_jump() -> None:
    first = code_of("nop")
    second = code_of(("jmp label", 0))
    probes = (
        ProbeDefinition(0, offset="f", entry=0, end=1),
        ProbeDefinition(1, offset="g", entry=1, end=6),
    )
    text = said(Program(Header("x"), probes, first + second))
    assert "code offset 0x0: error: runs past the end" in text
    assert "code offset 0x1: error: jump to another probe's instructions" in text


def test_code_of_probes_that_were_left_out_is_checked_too() -> None:
    probe = ProbeDefinition(1, offset="g", entry=1, end=2)
    text = said(Program(Header("x"), (probe,), code_of("nop", "exit", "nop")))
    assert "code offset 0x0: error: runs past the end" in text
    assert "code offset 0x2: error: runs past the end" in text


def test_places_are_told_by_debug_lines_where_there_are_any() -> None:
    program = assemble("name = x\noffset = f\nnop\npush 1\nlog 1\nexit\n", "x.rpn")
    broken = program.code.replace(b"\x1b\x01\x00", b"\x1b\x07\x00")
    text = said(replace(program, code=broken), "x.dpb")
    assert "x.dpb: code offset 0xa (x.rpn line 5): error: `log` needs 7 words" in text
    assert ">    5  0x000a      1  log 7" in text


# -- depths ------------------------------------------------------------------------------------


def test_what_may_be_right_is_left_to_run_time() -> None:
    # Two words on one path, none on the other.
    accepted("push 1\njz a\npush 2\npush 3\na: add\nexit")
    # As many words as TOS says.
    accepted("push 1\nlog\nadd\nexit")
    accepted("push 1\npush 5\ndup\nlog 6\nexit")
    accepted("push 0\nrestore tsp\nadd\nexit")
    # A loop that grows or shrinks the stack.
    accepted("push 5\nl: push 1\nxchg\nloop l\nlog 3\nexit")
    accepted("l: push 1\njmp l")
    # A subroutine with different effects.
    accepted("push 1\ncall s\nadd\nadd\nexit\ns: jz t\npush 1\npush 2\nt: ret")


def test_subroutines_change_the_depth() -> None:
    accepted("call s\nadd\nexit\ns: push 1\npush 2\nret")
    accepted("call s\nlog 4\nexit\ns: call t\ncall t\nret\nt: push 1\npush 2\nret")
    assert refused("call s\nlog 5\nexit\ns: call t\ncall t\nret\nt: push 1\npush 2\nret") == [
        "2: `log` needs 5 words on the stack; there is only 4 on any path to here"
    ]
    # What a subroutine finds is what its callers leave there.
    accepted("push 1\ncall s\nexit\ns: ros 1\nret")
    assert refused("push 1\ncall s\nexit\ns: ros 2\nret") == [
        "4: `ros` needs 2 words on the stack; there is only 1 on any path to here"
    ]


def test_handlers_begin_with_the_triple() -> None:
    accepted("sx h\npush 1\nexit\nh: log 3\nlog 1\nexit")


def test_a_fault_is_told_once() -> None:
    assert len(refused("add\nlog 1\nexit")) == 1


def test_what_cannot_be_reached_is_not_held_against_a_program() -> None:
    accepted("exit\nadd\nret")


def test_full_stack() -> None:
    fill = "push 1\n" + "dup 255\n" * 4
    accepted(f"{fill}push 1\npush 2\npush 3\nexit")
    assert refused(f"{fill}push 1\npush 2\npush 3\npush 4\nexit") == [
        "9: `push` makes the stack 1025 words deep on any path to here; it has 1024"
    ]


@pytest.mark.parametrize(
    "text",
    [
        "call f\nexit\nf: push 1\njz g\ncall f\ng: ret",
        "call f\nexit\nf: call g\nret\ng: push r,rdi\njz h\ncall f\nh: exit",
        "sx h\ncall f\nexit\nf: call f\nret\nh: exit",
        "call f\nexit\nf: jmp f",
        "call f\nexit\nf: abort",
        "call s0\nexit\n" + "".join(f"s{n}: call s{n + 1}\nret\n" for n in range(31)) + "s31: ret",
    ],
    ids=["recursion", "mutual", "handled", "loop", "no return", "32 deep"],
)
def test_calls_that_can_be_right(text: str) -> None:
    accepted(text)


def test_ret_in_a_handler_of_the_probe_itself() -> None:
    assert refused("sx h\nexit\nh: ret") == ["3: `ret` is reached outside of any subroutine"]
    accepted("call f\nexit\nf: sx h\nret\nh: ret")


# -- anything ------------------------------------------------------------------------------------


@st.composite
def anything(draw: st.DrawFn) -> Program:
    """Valid opcodes with any operands: mostly nonsense, now and then nearly right."""
    steps = draw(st.lists(st.sampled_from(INSTRUCTIONS), max_size=40))
    size = sum(step.size for step in steps)

    def operand(instruction: Instruction) -> tuple[int, ...]:
        return tuple(
            draw(
                st.sampled_from([0, 1, 5, kind.high])
                if kind.name != "LABEL"
                else st.integers(0, max(size, 1))
            )
            for kind in instruction.operands
        )

    code = b"".join(encode_one(step, operand(step)) for step in steps)
    modtype = draw(st.sampled_from(["user", "kernel"]))
    probe = ProbeDefinition(0, offset="f", entry=0, end=len(code))
    return Program(Header("x", modtype, vars=2), (probe,), code, ("trace",))


@settings(max_examples=200)
@given(anything())
def test_any_code_is_judged(program: Program) -> None:
    for fault in check(program):
        assert fault.message


@pytest.mark.slow
@pytest.mark.parametrize(
    "text",
    [
        "\n".join(f"L{n}: call L{n * 7919 % 13000}" for n in range(13000)) + "\nexit",
        "\n".join(f"L{n}: call L{n + 1}" for n in range(13000)) + "\nL13000: exit",
        "push 1\n"
        + "".join(f"L{n}: jz L{n * 7919 % 4000}\npush 2\n" for n in range(4000))
        + "exit",
    ],
    ids=["tangle", "chain", "growing"],
)
@pytest.mark.timeout(30)
def test_hostile_programs_are_judged_in_bounded_time(text: str) -> None:
    try:
        accepted(text)
    except ProgramError as error:
        assert error.diagnostics


def test_registers_that_programs_may_alter() -> None:
    for name in ("rip", "rsp", "rflags", "eax", "xmm0", "mxcsr", "fr7"):
        index = REGISTER_INDEX[name]
        verify(program_of(code_of(("push word", 1), ("dup count", 1), ("pop r,register", index))
                          + b"\x0d"))  # fmt: skip


@pytest.mark.slow
def test_a_program_that_is_all_wrong_is_refused_with_its_first_faults() -> None:
    """Each fault's listing would take as long as the program is; nobody reads 60,000."""
    code = code_of("add") * 60_000 + code_of("exit")
    lines = tuple((offset, 0, offset + 1) for offset in range(len(code)))
    with pytest.raises(ProgramError) as caught:
        verify(program_of(code, lines=lines, sources=("x.rpn",)))
    assert len(caught.value.diagnostics) == MAX_DIAGNOSTICS
    assert "code offset 0x63 (x.rpn line 100)" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a b", "`a b` is not a name"),
        ("a" * 64, "63 at most"),
        ("pid", "`pid` is what records call something of their own"),
        ("word_1", "`word_1` is what records call something of their own"),
    ],
)
def test_names_of_values(name: str, message: str) -> None:
    code = code_of(("push word", 1), ("log i32,name", 0), "exit")
    program = replace(GOOD, code=code, probes=(replace(PROBE, end=len(code)),), names=(name,))
    assert message in said(program)
