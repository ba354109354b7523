"""Arguments of static probes: what native programs are told of where they are."""

from __future__ import annotations

import pytest

from dprobed.arch.x86_64.argument import parse
from dprobed.arch.x86_64.registers import REGISTER_NAMES
from dprobed.engine.static_arguments import placed
from dprobed.program.exec.native.abi import NO_REGISTER, ArgumentKind, argument_words

NUMBERS = {name: REGISTER_NAMES.index(name) for name in ("rax", "rbp", "rcx", "rdi")}


@pytest.mark.parametrize(
    ("text", "words", "registers"),
    [
        ("-4@%edi", argument_words(ArgumentKind.REGISTER, 4, True, 0, NUMBERS["rdi"]), {"rdi"}),
        ("1@%ah", argument_words(ArgumentKind.REGISTER, 1, False, 8, NUMBERS["rax"]), {"rax"}),
        ("2@$17", argument_words(ArgumentKind.CONSTANT, 2, False, 17), set()),
        (
            "2@-16(%rbp)",
            argument_words(ArgumentKind.MEMORY, 2, False, -16, NUMBERS["rbp"]),
            {"rbp"},
        ),
        (
            "8@(%rax,%rcx,8)",
            argument_words(ArgumentKind.MEMORY, 8, False, 0, NUMBERS["rax"], NUMBERS["rcx"], 8),
            {"rax", "rcx"},
        ),
        ("4@counter(%rip)", argument_words(ArgumentKind.MEMORY, 4, False, 0x7100), set()),
        ("8f@%xmm3", argument_words(ArgumentKind.SSE, 8, False, 0, 3, NO_REGISTER), set()),
    ],
)
def test_each_form_is_told_with_the_registers_that_it_needs(
    text: str, words: tuple[int, int], registers: set[str]
) -> None:
    found = placed(parse(text, lambda _: 0x100), bias=0x7000)
    assert found.words == words
    assert found.registers == {NUMBERS[name] for name in registers}
    assert found.is_vector is ("xmm" in text)
