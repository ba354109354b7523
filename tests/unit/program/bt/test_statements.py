"""Statements: each is run."""

from __future__ import annotations

from typing import Any

import pytest

from dprobed.program.exits import BUDGET
from tests.unit.program.bt.running import Running, refused, said


def prints(*values: Any) -> list[Any]:
    return [("Print", each) for each in values]


CASES: list[tuple[str, str, list[Any]]] = [
    ("a predicate", "/arg0 > 4 && arg1 < 9/ { print(1) }", prints(1)),
    ("a predicate that does not hold", "/arg0 > 10/ { print(1) }", []),
    ("a division in a predicate", "/arg0 / 5 == 1 / { print(1) }", prints(1)),
    ("a condition behind if", "if arg0 == 5 { print(1) }", prints(1)),
    ("if", "{ if (arg0 == 5) { print(1) } print(2) }", prints(1, 2)),
    (
        "else if",
        "{ if (arg1 == 1) { print(1) } else if (arg1 == 6) { print(2) } else { print(3) } }",
        prints(2),
    ),
    ("else", "{ if arg1 == 1 { print(1) } else { print(3) } }", prints(3)),
    ("while", "{ $i = 0; while ($i < 3) { print($i); $i++ } }", prints(0, 1, 2)),
    (
        "break and continue",
        "{ $i = 0; while (1) { if ($i == 2) { break } $i++; if ($i == 1) { continue; } "
        "print($i); } print(9) }",
        prints(2, 9),
    ),
    (
        "a range",
        "{ for ($i : 2..5) { if ($i == 3) { continue } print($i) } }",
        prints(2, 4),
    ),
    ("a range without brackets", "{ for $i : 0..2 { print($i) } }", prints(0, 1)),
    ("an empty range", "{ for ($i : 5..2) { print($i) } print(0) }", prints(0)),
    (
        "a range that is left",
        "{ for ($i : 0..9) { for ($j : 0..9) { if ($j == 1) { break } print($i) } "
        "if ($i == 1) { break } } }",
        prints(0, 1),
    ),
    ("a range is taken once", "{ $a = 2; for ($i : 0..$a) { print($i); $a-- } }", prints(0, 1)),
    ("unroll", "{ $x = 1; unroll(3) { $x *= 2; } print($x) }", prints(8)),
    ("return", "{ print(1); if (arg0) { return; } print(2) }", prints(1)),
    ("return in a loop", "{ while (1) { for ($i : 0..3) { return } } print(2) }", []),
    ("a block", "{ $x = 1; { $y = 2; $x = $y } print($x) }", prints(2)),
    ("a variable of its own", "{ let $x = 1; { let $x = 2; print($x) } print($x) }", prints(2, 1)),
    ("let", "{ let $x; if (arg2) { $x = 7 } print($x) }", prints(0)),
    ("let with a type", "{ let $x: uint64 = 3; print($x) }", prints(3)),
    (
        "steps",
        "{ $x = 5; print($x++); print(++$x); print($x--); print(--$x); $x++; print($x) }",
        prints(5, 7, 7, 5, 6),
    ),
    (
        "compound",
        "{ $x = 7; $x += 3; $x -= 2; $x *= 3; $x /= 4; print($x); $x <<= 4; $x |= 1; "
        "$x ^= 2; $x &= 0xf3; $x >>= 1; $x %= 30; print($x) }",
        prints(6, 19),
    ),
    ("a choice as a statement", "{ arg0 == 5 ? print(1) : print(2); }", prints(1)),
    ("discarded", "{ _ = arg0; print(1) }", prints(1)),
    ("a tuple", '{ $t = (arg0, "x", (arg1, 3)); print($t.2.0); print($t) }',
     prints(6, (5, "x", (6, 3)))),
    ("exit", "{ print(1); exit(3); print(2) }", [("Print", 1), ("Exit", 3)]),
    ("assert", '{ assert(arg0 == 5, "no"); print(1); assert(arg0 == 6, "bad"); print(2) }',
     [("Print", 1), ("Printf", "bad\n"), ("Exit", 1)]),
    ("printf", '{ printf("%d %s %5.2x%%\\n", arg0, comm, pid) }',
     [("Printf", "%d %s %5.2x%%\n", 5, "target", 100)]),
    ("in the order of writing", '{ $i = 1; printf("%d %d %d", $i++, $i++, $i) }',
     [("Printf", "%d %d %d", 1, 2, 3)]),
    ("time", '{ time("%H"); time() }', [("PrintTime", "%H"), ("PrintTime", "%H:%M:%S\n")]),
    ("shown in its own way", '{ printf("%s %s", strftime("%S", nsecs), usym(arg0)) }',
     [("Printf", "%s %s", 5_000_000_000, 5)]),
]  # fmt: skip


