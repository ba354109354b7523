"""The walk of a stack: rules of any kind, and an end with its reason on any memory."""

from __future__ import annotations

import random
from typing import Any, cast

import pytest

from dprobed.arch.x86_64.registers import REGISTER_NAMES, RSP
from dprobed.program.user_stack import ADDRESS, StackEnd, UserStack, module_bytes
from dprobed.tracer.stacks.layout import Code, Layout
from dprobed.tracer.stacks.walk import Walker
from dprobed.wire.resolver import How, Rule

STACK = 0x7000_0000
FILE = module_bytes("/bin/x", "ab")
RETURNS = How(16, 2, -8, b"")
PLAIN = Rule(7, 8, b"", (RETURNS,), 16, False)
END = Rule(7, 8, b"", (How(16, 1, 0, b""),), 16, False)
OUTERMOST = 0x9000


class FakeLayout:
    """Code by ranges of 0x1000 bytes; what is not there is no code."""

    def __init__(self, rules: dict[int, Rule | None]) -> None:
        self.rules = rules
        self.asked: list[int] = []

    def code(self, address: int, tid: int) -> Code | None:
        self.asked.append(address)
        page = address & -0x1000
        return Code(FILE, 0, self.rules[page]) if page in self.rules else None


class FakeHit:
    """A thread with a stack of words."""

    tid = 7

    def __init__(self, words: list[int], **registers: int) -> None:
        self.data = b"".join(word.to_bytes(8, "little") for word in words)
        self.regs = cast(Any, [0] * len(REGISTER_NAMES))
        self.regs[RSP] = STACK
        for name, value in registers.items():
            self.regs[REGISTER_NAMES.index(name)] = value
        self.reads = 0

    def read_partial(self, address: int, length: int) -> bytes:
        self.reads += 1
        at = address - STACK
        return self.data[at : at + length] if 0 <= at < len(self.data) else b""


def walk(rules: dict[int, Rule | None], hit: FakeHit, depth: int = 100) -> UserStack:
    layout = FakeLayout({OUTERMOST: END, **rules})
    return Walker(cast(Layout, layout), lambda address: address).walk(hit, depth)


def addresses(stack: UserStack) -> list[int]:
    return [frame & ADDRESS for frame in stack.frames]


def test_return_addresses() -> None:
    hit = FakeHit([0x1105, 0x2205, 0x9005], rip=0x1000)
    found = walk({0x1000: PLAIN, 0x2000: PLAIN}, hit)
    assert addresses(found) == [0x1000, 0x1105, 0x2205, 0x9005]
    assert (found.end, list(found.modules), hit.reads) == (StackEnd.WHOLE, [FILE], 1)


def test_a_call_as_the_last_instruction_of_a_function() -> None:
    """The place that is returned to is another function's; the caller's rule counts."""
    bigger = PLAIN._replace(cfa_offset=16)
    found = walk(
        {0x1000: PLAIN, 0x2000: bigger, 0x3000: END}, FakeHit([0x3000, 7, 0x9005], rip=0x1000)
    )
    assert addresses(found) == [0x1000, 0x3000, 0x9005]
    assert found.end == StackEnd.WHOLE


def test_the_depth_that_was_asked_for() -> None:
    rules: dict[int, Rule | None] = {0x1000: PLAIN, 0x2000: PLAIN}
    hit = FakeHit([0x1105, 0x2205, 0x9005], rip=0x1000)
    for depth in range(1, 6):
        found = walk(rules, hit, depth)
        assert len(found.frames) == min(depth, 4)
        assert found.end == (StackEnd.DEPTH if depth < 4 else StackEnd.WHOLE)


def test_registers_are_found_where_inner_frames_kept_them() -> None:
    """A CFA that is counted from rbx, which the frame before saved, and that before it did not."""
    keeps = Rule(7, 16, b"", (How(3, 2, -16, b""), RETURNS), 16, False)
    by_rbx = Rule(3, 24, b"", (RETURNS,), 16, False)
    hit = FakeHit([0x1105, STACK + 24, 0x2205, 5, 5, 0x9005], rip=0x1000)
    found = walk({0x1000: PLAIN, 0x1100 & -0x1000: PLAIN}, hit, 1)
    assert addresses(found) == [0x1000]
    layout: dict[int, Rule | None] = {0x1000: PLAIN, 0x4000: keeps, 0x2000: by_rbx}
    hit = FakeHit([0x4005, STACK + 24, 0x2205, 5, 5, 0x9005], rip=0x1000, rbx=1)
    assert addresses(walk(layout, hit)) == [0x1000, 0x4005, 0x2205, 0x9005]


@pytest.mark.parametrize(
    ("how", "words"),
    [
        (How(16, 2, -16, b""), [1, 0x2205, 0, 0x9005]),  # in memory
        (How(16, 4, 0, b""), [1, 1, 0, 0x9005]),  # in rax
        (How(16, 5, 0, b"\x23\x08"), [1, 1, 0, 0x9005, 0x2205]),  # at the CFA + 8
        (How(16, 6, 0, b"\x0a\x05\x22"), [1, 1, 0, 0x9005]),  # a number
    ],
)
def test_kinds_of_rules(how: How, words: list[int]) -> None:
    rule = Rule(7, 24, b"", (how,), 16, False)
    hit = FakeHit(words, rip=0x1000, rax=0x2205)
    assert addresses(walk({0x1000: rule, 0x2000: PLAIN}, hit)) == [0x1000, 0x2205, 0x9005]


