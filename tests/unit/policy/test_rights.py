"""Which right each instruction needs, and what is read off whole programs."""

from __future__ import annotations

import pytest

from dprobed.policy.rights import Right, needs, right_of, words
from dprobed.program.bytecode import decode, encode
from dprobed.program.isa import INSTRUCTIONS, Instruction, Operand
from dprobed.program.model import select
from dprobed.program.rpn.parser import assemble

#: Every instruction that needs more than to observe; all others are asked for here, too.
MORE = {
    "pop r,register": Right.ALTER,
    "pop u,register": Right.ALTER,
    "pop mem,u8": Right.ALTER,
    "pop mem,u16": Right.ALTER,
    "pop mem,u32": Right.ALTER,
    "pop mem,u64": Right.ALTER,
    # What is read from a port is often gone from its device.
    "push io,u8": Right.ALTER,
    "push io,u16": Right.ALTER,
    "push io,u32": Right.ALTER,
    "pop io,u8": Right.ALTER,
    "pop io,u16": Right.ALTER,
    "pop io,u32": Right.ALTER,
    "callk": Right.ALTER,
    "suspend": Right.DEBUG,
    "resume": Right.DEBUG,
}


@pytest.mark.parametrize("instruction", INSTRUCTIONS, ids=lambda each: each.key)
def test_every_instruction(instruction: Instruction) -> None:
    operands = (0,) * len(instruction.operands)
    wanted = MORE.get(instruction.key, Right.OBSERVE)
    assert right_of(instruction, operands, ("trace",)) is wanted


def test_the_list_names_instructions() -> None:
    assert MORE.keys() <= {each.key for each in INSTRUCTIONS}
    assert sum(Operand.FACILITY in each.operands for each in INSTRUCTIONS) == 2


def source(*bodies: str) -> str:
    probes = [f"offset = f\ngroup = {n}\n{body}" for n, body in enumerate(bodies)]
    return "name = a\n" + "\n".join(probes) + "\n"


@pytest.mark.parametrize(
    ("body", "rights"),
    [
        ("exit", {"observe": ""}),
        ("exit trace", {"observe": ""}),
        ("exit mailer", {"observe": ""}),
        ("exit dump", {"observe": "", "dump": "`exit` in x.rpn:4:1"}),
        ("exit 3", {"observe": "", "dump": "`exit` in x.rpn:4:1"}),
        ("exit dump once", {"observe": "", "dump": "`exit` in x.rpn:4:1"}),
        ("exit debugger", {"observe": "", "debug": "`exit` in x.rpn:4:1"}),
        ("exit 1", {"observe": "", "debug": "`exit` in x.rpn:4:1"}),
        ("push r,rdi\npop r,eax\nexit", {"observe": "", "alter": "`pop r` in x.rpn:5:1"}),
        ("exit\nl:\nsuspend\njmp l", {"observe": "", "debug": "`suspend` in x.rpn:6:1"}),
        (
            "push 1\ndup 2\npop mem,u8\njz o\nexit dump\no:\nexit debugger",
            {
                "observe": "",
                "alter": "`pop mem,u8` in x.rpn:6:1",
                "dump": "`exit` in x.rpn:8:1",
                "debug": "`exit` in x.rpn:10:1",
            },
        ),
    ],
)
def test_programs(body: str, rights: dict[str, str]) -> None:
    program = assemble(source(body), "x.rpn")
    assert needs(program) == rights
    assert needs(decode(encode(program))) == rights


def test_only_the_probes_that_are_selected_count() -> None:
    program = assemble(source("exit", "exit dump", "push 0\npop r,rax\nexit"), "x.rpn")
    assert set(needs(program)) == {Right.OBSERVE, Right.DUMP, Right.ALTER}
    assert set(needs(select(program, frozenset({0})))) == {Right.OBSERVE}
    only = decode(encode(select(program, frozenset({1}))))
    assert set(needs(only)) == {Right.OBSERVE, Right.DUMP}


def test_words() -> None:
    assert words([Right.DEBUG, Right.OBSERVE]) == "observe, debug"
    assert words([]) == "nothing"
