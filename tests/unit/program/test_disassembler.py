"""The disassembler: what it writes is assembled to the same bytes."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dprobed.program.builder import Builder
from dprobed.program.bytecode import decode, encode
from dprobed.program.disassembler import disassemble
from dprobed.program.isa import INSTRUCTIONS, STACK_WORDS, Instruction, Operand
from dprobed.program.model import ProgramError, select
from dprobed.program.registers import REGISTERS
from dprobed.program.rpn.parser import assemble, load_file

ROOT = Path(__file__).parents[3]
PROGRAMS = [
    *sorted((ROOT / "etc" / "examples").glob("*.rpn")),
    ROOT / "tests" / "programs" / "golden" / "everything.rpn",
]


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.stem)
def test_same_bytes(path: Path) -> None:
    program = load_file(path)
    text = disassemble(program)
    assert encode(assemble(text, "elsewhere.rpn")) == encode(program)


def test_what_it_looks_like() -> None:
    source = """
        name = x
        gvars = 2

        offset = malloc
        minor = 3
        loop: push -1
        push 0x12345
        jnz loop
        push gv , 1
        exit dump

        address = "two words"
        watchpoint = w
        call sub
        sub: abort
    """
    assert disassemble(assemble(source, "x.rpn")) == (
        '#line 2 "x.rpn"\n'
        "        name = x\n"
        "gvars = 2\n"
        "\n"
        "        offset = malloc\n"
        "minor = 3\n"
        "L1:\n"
        "#line 7\n"
        "              push -1                         // 0x0000\n"
        "        push 0x12345                    // 0x0009\n"
        "        jnz L1                          // 0x0012\n"
        "        push gv,1                       // 0x0017\n"
        "        exit dump                       // 0x001a\n"
        "\n"
        '        address = "two words"\n'
        "watchpoint = w\n"
        "        call L2                         // 0x001d\n"
        "L2:\n"
        "#line 16\n"
        "             abort                           // 0x0022\n"
    )


def test_a_program_that_never_had_a_source() -> None:
    builder = Builder(name="x")
    builder.probe(offset="malloc")
    builder.add("push word", 7)
    program = builder.build()
    text = disassemble(program)
    assert text == (
        "name = x\n"
        "\n"
        "offset = malloc\n"
        "    push 7                          // 0x0000\n"
        "    exit                            // 0x0009\n"
    )
    again = assemble(text, "made.rpn")
    assert (again.code, again.probes) == (program.code, program.probes)


@pytest.mark.parametrize("group", [1, 2])
def test_a_part_of_a_program_is_refused(group: int) -> None:
    source = "name = x\noffset = a\ngroup = 1\ncall s\nexit\noffset = b\ngroup = 2\nexit\ns: ret\n"
    part = select(assemble(source, "x.rpn"), frozenset({group}))
    with pytest.raises(
        ProgramError, match=rf"part of .* \(probes {group - 1}\).*\n.*whole program"
    ):
        disassemble(decode(encode(part)))
    assert disassemble(select(assemble(source, "x.rpn"), frozenset({1, 2})))


# -- generated programs ------------------------------------------------------------------------

_TEXT = st.text(st.characters(exclude_categories=("C", "Z")), min_size=1, max_size=12)


def quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _operand(draw: st.DrawFn, instruction: Instruction, labels: int) -> str:
    kind = instruction.operands[0]
    if kind is Operand.LABEL:
        return f"label{draw(st.integers(0, labels - 1))}"
    if kind is Operand.REGISTER:
        usable = [
            register.name
            for register in REGISTERS
            if not (register.kernel_only and " u" in instruction.name)
            and (register.may_pop(kernel=True) or not instruction.writes)
        ]
        return draw(st.sampled_from(usable))
    if kind is Operand.FACILITY:
        return draw(st.sampled_from(["trace", "dump", "1", "65535"]))
    if kind in (Operand.NAME, Operand.SYMBOL):
        return draw(st.sampled_from(["result", "a", "_b9"]))
    if kind is Operand.CELL:
        return "words"
    if kind is Operand.MAP:
        return "sums" if instruction.name == "madd" else "words"
    if kind is Operand.U16 and instruction.group != "log":
        return str(draw(st.integers(0, 2)))
    return str(draw(st.integers(kind.low, min(kind.high, 1 << 70))))


@st.composite
def sources(draw: st.DrawFn) -> str:
    """Source of kernel programs (which may use every instruction), mostly accepted ones."""
    lines = [f"name = {quoted(draw(_TEXT))}", "modtype = kernel", "vars = 3", "gvars = 3"]
    lines += ["map = sums, stats, signed", "map = words, value, size=9", "map = k, count, keys=1"]
    probes = draw(st.integers(1, 3))
    for probe in range(probes):
        keyword = draw(st.sampled_from(["offset", "address"]))
        # Behind a colon an address has a length, which only a watchpoint may have.
        lines.append(f"{keyword} = {quoted(draw(_TEXT).replace(':', '.'))}")
        lines.append(f"minor = {draw(st.integers(1, 65535))}")
        lines.append(f"ex_mask = {draw(st.integers(0, 65535))}")
        among = [i for i in INSTRUCTIONS if Operand.KEPT not in i.operands]
        if draw(st.booleans()):
            lines += ["at = return", "entry:", "push 1", f"pop e,{draw(st.integers(0, 7))}"]
            skip = f"skip{probe}"
            jumps = ["push f,1", f"jz {skip}", "abort", f"{skip}: abort"]
            lines += draw(st.sampled_from([[], ["exit"], jumps]))
            lines.append("return:")
            among = [i for i in INSTRUCTIONS if i.group != "functions" or i.name == "push e"]
        depth = 0
        steps = draw(st.lists(st.sampled_from(among), min_size=1, max_size=20))
        for number, step in enumerate(steps):
            if step.name.startswith("key"):
                # With what uses it up.
                lines += [f"p{probe}_{number}: push 1", "key 1", "minc k"]
                continue
            operand = ""
            if step.operands:
                separator = "," if " " in step.name else " "
                operand = separator + _operand(draw, step, len(steps)).replace(
                    "label", f"p{probe}_"
                )
                if step.suffix:
                    operand = f" dump {step.suffix}"
            need, change = _effect(step, operand)
            if depth < need:
                fill = min(need - depth, STACK_WORDS)
                lines += ["push 1", *["dup 255"] * (fill // 256), f"dup {fill % 256}"]
                depth += 1 + fill // 256 * 255 + fill % 256
            depth = min(max(depth + (change or 0), 0), 900)
            lines.append(f"p{probe}_{number}: {step.spelling}{operand}")
    return "\n".join(lines) + "\n"


def _effect(step: Instruction, operand: str) -> tuple[int, int | None]:
    word = operand.strip(" ,")
    if Operand.REGISTER in step.operands:
        return step.effect(([r.name for r in REGISTERS].index(word),))
    return step.effect((int(word),) if word.lstrip("-").isdigit() else (0,) * len(step.operands))


@pytest.mark.slow
@settings(max_examples=150)
@given(sources())
def test_generated_programs_come_back(source: str) -> None:
    try:
        program = assemble(source, "generated.rpn")
    except ProgramError as error:
        # Depths are only estimated above; nothing else may be wrong with these programs.
        about = ("stack", "subroutine", "nest")
        assert all(any(word in d.message for word in about) for d in error.diagnostics)
        return
    data = encode(program)
    text = disassemble(program)
    assert encode(assemble(text, "again.rpn")) == data
    assert disassemble(assemble(text, "again.rpn")) == text
