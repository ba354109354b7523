"""The instruction table: what it promises to everything that is derived from it."""

from __future__ import annotations

import pytest

from dprobed.program.disassembler import disassemble
from dprobed.program.exceptions import EXCEPTIONS, ExCode
from dprobed.program.isa import (
    BY_KEY,
    GROUPS,
    INSTRUCTIONS,
    DecodeError,
    Instruction,
    Operand,
    decode_at,
    encode_one,
)
from dprobed.program.registers import REGISTERS
from dprobed.program.rpn.parser import assemble

#: The numbers that the original language gave (its manual's and kernel sources' facts).
ORIGINAL = {
    "nop": 0x00, "jmp label": 0x01, "jlt label": 0x02, "jle label": 0x03, "jgt label": 0x04,
    "jge label": 0x05, "jz label": 0x06, "jnz label": 0x07, "loop label": 0x08,
    "call label": 0x09, "ret": 0x0A, "abort": 0x0B, "rem": 0x0C, "exit": 0x0D,
    "exit facility": 0x0E, "suspend": 0x0F, "resume": 0x10, "setmin index": 0x11,
    "setmin": 0x12, "setmaj index": 0x13, "setmaj": 0x14, "log str": 0x15, "log mrf": 0x17,
    "log count": 0x1B, "push gv,index": 0x1F, "push gv": 0x20, "pop gv,index": 0x21,
    "pop gv": 0x22, "move gv,index": 0x23, "move gv": 0x24, "inc gv,index": 0x25, "inc gv": 0x26,
    "dec gv,index": 0x27, "dec gv": 0x28, "push lv,index": 0x29, "push lv": 0x2A,
    "pop lv,index": 0x2B, "pop lv": 0x2C, "move lv,index": 0x2D, "move lv": 0x2E,
    "inc lv,index": 0x2F, "inc lv": 0x30, "dec lv,index": 0x31, "dec lv": 0x32, "add": 0x33,
    "sub": 0x34, "mul": 0x35, "neg": 0x36, "and": 0x37, "or": 0x38, "xor": 0x39,
    "rol bits": 0x3A, "rol": 0x3B, "ror bits": 0x3C, "ror": 0x3D, "shl bits": 0x3E, "shl": 0x3F,
    "shr bits": 0x40, "shr": 0x41, "xchg": 0x42, "dup count": 0x43, "dup": 0x44,
    "ros count": 0x45, "push r,register": 0x46, "pop r,register": 0x47, "push u,register": 0x48,
    "pop u,register": 0x49, "push word": 0x4C, "push mem,u8": 0x4D, "push mem,u16": 0x4E,
    "push mem,u32": 0x4F, "push mem,u64": 0x50, "pop mem,u8": 0x51, "pop mem,u16": 0x52,
    "pop mem,u32": 0x53, "pop mem,u64": 0x54, "push task": 0x5D, "push pid": 0x5E,
    "push procid": 0x5F, "vfy r": 0x60, "vfy rw": 0x61, "div": 0x62, "idiv": 0x63, "pbl": 0x64,
    "pbr": 0x65, "pbl bit": 0x66, "pbr bit": 0x67, "pzl": 0x68, "pzr": 0x69, "pzl bit": 0x6A,
    "pzr bit": 0x6B, "sx label": 0x6C, "ux": 0x6D, "rx": 0x6E, "push x": 0x6F, "push lp": 0x70,
    "push plp": 0x71, "pop lp": 0x72, "log st": 0x73, "purge st": 0x74, "trace lv": 0x75,
    "trace gv": 0x76, "trace pv": 0x77, "push sbp": 0x78, "pop sbp": 0x79, "push tsp": 0x7A,
    "pop tsp": 0x7B, "push sbp,slot": 0x7C, "pop sbp,slot": 0x7D, "push tsp,slot": 0x7E,
    "pop tsp,slot": 0x7F, "copy sbp,slot": 0x80, "copy tsp,slot": 0x81, "push stp": 0x82,
    "pop stp": 0x83, "save sbp": 0x84, "restore sbp": 0x85, "save tsp": 0x86,
    "restore tsp": 0x87, "copy sbp": 0x88, "copy tsp": 0x89, "log": 0x8A, "log lv": 0x8B,
    "log gv": 0x8C, "callk": 0x8D, "malloc": 0x8E, "free": 0x8F, "push wid": 0x90,
    "pushh u8,count": 0x91, "pushh u16,count": 0x92, "pushh u32,count": 0x93,
    "pushh u64,count": 0x94, "poph u8,count": 0x95, "poph u16,count": 0x96,
    "poph u32,count": 0x97, "poph u64,count": 0x98, "seg2lin": 0xB0, "push io,u8": 0xB1,
    "push io,u16": 0xB2, "push io,u32": 0xB3, "pop io,u8": 0xB4, "pop io,u16": 0xB5,
    "pop io,u32": 0xB6,
}  # fmt: skip
OURS = {
    "push tid": 0x99, "push uid": 0x9A, "push gid": 0x9B, "push time": 0x9C, "push comm": 0x9D,
    "push a,argument": 0xA0, "push f,argument": 0xA1, "push e,kept": 0xA2, "pop e,kept": 0xA3,
    "push addr,symbol": 0x9E, "push tls,symbol": 0x9F,
    "log ustack": 0xE8, "log ustack,depth": 0xE9, "log kstack": 0xEA, "log kstack,depth": 0xEB,
    "log i8": 0xC0, "log i8,name": 0xC1, "log i16": 0xC2, "log i16,name": 0xC3, "log i32": 0xC4,
    "log i32,name": 0xC5, "log i64": 0xC6, "log i64,name": 0xC7, "log u8": 0xC8,
    "log u8,name": 0xC9, "log u16": 0xCA, "log u16,name": 0xCB, "log u32": 0xCC,
    "log u32,name": 0xCD, "log u64": 0xCE, "log u64,name": 0xCF, "log f32": 0xD0,
    "log f32,name": 0xD1, "log f64": 0xD2, "log f64,name": 0xD3, "log hex": 0xD4,
    "log hex,name": 0xD5, "log ptr": 0xD6, "log ptr,name": 0xD7, "exit facility once": 0xE0,
    "key count": 0xD8, "key str": 0xD9, "key comm": 0xDA, "madd map": 0xDB, "minc map": 0xDC,
    "mget map": 0xDD, "mhas map": 0xDE, "mset map": 0xDF, "mdel map": 0xE1, "key ustack": 0xE2,
    "key ustack,depth": 0xE3, "key text,count": 0xE4, "push text,count": 0xE5,
    "mload cell": 0xE6, "mstore cell": 0xE7, "key kstack": 0xEC, "key kstack,depth": 0xED,
}  # fmt: skip

