"""Texts: read, shown, compared, looked into."""

from __future__ import annotations

from struct import pack
from typing import Any

import pytest

from tests.programs.cases import Region
from tests.unit.program.bt.running import AT, Running, text

MEMORY = [text("hello"), text("help", AT + 0x1000), text("hello", AT + 0x2000)]

CASES: list[tuple[str, Any]] = [
    ("str(arg0)", "hello"),
    ("str(arg0, 3)", "he"),
    ("str(arg0, arg5 + 4)", "hel"),
    ("str(5)", ""),
    ("str(0)", ""),
    ('str(arg0) == "hello"', True),
    ('str(arg0) == "hell"', False),
    ('str(arg0) == "hellox"', False),
    ('"hello" != str(arg0)', False),
    ('str(arg0) == ""', False),
    ('str(1) == ""', True),
    ('str(1) == "a"', False),
    ("str(arg0) == str(arg1)", False),
    ("str(arg0) == str(arg2)", True),
    ("str(arg0) != str(arg2)", False),
    ("strncmp(str(arg0), str(arg1), 3)", 0),
    ('strncmp(str(arg0), "help", 3)', 0),
    ('strncmp(comm, "tarXX", 3)', 0),
    ("strlen(str(arg0))", 5),
    ("strlen(str(1))", 0),
    ("strlen(comm)", 6),
    ('strstr(str(arg0), "lo")', 3),
    ('strstr(str(arg0), "x")', -1),
    ('strcontains(str(arg0), "ell")', True),
    ('strcontains(str(arg0), "elk")', False),
    ('strcontains("abc", "b")', True),
    ('comm == "target"', True),
    ('comm == "targe"', False),
    ('comm == "targets"', False),
    ('comm != "target"', False),
    ('arg0 ? str(arg0) : "none"', "hello"),
    ('arg5 ? str(arg0) : "none"', "none"),
    ('(arg5 ? str(arg0) : "none") == "none"', True),
    ('(arg0 ? str(arg0) : "none") == "hello"', True),
    ('arg5 ? "yes" : "no"', "no"),
    ('(arg5 ? "yes" : "no") == "no"', True),
    ('arg0 ? comm : "no"', "target"),
    ('arg5 ? comm : "no"', "no"),
    ('(arg5 ? comm : "no") == "no"', True),
    ("(1, str(arg0), comm)", (1, "hello", "target")),
    ('"a" "b"', "ab"),
    ('"\\x41\\102\\t"', "AB\t"),
    ("(1, str(arg0), 3).1", "hello"),
]


@pytest.mark.parametrize(("expression", "worth"), CASES, ids=[each for each, _ in CASES])
def test_a_text(expression: str, worth: Any) -> None:
    running = Running(f"uprobe:m:f {{ print({expression}) }}")
    running.thread(MEMORY, rdi=AT, rsi=AT + 0x1000, rdx=AT + 0x2000)
    if expression.startswith("strncmp") and worth == 0:
        assert running.hit() == [("Print", 0)]
    else:
        assert running.hit() == [("Print", worth)]


def test_strncmp_is_not_0_where_they_differ() -> None:
    running = Running('uprobe:m:f { print(strncmp(str(arg0), "hexxo", 3)) }')
    running.thread(MEMORY, rdi=AT)
    ((_, found),) = running.hit()
    assert found != 0


@pytest.mark.parametrize(
    ("body", "wanted"),
    [
        ('$s = str(arg0); if ($s == "hello") { print($s) }', ["hello"]),
        ('$s = "a"; $s = str(arg0); print($s)', ["hello"]),
        ('$s = str(arg0); $s = "b"; print($s); print($s == "b")', ["b", True]),
        ("$t = (1, str(arg0), 3); print($t.1); print($t.2); print($t)",
         ["hello", 3, (1, "hello", 3)]),
        ("$c = comm; print($c)", ["target"]),
    ],
)  # fmt: skip
def test_texts_in_variables(body: str, wanted: list[Any]) -> None:
    running = Running(f"uprobe:m:f {{ {body} }}")
    running.thread(MEMORY, rdi=AT)
    assert [one[1] for one in running.hit()] == wanted


def test_join_goes_up_to_the_end_of_the_array() -> None:
    array = Region(AT + 0x5000, bytearray(pack("<3Q", AT, AT + 0x1000, 0)), True)
    running = Running('uprobe:m:f { join(arg0, "-"); join(3); print(1) }')
    running.thread([*MEMORY, array], rdi=AT + 0x5000)
    assert running.hit() == [("Join", ["hello", "help"]), ("Join", []), ("Print", 1)]


def test_bytes_of_memory() -> None:
    running = Running('uprobe:m:f { printf("%r %rx", buf(arg0, 3), buf(7, arg1)) }')
    running.thread(MEMORY, rdi=AT, rsi=3)
    assert running.hit() == [("Printf", "%r %rx", {"memory": "68656c", "address": AT}, 0)]


def test_a_text_that_ends_where_memory_does_is_said_as_far_as_it_goes() -> None:
    running = Running("uprobe:m:f { print(str(arg0)) }")
    running.thread([Region(AT, bytearray(b"abc"), True)], rdi=AT)
    assert running.programs[0].python.entry(0)(running.context).exception is not None


def test_parameters_are_texts_and_numbers() -> None:
    from dprobed.program.bt.compiler import Options

    options = Options(arguments=("42", "hello", "--aa=20", "--bb", "-7", "0x10"))
    running = Running(
        'uprobe:m:f { print(($1, str($2), $2, str($2 + 1), $3, $4, $5, str($9), $#)); '
        'print((getopt("aa", 1), getopt("bb"), getopt("cc", "x"), getopt("dd"))) }',
        options,
    )  # fmt: skip
    running.thread()
    assert running.hit() == [
        ("Print", (42, "hello", "hello", "ello", -7, 16, 0, "", 4)),
        ("Print", (20, True, "x", False)),
    ]
