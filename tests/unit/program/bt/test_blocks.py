"""Blocks that whoever shows the output runs: suspending, loops over maps, reading aggregates."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.program.bt.running import Running, refused

COUNTED = "uprobe:m:f { @c[arg0] = count() }"
ENTRIES: dict[str, list[tuple[list[Any], int]]] = {
    "@c": [([1], 5), ([2], 7)],
    "@t": [(["x", 5], 1), (["y", 6], 2)],
}

CASES: list[tuple[str, str, list[Any]]] = [
    ("begin", 'begin { printf("hi\\n"); }', [("Printf", "hi\n")]),
    ("a map", "begin { @a = 5; @a++; print(@a + 1) }", [("Print", 7)]),
    (
        "a loop",
        "begin { $s = 0; for ($kv : @c) { print($kv.0); $s += $kv.1; } print($s) }",
        [("Print", 1), ("Print", 2), ("Print", 12)],
    ),
    (
        "a loop that is left",
        "begin { for ($kv : @c) { print($kv.0); break } print(9) }",
        [("Print", 1), ("Print", 9)],
    ),
    (
        "a loop that goes on",
        "begin { for ($kv : @t) { if ($kv.0.1 == 5) { continue } print($kv.0.0); print($kv) } }"
        "uprobe:m:g { @t[comm, arg0]++ }",
        [("Print", "y"), ("Print", (("y", 6), 2))],
    ),
    (
        "two loops",
        "begin { for ($kv : @c) { print($kv.0) } for ($kv : @c) { print($kv.1) } }",
        [("Print", 1), ("Print", 2), ("Print", 5), ("Print", 7)],
    ),
    (
        "a loop in a loop",
        "begin { for ($a : @c) { for ($b : @c) { print(($a.0, $b.0)) } print($a) } print(3) }",
        [("Print", (1, 1)), ("Print", (1, 2)), ("Print", (1, 5)), ("Print", (2, 1)),
         ("Print", (2, 2)), ("Print", (2, 7)), ("Print", 3)],
    ),
    ("return in a loop", "begin { for ($a : @c) { print($a.0); return; } print(3) }",
     [("Print", 1)]),
    ("an aggregate", 'begin { if (@c[1] > 4) { print("big") } print(@c[2] + len(@c)) }',
     [("Print", "big"), ("Print", 9)]),
    ("a key", "begin { print(has_key(@c, 2)); print(has_key(@c, 9)) }",
     [("Print", True), ("Print", False)]),
    ("an aggregate in a loop",
     "begin { $i = 1; while (@c[$i] > 0) { print($i); $i++ } print(0) }",
     [("Print", 1), ("Print", 2), ("Print", 0)]),
    ("an aggregate in a predicate", "begin /@c[1] == 5/ { print(1) }", [("Print", 1)]),
    ("whole maps", "begin { print(@c); clear(@c); zero(@c) }",
     [("PrintMap", "@c"), ("Clear", "@c"), ("Zero", "@c")]),
    ("exit", "begin { exit() }", [("Exit", 0)]),
]  # fmt: skip


@pytest.mark.parametrize(("name", "script", "wanted"), CASES, ids=[each[0] for each in CASES])
def test_a_block(name: str, script: str, wanted: list[Any]) -> None:
    running = Running(f"{script} {COUNTED}")
    running.thread()
    running.entries = ENTRIES
    assert running.fire("begin") == wanted
    # And again: nothing is left of how far it was.
    assert running.fire("begin")[: len(wanted)] == wanted or "@a" in script


def test_blocks_say_what_fires_them() -> None:
    running = Running(
        "BEGIN { } interval:s:2 { } i:ms:10 { } interval:hz:50 { } interval:3s { } "
        "self:signal:SIGUSR1 { } end { } " + COUNTED
    )
    found = [(each.kind, each.period, each.signal, each.name) for each in running.bundle.blocks]
    assert found == [
        ("begin", 0, "", "BEGIN"),
        ("interval", 2_000_000_000, "", "interval:s:2"),
        ("interval", 10_000_000, "", "i:ms:10"),
        ("interval", 20_000_000, "", "interval:hz:50"),
        ("interval", 3_000_000_000, "", "interval:3s"),
        ("signal", 0, "SIGUSR1", "self:signal:SIGUSR1"),
        ("end", 0, "", "end"),
    ]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("print(arg0)", "`arg0` is of a function, and a block has none"),
        ('print(reg("ax"))', "a block has no registers"),
        ("print(ustack())", "`ustack` is of a process, and a block has none"),
        ("dump()", "`dump` is of a process, and a block has none"),
        ("for ($kv : @c) { $kv = 3 }", "$kv is what the loop is at"),
    ],
)
def test_what_a_block_cannot_is_refused(body: str, message: str) -> None:
    assert message in refused(f"begin {{ {body} }} {COUNTED}")