SAMPLE = {
    Operand.WORD: "0x123456789abcdef0",
    Operand.U16: "1",
    Operand.COUNT16: "3",
    Operand.COUNT8: "2",
    Operand.SHIFT: "7",
    Operand.BIT: "64",
    Operand.DEPTH: "9",
    Operand.ARGUMENT: "63",
    Operand.FLOAT: "6",
    Operand.KEPT: "7",
    Operand.SLOT: "-5",
    Operand.LABEL: "there",
    Operand.REGISTER: "rax",
    Operand.FACILITY: "trace",
    Operand.NAME: "result",
    Operand.SYMBOL: "environ",
}


def source_of(instruction: Instruction) -> str:
    """The instruction with an operand, as source text."""
    if not instruction.operands:
        return instruction.key
    kind = instruction.operands[0]
    if instruction.suffix:
        return f"{instruction.spelling} dump {instruction.suffix}"
    if kind is Operand.CELL:
        return f"{instruction.spelling} words"
    if kind is Operand.MAP:
        return f"{instruction.spelling} {'sums' if instruction.name == 'madd' else 'words'}"
    return instruction.key.removesuffix(kind.text) + SAMPLE[kind]


def test_every_instruction_has_its_number() -> None:
    assert {i.key: i.opcode for i in INSTRUCTIONS} == ORIGINAL | OURS


def test_every_instruction_belongs_to_a_group_and_says_what_it_does() -> None:
    for instruction in INSTRUCTIONS:
        assert instruction.group in GROUPS
        assert instruction.meaning.endswith(".")
        assert len(instruction.operands) <= 1


@pytest.mark.parametrize("instruction", INSTRUCTIONS, ids=lambda i: i.key)
def test_every_instruction_can_be_written_and_comes_back(instruction: Instruction) -> None:
    """Assembled, verified (in a kernel program, which may use all) and disassembled."""
    body = "push 1\n" * 5 + "call sub\nexit\n"
    offset = 5 * 9 + 5 + 1
    if instruction.group == "functions":
        body = f"at = return\nentry:\n{body}return:\nexit\n"
        offset += 1
    # A key is used up by what follows it.
    used = "minc keys\n" if instruction.name.startswith("key") else ""
    body += f"sub:\n{source_of(instruction)}\n{used}there:\nret\n"
    keys = "2" if instruction.name == "key" else "1"
    maps = f"map = sums, sum\nmap = words, value\nmap = keys, count, keys={keys}\n"
    source = f"name = kernel\nmodtype = kernel\nvars = 2\ngvars = 2\n{maps}offset = f\n{body}"
    program = assemble(source, "all.rpn")
    decoded, _, _ = decode_at(program.code, offset)
    assert decoded is instruction
    written = [line.split("//")[0].strip() for line in disassemble(program).splitlines()]
    expected = source_of(instruction).replace("there", "L2")
    assert expected in written


