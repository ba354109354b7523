"""How much memory a hit takes for its stack: as much as its program can touch."""

from __future__ import annotations

import pytest

from dprobed.program.exec.lower import lower
from dprobed.program.exec.native.depths import touched_words
from dprobed.program.exec.unit import part_of
from dprobed.program.isa import STACK_WORDS
from dprobed.program.rpn.parser import assemble


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ("sx out\n push r,rdi\n push mem,u64\n log 1\n exit\n out:\n log 3", 3),
        ("sx out\n push 1\n push 2\n push r,rdi\n push mem,u64\n log 1\n exit\n out:\n log 3", 5),
        # The jump can fail, with these on the stack and what the handler gets.
        ("sx out\n push 1\n dup 20\n jmp on\n on:\n log 20\n exit\n out:\n log 3", 24),
        # A loop that ends as it began, and one that does not.
        ("sx out\n push 3\n again:\n push 0\n pop lv,0\n loop again\n exit\n out:\n log 3", 4),
        (
            "sx out\n push 3\n again:\n push 0\n xchg\n loop again\n exit\n out:\n log 3",
            STACK_WORDS,
        ),
        # What only run time tells.
        ("sx out\n push 1\n push 2\n dup\n exit\n out:\n log 3", STACK_WORDS),
        ("sx out\n push 1\n push r,rdi\n push tsp\n exit\n out:\n log 3", STACK_WORDS),
        ("push 1\n call sub\n exit\n sub:\n ret", STACK_WORDS),
    ],
)
def test_the_words_that_a_program_can_touch(lines: str, words: int) -> None:
    program = assemble(f"name = x\nvars = 1\noffset = 0x1000\n {lines}\n exit\n", "x")
    unit = part_of(program, program.probes[0], 0, ()).unit
    assert touched_words(lower(unit)) == words
