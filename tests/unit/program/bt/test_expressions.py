"""What expressions are worth: each is run."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.program.bt.running import Running, refused, said, value

WORTH: list[tuple[str, Any]] = [
    ("1 + 2 * 3", 7),
    ("(1 + 2) * 3", 9),
    ("-7 / 2", -3),
    ("-7 % 2", -1),
    ("arg0 / 0", 0),
    ("arg0 % (arg1 - 6)", 0),
    ("arg1 * arg0 + 1", 31),
    ("arg0 ^ arg1", 3),
    ("arg0 | 8", 13),
    ("arg0 & 4", 4),
    ("~0", -1),
    ("-(int64)arg0", -5),
    ("1 << 4", 16),
    ("arg1 << arg0", 192),
    ("-5 >> 1", -3),
    ("(int64)-64 >> arg0", -2),
    ("(int64)arg1 >> arg0", 0),
    ("arg3 >> 60", 15),
    ("(uint8)300", 44),
    ("(int8)200", -56),
    ("(uint16)arg3", 0xFFFF),
    ("(int64)arg3", -1),
    ("arg0 > 4096", False),
    ("arg0 < arg1", True),
    ("arg3 > arg0", True),
    ("(int64)arg3 < arg0", False),
    ("(int64)arg3 < (int64)arg0", True),
    ("(int64)arg3 < 0", True),
    ("arg0 >= 5", True),
    ("arg0 <= 4", False),
    ("arg0 == 5", True),
    ("arg0 != 5", False),
    ("1 ? 2 : 3", 2),
    ("arg4 ? 2 : 3", 3),
    ("arg0 > 1 ? arg1 > 1 ? 1 : 2 : 3", 1),
    ("!arg0", False),
    ("!0", True),
    ("arg0 == 5 && arg1 == 6", True),
    ("arg0 == 5 && arg1 == 7", False),
    ("arg0 == 4 || arg1 == 6", True),
    ("arg0 == 4 || arg1 == 7", False),
    ("(arg0, arg1) == (5, 6)", True),
    ("(arg0, arg1) == (5, 7)", False),
    ("(1, arg0, (2, arg1)).2.1", 6),
    ("(arg0, 7)[1]", 7),
    ("true", True),
    ("10ms", 10_000_000),
    ("1_000", 1000),
    ("2e3", 2000),
    ("017", 15),
    ("0x1fUL", 31),
    ("1e3", 1000),
    ("1_000", 1000),
    ("0x1_0", 16),
    ("012", 10),
    ("18446744073709551615", (1 << 64) - 1),
    ("-9223372036854775808", -1 << 63),
    ("ENOENT", 2),
    ("SIGTERM", 15),
    ("sizeof(uint32)", 4),
    ("(typeof((uint8)1))300", 44),
    ("(typeof(int8))200", -56),
    ("(typeof(arg0))-1 > 0", True),
    ("sizeof(typeof((uint16)arg0))", 2),
    ("{ let $y: typeof((uint8)1) = 3; $y + 1 }", 4),
    ("sizeof(struct nobody *)", 8),
    ("bswap((uint32)0x01020304)", 0x04030201),
    ("bswap((uint16)0x0102)", 0x0201),
    ("{ let $a = 3; $a + 1 }", 4),
    ("pid", 100),
    ("tid", 101),
    ("uid", 1000),
    ("gid", 1001),
    ("cpu", 3),
    ("nsecs", 5_000_000_000),
    ("nsecs()", 5_000_000_000),
    ("nsecs(monotonic)", 5_000_000_000),
    ("pid(init)", 100),
    ("elapsed", 5_000_000_000),
    ("comm", "target"),
    ("func", "f"),
    ("probe", "uprobe:m:f"),
    ("probetype", "uprobe"),
    ('reg("di")', 5),
    ('reg("rsi")', 6),
    ("usermode", 1),
    ("ncpus", 1),
    ("$#", 0),
    ("$1", 0),
    ('pton("127.0.0.1")', 0x0100007F),
    ("is_integer(arg0)", True),
    ("is_str(comm)", True),
    ("is_ptr(arg0)", False),
    ("is_literal(1)", True),
    ('strlen("abc")', 3),
]


@pytest.mark.parametrize(("expression", "worth"), WORTH, ids=[each for each, _ in WORTH])
def test_an_expression_is_worth(expression: str, worth: Any) -> None:
    found = value(expression, rdi=5, rsi=6, rcx=(1 << 64) - 1)
    assert (found, type(found)) == (worth, type(worth))


@pytest.mark.parametrize("left", [0, 1, 5, (1 << 63) - 1, 1 << 63, (1 << 64) - 1])
@pytest.mark.parametrize("right", [0, 1, 5, (1 << 63) - 1, 1 << 63, (1 << 64) - 1])
@pytest.mark.parametrize("operator", ["<", "<=", ">", ">=", "==", "!="])
def test_comparing_is_right_at_the_ends_of_64_bits(left: int, right: int, operator: str) -> None:
    signed = [each - (1 << 64) if each >> 63 else each for each in (left, right)]
    script = (
        f"uprobe:m:f {{ if (arg0 {operator} {right}) {{ print(1) }} else {{ print(0) }} "
        f"if ((int64)arg0 {operator} {signed[1]}) {{ print(1) }} else {{ print(0) }} "
        f"if ((int32)arg0 {operator} (int32)arg1) {{ print(1) }} else {{ print(0) }} "
        f"print((int32)arg0 {operator} (int32)arg1); print(arg0 {operator} arg1); "
        f"print((int64)arg0 {operator} (int64)arg1); "
        f"if (arg0 {operator} arg1) {{ print(1) }} else {{ print(0) }} }}"
    )
    halves = [(each & 0xFFFFFFFF) - ((each & 0x80000000) << 1) for each in (left, right)]
    holds = eval(f"{left} {operator} {right}")
    holds_signed = eval(f"{signed[0]} {operator} {signed[1]}")
    holds_half = eval(f"{halves[0]} {operator} {halves[1]}")
    shown = [("Print", int(holds)), ("Print", int(holds_signed)), ("Print", int(holds_half))]
    wanted = [
        *shown,
        ("Print", holds_half),
        ("Print", holds),
        ("Print", holds_signed),
        ("Print", int(holds)),
    ]
    assert said(script, rdi=left, rsi=right) == wanted


def test_a_chance_number_differs_from_time_to_time() -> None:
    running = Running("uprobe:m:f { print(rand) }")
    found = set()
    for time in range(5_000_000_000, 5_000_000_050):
        context = running.thread()
        context._time = time
        found.add(running.hit()[0][1])
    assert len(found) > 45
    assert all(0 <= each < 1 << 32 for each in found)


def test_a_caller_is_where_the_function_returns_to() -> None:
    from tests.programs.cases import Region

    running = Running("uprobe:m:f { print(caller) } uretprobe:m:f { print(caller) }")
    stack = Region(0x7000, bytearray((0x1234).to_bytes(8, "little")), True)
    running.thread([stack], rsp=0x7000, rip=0x99)
    assert running.hit(0) == [("Print", 0x1234)]
    assert running.hit(1) == [("Print", 0x99)]


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("$nobody", "$nobody has no value here"),
        ("nobody", "there is nothing called `nobody`"),
        ("nobody(1)", "there is no function `nobody`"),
        ("comm + 1", "`+` does not take string"),
        ("comm < 1", "string is not compared with int64"),
        ('comm < "a"', "texts are equal or not"),
        ('reg("q")', "there is no register `q`"),
        ("retval", "`retval` is what a function returns"),
        ("kstack", "`kstack` is the kernel's stack"),
        ("curtask", "`curtask` is the kernel's"),
        ("ksym(1)", "`ksym` is about the kernel"),
        ("arg0.x", "uint64 has no members"),
        ("(struct q)arg0", "there is no type `struct q`"),
        ("(1, 2).5", "has no item `5`"),
        ("hist(1)", "`hist` is only assigned to a map"),
        ('1 ? "a" : 2', "one of the two is string, the other one int64"),
        ("str()", "`str` takes 1 to 2 arguments, not 0"),
        ("args.x", "nothing is known of the arguments"),
        ("(int8[8])arg0", "a number is not seen as int8[8] yet"),
        ("comm(3)", "`comm` does not take this"),
        ('!"a"', "`!` takes a number, not string"),
    ],
)
def test_what_cannot_be_is_refused_with_its_place(expression: str, message: str) -> None:
    found = refused(f"uprobe:m:f {{ print({expression}); }}")
    assert message in found
    assert found.startswith("test.bt:1:")
