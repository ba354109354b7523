"""``log``: text with expressions between braces."""

from __future__ import annotations

from typing import Any

import pytest

from dprobed.program.bt.compiler import Options
from tests.programs.cases import Region
from tests.unit.program.bt.running import AT, Running, refused, text

STRUCT = "struct user { char name[8]; const char *password; int id; };\n"


def logged(message: str, before: str = "", options: Options | None = None) -> Any:
    """What a script logs of a thread with a text and a struct."""
    script = f"{before}uprobe:libc.so.6:f {{ $u = (struct user *)arg1; log({message}); }}"
    running = Running(STRUCT + script, options)
    user = b"ann\0\0\0\0\0" + (AT + 0x2000).to_bytes(8, "little") + (7).to_bytes(8, "little")
    memory = [text("hello"), Region(AT + 0x1000, bytearray(user), True), text("pw", AT + 0x2000)]
    running.thread(memory, rdi=AT, rsi=AT + 0x1000, rdx=3)
    ((name, texts, values),) = running.hit()
    assert name == "Log" and len(texts) == len(values) + 1
    return texts, values


@pytest.mark.parametrize(
    ("message", "texts", "values"),
    [
        ('"nothing"', ("nothing",), {}),
        ('"a={arg2} b={ arg2 + 1 }."', ("a=", " b=", "."), {"arg2": 3, "arg2 + 1": 4}),
        ('"{{x}} {arg2}"', ("{x} ", ""), {"arg2": 3}),
        ('"{str(arg0)}"', ("", ""), {"str(arg0)": "hello"}),
        # The address of letters, and letters themselves, are the text that they are.
        ('"{$u->name} {$u->password}"', ("", " ", ""), {"$u->name": "ann", "$u->password": "pw"}),
        ('"{(char *)arg0}"', ("", ""), {"(char *)arg0": "hello"}),
        ('"{$u->id}"', ("", ""), {"$u->id": 7}),
        (r'"\"{arg2 == 3 ? \"yes\" : \"no\"}\""', ('"', '"'), {'arg2 == 3 ? "yes" : "no"': "yes"}),
        ('"{ {let $y = arg2; $y * 2} }"', ("", ""), {"{let $y = arg2; $y * 2}": 6}),
        ('"{comm}"', ("", ""), {"comm": "target"}),
    ],
)
def test_values_by_what_they_are_written_as(
    message: str, texts: tuple[str, ...], values: dict[str, Any]
) -> None:
    assert logged(message) == (texts, values)


def test_macros_and_defined_names_are_put_in() -> None:
    before = "#define ONE 1\nmacro twice(x) { x * 2 }\n"
    assert logged('"{ONE} {twice(arg2)}"', before) == (("", " ", ""), {"ONE": 1, "twice(arg2)": 6})


def test_names_whose_values_are_not_shown() -> None:
    options = Options(redacted=("*PASS*",))
    _, values = logged('"{$u->id} {$u->password} {strlen(str($u->password))}"', "", options)
    assert values == {
        "$u->id": 7,
        "$u->password": "<redacted>",
        "strlen(str($u->password))": "<redacted>",
    }


@pytest.mark.parametrize(
    ("message", "column", "said"),
    [
        ('"a {arg2 +} b"', 44, "an expression is missing before the end"),
        ('"a {nothing} b"', 38, "nothing"),
        ('"a {arg2 arg3}"', 43, "`arg3` stands behind an expression"),
        ('"a {arg2"', 37, "this brace has no end"),
        ('"a } b"', 37, "this brace ends nothing"),
        ('"a {} b"', 37, "there is nothing in braces"),
        ("arg0", 34, "a text in quotes"),
        (r'"{print(\"x\")}"', 34, "this has no value"),
    ],
)
def test_what_is_wrong_is_said_where_it_stands(message: str, column: int, said: str) -> None:
    error = refused(f"uprobe:libc.so.6:long_name {{ log({message}); }}")
    assert f"test.bt:1:{column}: " in error and said in error


def test_a_place_decides_what_is_shown() -> None:
    """Two places of one part, at which the same is written, and is something else."""
    script = 'uprobe:libc.so.6:f, uprobe:libc.so.6:g { $a = arg0; log("{$a} {probe}"); }'
    running = Running(script)
    running.thread([], rdi=5)
    found = [running.hit(number)[0][2] for number in (0, 1)]
    assert found == [
        {"$a": 5, "probe": "uprobe:libc.so.6:f"},
        {"$a": 5, "probe": "uprobe:libc.so.6:g"},
    ]