@pytest.mark.parametrize(("name", "body", "wanted"), CASES, ids=[each[0] for each in CASES])
def test_a_statement_does(name: str, body: str, wanted: list[Any]) -> None:
    assert said(f"uprobe:m:f {body}", rdi=5, rsi=6) == wanted


def test_nothing_said_is_no_record() -> None:
    running = Running("uprobe:m:f /arg0/ { if (arg1) { print(1) } }")
    for rdi, rsi, exit_ in ((0, 0, -1), (1, 0, -1), (1, 1, 0)):
        running.thread(rdi=rdi, rsi=rsi)
        running.hit()
        assert running.outcome is not None
        assert (running.outcome.exit != 0) == bool(exit_)


def test_a_loop_without_end_is_ended() -> None:
    running = Running("uprobe:m:f { print(1); while (1) { } }")
    # By one executor only: walking takes long.
    outcome = running.programs[0].python.entry(0)(running.thread())
    assert running.read(outcome) == [("Print", 1)]
    assert outcome.exit == BUDGET


def test_functions_at_their_return() -> None:
    running = Running("uretprobe:m:f { print(retval); print(arg0); print(arg7) }")
    from tests.programs.cases import Region

    stack = Region(0x7000, bytearray(64), True)
    stack.data[16:24] = (77).to_bytes(8, "little")
    running.thread([stack], rdi=5, rax=9, rsp=0x7000)
    assert running.hit() == prints(9, 5, 77)


class Placed:
    """A world in which names without a module are in `m`."""

    def __new__(cls) -> Any:
        from dprobed.program.bt.world import NoWorld

        class World(NoWorld):
            def module(self, function: str) -> str | None:
                return "m"

        return World()


def test_elapsed_at_a_return_is_how_long_the_call_took() -> None:
    running = Running("handle:return { print(elapsed) }", None, Placed())
    running.thread()
    running.programs[0].run(0, running.context, entry_part=True)
    running.context._time += 1234
    assert running.hit(enter=False) == prints(1234)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("{ break; }", "`break` outside of any loop"),
        ("{ $x = 1; $x = comm; }", "$x is int64, and cannot be string as well"),
        ("{ $x++ }", "$x has no value here"),
        ("{ if (1) { $y = 1 } print($y) }", "$y has no value here"),
        ("{ pid = 3 }", "this cannot be set"),
        ("{ unroll(arg0) { } }", "so many times: a number above 0"),
        ("{ for ($i : comm..3) { } }", "a range is of numbers"),
        ("{ if (comm) { } }", "a condition is a number, not string"),
        ('{ printf("%d") }', "the format has 1 conversions, and there are 0 values"),
        ('{ printf("%s", arg0) }', "%s shows a text, not uint64"),
        ('{ printf("%d", comm) }', "%d shows a number, not string"),
        ("{ printf(comm) }", "the format of `printf` is a text in quotes"),
        ('{ system("ls") }', "`system` runs commands, which is unsafe"),
        ("{ print(exit()) }", "this has no value to print"),
        ('{ static_assert(1 == 2, "never") }', "never"),
    ],
)
def test_what_cannot_be_is_refused(body: str, message: str) -> None:
    assert message in refused(f"uprobe:m:f {body}")