@pytest.mark.parametrize("instruction", INSTRUCTIONS, ids=lambda i: i.key)
def test_encoding_is_read_back_at_both_ends_of_each_range(instruction: Instruction) -> None:
    for value in (None,) if not instruction.operands else ("low", "high"):
        operands = () if value is None else (getattr(instruction.operands[0], value),)
        code = b"\x00" + encode_one(instruction, operands) + b"\x00"
        assert decode_at(code, 1) == (instruction, operands, len(code) - 1)
        for short in range(2, len(code) - 1):
            with pytest.raises(DecodeError, match="cut short"):
                decode_at(code[:short], 1)


def test_a_negative_word_is_its_two_s_complement() -> None:
    _, operands, _ = decode_at(encode_one(BY_KEY["push word"], (-1,)), 0)
    assert operands == (0xFFFF_FFFF_FFFF_FFFF,)


@pytest.mark.parametrize("opcode", [0x16, 0x4A, 0xA4, 0xAF, 0xB7, 0xFF])
def test_other_opcodes_are_no_instructions(opcode: int) -> None:
    with pytest.raises(DecodeError, match="unknown opcode"):
        decode_at(bytes((opcode,)), 0)


@pytest.mark.parametrize("offset", [-1, 1, 1000])
def test_outside_of_the_code_is_no_instruction(offset: int) -> None:
    with pytest.raises(DecodeError, match="outside"):
        decode_at(b"\x00", offset)


@pytest.mark.parametrize(
    ("key", "operands", "effect"),
    [
        ("add", (), (2, -1)),
        ("div", (), (2, 0)),
        ("jz label", (0,), (1, 0)),
        ("move lv,index", (0,), (1, 0)),
        ("move lv", (), (2, -1)),
        ("pop lv", (), (2, -2)),
        ("log count", (5,), (5, -5)),
        ("log", (), (1, None)),
        ("dup count", (3,), (1, 3)),
        ("dup", (), (2, None)),
        ("ros count", (3,), (3, -3)),
        ("pushh u8,count", (4,), (2, 2)),
        ("poph u8,count", (4,), (6, -6)),
        ("push x", (), (0, 3)),
        ("push comm", (), (0, 2)),
        ("restore tsp", (), (1, None)),
    ],
)
def test_effect_on_the_stack(key: str, operands: tuple[int, ...], effect: object) -> None:
    assert BY_KEY[key].effect(operands) == effect


@pytest.mark.parametrize(
    ("name", "push", "pop"),
    [
        ("rax", (0, 1), (1, -1)),
        ("xmm15", (0, 2), (2, -2)),
        ("fr0", (0, 2), (2, -2)),
        ("msr", (1, 0), (1, -1)),
        ("cpuid", (1, 3), (4, -4)),
    ],
)
def test_effect_of_registers(name: str, push: object, pop: object) -> None:
    index = next(i for i, register in enumerate(REGISTERS) if register.name == name)
    assert BY_KEY["push r,register"].effect((index,)) == push
    assert BY_KEY["pop r,register"].effect((index,)) == pop


def test_registers() -> None:
    names = [register.name for register in REGISTERS]
    assert len(set(names)) == len(names) <= 256
    wanted = "rax rbx rcx rdx rsi rdi rbp rsp r8 r15 rip rflags eax r8d eflags cs ss ds es fs gs"
    wanted += " fs_base gs_base fcw fsw ftw mxcsr fr0 fr7 xmm0 xmm15 cr0 cr2 cr3 cr4 dr0 dr7"
    wanted += " gdtr idtr ldtr tr msr cpuid"
    assert set(wanted.split()) <= set(names)
    never = "cs ss ds es fs gs fs_base gs_base cr0 cr2 cr3 cr4 dr0 dr7 gdtr idtr ldtr tr"
    for register in REGISTERS:
        if register.name in never.split():
            assert not register.may_pop(kernel=False)
            assert not register.may_pop(kernel=True)
        if register.name in ("rip", "rsp", "rflags"):
            assert register.may_pop(kernel=False)
            assert not register.may_pop(kernel=True)


def test_every_exception_is_described() -> None:
    assert [info.code for info in EXCEPTIONS] == list(ExCode)
    assert all(code.bit_count() == 1 for code in ExCode)
