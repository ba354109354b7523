"""The top of scripts: macros, directives, imports, settings, comments; and what is wrong with
scripts, all at once, with its place."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dprobed.program.bt.compiler import Options, compile_script
from dprobed.program.bt.format import formatted
from dprobed.program.bt.world import NoWorld, UnreadableFile
from dprobed.program.model import ProgramError
from tests.unit.program.bt.running import Running, refused, said

MACROS = """
macro add(x, $y) { $y += x; $y }
macro one() { 1 }
macro two() { one() + one }
macro inc(@m) { @m++ }
macro twice(x) { x; x; }
macro own(x) { let $x = x; $x + 1 }
"""


@pytest.mark.parametrize(
    ("body", "wanted"),
    [
        ("$a = 3; print(add(arg0, $a)); print($a)", [8, 8]),
        ("print(one); print(one()); print(two)", [1, 1, 2]),
        ("inc(@z); inc(@z); print(@z + 0)", [2]),
        ("twice({ print(4) })", [4, 4]),
        ("$x = 5; print(own($x)); print(own(2))", [6, 3]),
    ],
)
def test_macros(body: str, wanted: list[Any]) -> None:
    found = said(f"{MACROS}uprobe:m:f {{ {body} }}", rdi=5)
    assert [each[1] for each in found] == wanted


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("macro a() { @x++ } uprobe:m:f { a() }", "@x is not among the macro's parameters"),
        ("macro a($x) { $x++ } uprobe:m:f { a(1) }", "`a` takes a variable as its $x"),
        ("macro a() { a() } uprobe:m:f { a() }", "`a` goes round"),
        ("macro a(x) { x } uprobe:m:f { a() }", "no macro `a` takes 0 arguments"),
    ],
)
def test_macros_that_are_wrong(script: str, message: str) -> None:
    assert message in refused(script)


def test_directives() -> None:
    script = """#!/usr/bin/env bpftrace
#include <errno.h>
#define N 3   // a comment
#define M (N + 1)
#ifdef NOBODY
this is nothing at all
#elif 1
#define Q 4
#else
nor is this
#endif
#ifndef BPFTRACE_HAVE_BTF
#define R 5
#endif
uprobe:m:f { print((N * M, Q, R)) /* a comment
   of two lines */ }