@pytest.mark.parametrize(
    ("words", "rules", "end", "frames"),
    [
        ([], {0x1000: PLAIN}, StackEnd.UNREADABLE, 1),
        ([0x7777], {0x1000: PLAIN}, StackEnd.NO_CODE, 1),
        ([0], {0x1000: PLAIN}, StackEnd.WHOLE, 1),
        ([0x1105], {0x1000: PLAIN._replace(cfa_offset=-8)}, StackEnd.NOT_GROWING, 1),
        ([0x1105], {0x1000: PLAIN._replace(cfa_offset=0)}, StackEnd.NOT_GROWING, 1),
        ([0x1105], {0x1000: Rule(-1, 0, b"\x06", (RETURNS,), 16, False)}, StackEnd.NO_RULE, 1),
        ([0x1105, 0x1105], {0x1000: PLAIN}, StackEnd.UNREADABLE, 3),
        ([0x1105], {0x1000: None}, StackEnd.NO_CFI, 1),
    ],
)
def test_why_it_ended(
    words: list[int], rules: dict[int, Rule | None], end: StackEnd, frames: int
) -> None:
    found = walk(rules, FakeHit(words, rip=0x1000, rbp=3))
    assert (found.end, len(found.frames)) == (end, frames)


def test_a_signal_that_leads_to_itself_ends() -> None:
    """Behind a signal's frame may be another stack, but not for ever."""
    signal = Rule(7, 0, b"", (How(16, 2, 0, b""), How(7, 3, 0, b"")), 16, True)
    found = walk({0x1000: signal}, FakeHit([0x1100] * 4, rip=0x1000), 255)
    assert found.end == StackEnd.NOT_GROWING
    assert len(found.frames) < 40


def test_a_stack_that_was_walked_before_is_known_by_all_that_it_went_by() -> None:
    """One walker for many hits finds what a new one finds, whatever has changed in between."""
    drawn = random.Random(7)
    framed = Rule(6, 16, b"", (How(6, 2, -16, b""), RETURNS), 16, False)
    pushed = Rule(7, 16, b"", (How(6, 2, -16, b""), RETURNS), 16, False)
    searched = Rule(3, 40, b"", (RETURNS,), 16, False)
    for _ in range(200):
        rules: dict[int, Rule | None] = {
            0x1000 * page: drawn.choice([PLAIN, PLAIN, pushed, framed, searched, None])
            for page in range(1, 8)
        }
        layout = FakeLayout({OUTERMOST: END, **rules})
        walker = Walker(cast(Layout, layout), lambda address: address)
        words = [
            drawn.choice(
                [drawn.randrange(0x1000, 0x8000), OUTERMOST, STACK + 8 * drawn.randrange(24)]
            )
            for _ in range(24)
        ]
        registers = {"rip": 0x1000, "rbp": STACK + 8 * drawn.randrange(24), "rbx": STACK}
        for _ in range(12):
            hit = FakeHit(words, **registers)
            depth = drawn.choice([3, 100, 100])
            found = walker.walk(hit, depth)
            assert found == walk(rules, FakeHit(words, **registers), depth)
            if drawn.random() < 0.4:
                words[drawn.randrange(24)] = drawn.randrange(0x1000, 0x9000)
            if drawn.random() < 0.2:
                registers["rbx"] = STACK + 8 * drawn.randrange(8)


def test_the_same_stack_is_not_walked_again() -> None:
    layout = FakeLayout({OUTERMOST: END, 0x1000: PLAIN, 0x2000: PLAIN})
    walker = Walker(cast(Layout, layout), lambda address: address)
    first = walker.walk(FakeHit([0x1105, 0x2205, 0x9005], rip=0x1000), 100)
    assert walker.walk(FakeHit([0x1105, 0x2205, 0x9005], rip=0x1000), 100) is first
    other = walker.walk(FakeHit([0x1105, 0x1205, 0x9005], rip=0x1000), 100)
    assert addresses(other) == [0x1000, 0x1105, 0x1205, 0x9005]


def test_any_memory_ends() -> None:
    """Whatever is on the stack: no more frames than were asked for, few reads."""
    drawn = random.Random(4)
    offsets = (-16, -8, 0, 3, 8)
    hows = [
        How(number, kind, offset, b"\x77\x08\x06")
        for number in (3, 6, 7, 16)
        for kind in range(7)
        for offset in offsets
    ]
    for _ in range(3000):
        rules: dict[int, Rule | None] = {
            0x1000 * page: Rule(
                drawn.choice([7, 6, 3, -1, 16, 12]),
                drawn.choice([8, 16, -8, 0, 1 << 40, 3]),
                drawn.choice([b"\x77\x10", b"\x76\x78\x06", b""]),
                tuple(drawn.sample(hows, drawn.randrange(4))),
                drawn.choice([16, 16, 16, 3, 40]),
                drawn.random() < 0.2,
            )
            if drawn.random() < 0.9
            else None
            for page in range(1, 8)
        }
        words = [
            drawn.choice(
                [drawn.randrange(0x1000, 0x8000), STACK + 8 * drawn.randrange(40), 0, 1 << 63]
            )
            for _ in range(32)
        ]
        hit = FakeHit(words, rip=0x1000, rbp=STACK + 8 * drawn.randrange(32), rbx=STACK)
        found = walk(rules, hit, 50)
        assert len(found.frames) <= 50
        assert hit.reads < 2000