"""
    assert said(script) == [("Print", (12, 4, 5))]


class Files(NoWorld):
    """A world with some files."""

    def text(self, name: str, beside: str) -> tuple[str, str] | None:
        found = {
            "a.h": "struct point { int x; int y; };\n#define SIZE 7\n",
            "/files/b.h": '#include "a.h"\n',
            "lib.bt": 'import "more.bt"\nmacro three() { 3 }\n',
            "more.bt": 'import "lib.bt"\nmacro four() { 4 }\nuprobe:m:g { print(four) }\n',
        }.get(name)
        return None if found is None else (found, f"/files/{name}")


def test_other_files() -> None:
    running = Running(
        '#include "a.h"\nimport "lib.bt";\n'
        "uprobe:m:f { print((sizeof(struct point), SIZE, three, four)) }",
        None,
        Files(),
    )
    running.thread()
    assert running.hit(1) == [("Print", (8, 7, 3, 4))]
    assert running.hit(0) == [("Print", 4)]
    assert "there is no file `none.h`" in refused('#include "none.h"\nbegin { }', Files())


def test_files_of_outside_come_first_and_from_other_folders() -> None:
    options = Options(includes=("a.h", "a.h"), folders=("/nowhere", "/files"))
    script = "uprobe:m:f { print((sizeof(struct point), SIZE)) }"
    running = Running(script, options, Files())
    running.thread()
    assert running.hit() == [("Print", (8, 7))]
    running = Running(f"#include <b.h>\n{script}", Options(folders=("/files",)), Files())
    running.thread()
    assert running.hit() == [("Print", (8, 7))]
    assert "1:1: error: there is no file `b.h`" in refused(f"#include <b.h>\n{script}", Files())


def test_settings() -> None:
    script = (
        "config = { max_strlen=3; BPFTRACE_STACK_MODE=perf\nprint_maps_on_exit=0;\n"
        'str_trunc_trailer="" }\nuprobe:m:f { @ = count() }'
    )
    bundle = compile_script(script, "x")
    assert bundle.config == {
        "max_strlen": 3,
        "stack_mode": "perf",
        "print_maps_on_exit": 0,
        "str_trunc_trailer": "",
    }
    assert not bundle.maps[0].shown
    given_by_environment = Options(config={"max_strlen": "9", "nobody": "1"})
    assert compile_script(script, "x", given_by_environment).config["max_strlen"] == 9
    found = refused("config = { max_strlen=0; stack_mod=perf; cpp_demangle=7 } begin { }")
    assert "`max_strlen` is 1 to 16384, not `0`" in found
    assert "there is no setting `stack_mod`" in found
    assert "did you mean `stack_mode`?" in found
    assert "`cpp_demangle` is true or false" in found


def test_settings_that_are_not_there_are_refused_by_name() -> None:
    found = refused('config = { str_trunc_trailer=".." } begin { }')
    assert "`str_trunc_trailer` is not there yet" in found
    options = Options(config={"max_strlen": "x", "str_trunc_trailer": "..", "nobody": "1"})
    with pytest.raises(ProgramError) as caught:
        compile_script("begin { }", "x", options)
    found = str(caught.value)
    assert "environment:1:1: error: `max_strlen` is 1 to 16384, not `x`" in found
    assert "BPFTRACE_STR_TRUNC_TRAILER=.." in found
    assert "nobody" not in found


@pytest.mark.parametrize(
    "script",
    [
        "uprobe:m:f { print(1 / 0) }",
        "uprobe:m:f { print(arg0 % 0) }",
        "uprobe:m:f { $x = 3; $x /= 2 - 2 }",
        "uprobe:m:f { @ = 3; @ %= 0 }",
        "enum e { NONE }; uprobe:m:f { print(arg0 / NONE) }",
        "uprobe:m:f { print(arg0 / $1) }",
    ],
)
def test_a_division_by_a_known_0_is_warned_of(script: str) -> None:
    (warning,) = compile_script(script, "x").warnings
    assert " by 0, which gives 0" in warning
    assert warning.startswith("x:1:")


def test_a_division_by_another_number_is_not() -> None:
    assert compile_script("uprobe:m:f { print(arg0 / 2 % arg1) }", "x").warnings == ()


class Unreadable(Files):
    """A world with a file that cannot be read."""

    def text(self, name: str, beside: str) -> tuple[str, str] | None:
        if name == "mine.h":
            raise UnreadableFile("permission denied")
        return super().text(name, beside)


def test_a_file_that_cannot_be_read_says_why() -> None:
    for line in ('#include "mine.h"', "#include <mine.h>", 'import "mine.h";'):
        found = refused(f"{line}\nbegin {{ }}", Unreadable())
        assert "the file `mine.h` cannot be read: permission denied" in found
        assert "there is no file" not in found


def test_all_that_is_wrong_is_said_at_once() -> None:
    found = refused(
        "uprobe:m:f { $x = ; print(nobody); }\n"
        "uprobe:m:g { if ($y { } }\n"
        "iter:h { print(1) }\n"
        "uprobe:m:i { print(arg99) }\n"
    )
    lines = [each for each in found.splitlines() if "error:" in each]
    assert lines == [
        "test.bt:1:19: error: an expression is missing before `;`",
        "test.bt:1:27: error: there is nothing called `nobody`",
        "test.bt:2:21: error: `)` is missing before `{`",
        "test.bt:3:1: error: `iter` walks tables of the kernel",
        "test.bt:4:20: error: there is nothing called `arg99`",
    ]


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("", "the script has no probe"),
        ("uprobe:m:f", "a probe's place is followed by { … }"),
        ("uprobe:m:f { ", "`}` is missing before the end"),
        ('uprobe:m:f { print("abc) }', "this string has no end"),
        ('uprobe:m:f { print("\\q") }', "`\\q` means nothing in a string"),
        ("uprobe:m:f { /* }", "this comment has no end"),
        ("uprobe:m:f { print(12abc) }", "`12abc` is not a number"),
        ("uprobe:m:f { print(0x1ffffffffffffffff) }", "is not a number of 64 bits"),
        ("uprobe:m:f { print(18446744073709551616) }", "1:20: error: `18446744073709551616` is no"),
        ("uprobe:m:f { print(" + "9" * 5000 + ") }", "is not a number of 64 bits"),
        ("uprobe:m:f { print(1e20) }", "1:20: error: `1e20` is not a number of 64 bits"),
        ("uprobe:m:f { print(1e" + "9" * 5000 + ") }", "is not a number of 64 bits"),
        ("uprobe:m:f { print(999999999d) }", "`999999999d` is not a number of 64 bits"),
        (
            "uprobe:m:f { print(1 + -9223372036854775809) }",
            "1:24: error: -9223372036854775809 is not a number of 64 bits",
        ),
        ("uprobe:m:f { print(08) }", "`08` is not a number\n"),
        ("uprobe:m:f { print(0x) }", "`0x` is not a number\n"),
        ("uprobe:m:f { print(0x_) }", "`0x_` is not a number\n"),
        ("uprobe:m:f { print(0b101) }", "1:20: error: `0b101` is not a number\n"),
        ("uprobe:m:f { print(1e) }", "`1e` is not a number\n"),
        ("uprobe:m:f { print(1e-3) }", "`1e` is not a number\n"),
        ("uprobe:m:f { print(1.5) }", "1:20: error: `1.5` is not a number\n"),
        ("uprobe:m:f { print(1); ` }", "means nothing"),
        ("uprobe:m:f { print(" + "(" * 200 + "1" + ")" * 200 + ") }", "more than 100 brackets"),
        ("#if 1\nbegin { }", "an `#if` has no `#endif`"),
        ("#nobody\nbegin { }", "there is no directive `#nobody`"),
        ("uprobe:m:f { let x = 1; }", "`let` is followed by a variable"),
        ("uprobe:m:f { $a = (1 + ; }", "an expression is missing before `;`"),
    ],
)
def test_what_cannot_be_read_is_refused(script: str, message: str) -> None:
    assert message in refused(script)


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("uprobe:m:f { print(" + " + ".join(["$1"] * 5000) + ") }", "this script is too deep"),
        ("uprobe:m:f { print(arg0" + ".a" * 5000 + ") }", "this script is too deep"),
        ("uprobe:m:f { " + "if (1) { } else " * 5000 + "{ } }", "brackets and blocks"),
        (
            "macro d(x) { x + x } uprobe:m:f { print(" + "d(" * 25 + "arg0" + ")" * 25 + ") }",
            "with all its macros put in, this is too large",
        ),
        (
            "".join(f"#define A{n} (A{n + 1} + A{n + 1})\n" for n in range(40))
            + "#define A40 1\nuprobe:m:f { print(A0) }\n",
            "is no expression",
        ),
    ],
    ids=["operators", "members", "else", "macros", "defines"],
)
def test_what_would_take_for_ever_is_refused(script: str, message: str) -> None:
    assert message in refused(script)
    with contextlib.suppress(ProgramError):
        formatted(script, "x.bt")


_WORDS = st.sampled_from(
    [
        "uprobe:m:f",
        "begin",
        "interval:s:1",
        "malloc",
        "{",
        "}",
        "(",
        ")",
        "[",
        "]",
        ";",
        ",",
        ":",
        "/",
        "//",
        "/*",
        "*/",
        "$x",
        "$y",
        "@a",
        "@b",
        "@",
        "arg0",
        "comm",
        "pid",
        "retval",
        "str(",
        "print(",
        "printf(",
        "hist(",
        "count()",
        "if",
        "else",
        "while",
        "for",
        "(",
        "$i",
        ":",
        "0..3",
        ")",
        "unroll(2)",
        "break",
        "continue",
        "return",
        "let",
        "=",
        "+=",
        "++",
        "--",
        "==",
        "!=",
        "<",
        ">>",
        "&&",
        "||",
        "!",
        "~",
        "-",
        "+",
        "*",
        "%",
        "?",
        '"%d"',
        '"a"',
        "1",
        "0x10",
        "-1",
        "struct",
        "s",
        "union",
        "enum",
        "{",
        "int",
        "x:3;",
        "}",
        ";",
        "(uint8)",
        "(struct",
        "s",
        "*)",
        "->",
        ".",
        ".0",
        "sizeof(",
        "macro",
        "m(x)",
        "{",
        "x",
        "}",
        "#define",
        "A",
        "1",
        "\n",
        "config",
        "=",
        "{",
        "max_strlen=3",
        "}",
        "import",
        '"x"',
        "true",
        "ustack(",
        "delete(",
        "clear(",
        "exit()",
        "'",
        "\\",
        "`",
        "\x00",
        "é",
    ]
)


@settings(max_examples=250, deadline=None)
@given(st.lists(_WORDS, max_size=60))
def test_no_text_hangs_or_crashes_the_compiler(words: list[str]) -> None:
    for text in (" ".join(words), "uprobe:m:f { " + " ".join(words) + " }"):
        try:
            compile_script(text, "x.bt")
        except ProgramError as error:
            assert all(one.message for one in error.diagnostics)


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=80))
def test_no_letters_hang_or_crash_the_compiler(text: str) -> None:
    try:
        compile_script(text, "x.bt")
    except ProgramError as error:
        assert str(error)
