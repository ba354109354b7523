"""Texts: read, shown, compared, looked into."""

from __future__ import annotations

from struct import pack
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dprobed.program.bt.compiler import Options
from dprobed.program.model import ProgramError
from tests.programs.cases import Region
from tests.unit.program.bt.running import AT, Running, refused, text

MEMORY = [
    text("hello"),
    text("help", AT + 0x1000),
    text("hello", AT + 0x2000),
    Region(AT + 0x3000, bytearray(b"\xff\xc3\0"), True),
    text("target", AT + 0x4000),
]

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
    # A length is kept, wherever the text goes: the last byte of it is for the NUL.
    ("str(arg0, 0)", ""),
    ("str(arg0, 1)", ""),
    ("str(arg0, arg5)", ""),
    ("str(arg0, arg5 + 1)", ""),
    ("str(arg0, 100)", "hello"),
    ('str("hello", 3)', "he"),
    ("str(comm, 3)", "ta"),
    ("str(comm, 12)", "target"),
    ("str(str(arg0), 3)", "he"),
    ('str(arg0, 3) == "he"', True),
    ('str(arg0, 3) == "hel"', False),
    ('str(arg0, 3) == "hello"', False),
    ('str(arg0, 3) != "he"', False),
    ('str(arg0, 0) == ""', True),
    ('str(arg0, arg5) == ""', True),
    ('str(arg0, arg5 + 3) == "he"', True),
    ('str(comm, 3) == "ta"', True),
    ('str("hello", 3) == "he"', True),
    ("str(arg0, 3) == str(arg1, 3)", True),
    ("str(arg0, 4) == str(arg1, 4)", True),
    ("str(arg0, 5) == str(arg1, 5)", False),
    ("str(arg0, 3) == str(arg1)", False),
    ("str(arg0) == str(arg2, 3)", False),
    ("str(arg0) == str(arg2, 6)", True),
    ("str(arg0, 0) == str(5)", True),
    ("str(arg0, 0) == str(arg1)", False),
    ('strncmp(str(arg0, 3), "help", 2)', 0),
    ('strncmp(str(arg0), "help", 0)', 0),
    ("strncmp(str(arg0, 3), str(arg1), 2)", 0),
    ("strncmp(str(arg0, 3), str(arg1, 3), 9)", 0),
    ('strcontains(str(arg0, 3), "he")', True),
    ('strcontains(str(arg0, 3), "el")', False),
    ('strcontains(str(arg0, 3), "hello")', False),
    ('strstr(str(arg0, 5), "lo")', -1),
    ('strstr(str(arg0, 6), "lo")', 3),
    ("strlen(str(arg0, 3))", 2),
    # The thread's name is a text as others are: "target" here.
    ('strcontains(comm, "arg")', True),
    ('strcontains(comm, "arx")', False),
    ('strcontains(comm, "")', True),
    ('strcontains(comm, "target")', True),
    ('strcontains(comm, "targetarget")', False),
    ('strcontains(comm, "target of a long name")', False),
    ('strcontains(str(comm, 5), "get")', False),
    ('strstr(comm, "get")', 3),
    ('strstr(comm, "t")', 0),
    ("comm == str(arg4)", True),
    ("str(arg4) != comm", False),
    ("comm == str(arg0)", False),
    ("comm == str(arg4, 6)", False),
    ("str(comm, 5) == str(arg4, 5)", True),
    ("comm == comm", True),
    ("comm == str(5)", False),
    ("strncmp(comm, str(arg4), 30)", 0),
    # A NUL is the end, as in C.
    ('"a\\0b" == "a"', True),
    ('strlen("a\\0b")', 1),
    ('strcontains("a\\0b", "b")', False),
    # Bytes are bytes.
    ('"\\xff"', "\udcff"),
    ('"\\xc3\\xa9" == "é"', True),
    ('"\\303" "\\251" == "é"', True),
    ('strlen("\\xff")', 1),
    ('str(arg3) == "\\xff\\xc3"', True),
    ('str(arg3) == "ÿ"', False),
    ('strncmp(str(arg3), "\\xff\\xee", 1)', 0),
    ('strcontains(str(arg3), "\\xc3")', True),
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
    running.thread(
        MEMORY, rdi=AT, rsi=AT + 0x1000, rdx=AT + 0x2000, rcx=AT + 0x3000, r8=AT + 0x4000
    )
    if expression.startswith("strncmp") and worth == 0:
        assert running.hit() == [("Print", 0)]
    else:
        assert running.hit() == [("Print", worth)]


@pytest.mark.parametrize(
    "arguments",
    [
        'str(arg0), "hexxo", 3',
        'str(arg0, 3), "hello", 5',
        'str(arg0, 3), "hel", 3',
        "str(arg0, 3), str(arg1), 3",
        'str(comm, 3), "target", 3',
        'str(5), "h", 1',
    ],
)
def test_strncmp_is_not_0_where_they_differ(arguments: str) -> None:
    running = Running(f"uprobe:m:f {{ print(strncmp({arguments})) }}")
    running.thread(MEMORY, rdi=AT, rsi=AT + 0x1000)
    ((_, found),) = running.hit()
    assert found != 0


def test_a_text_of_15_letters_is_found_in_a_name_of_as_many() -> None:
    running = Running(
        'uprobe:m:f { print(strstr(comm, "nmlkjihgfedcba")); print(strstr(comm, "ihgfe")); '
        'print(strstr(comm, "hgfedcba")); print(strstr(comm, "ba")); print(strlen(comm)); '
        "print(comm == str(arg0)); print(strncmp(comm, str(arg0), 15)); print(comm == str(arg1)) }"
    )
    name = "onmlkjihgfedcba"
    context = running.thread([text(name), text(name[:-1], AT + 0x1000)], rdi=AT, rsi=AT + 0x1000)
    context.comm = name.encode().ljust(16, b"\0")
    assert [one[1] for one in running.hit()] == [1, 6, 7, 13, 15, True, 0, False]


def test_one_of_several_constants_is_compared_by_its_first_letters() -> None:
    running = Running(
        "uprobe:m:f { $i = 0; while ($i < 4) { "
        '$s = "zz"; if ($i == 1) { $s = "aba" } if ($i == 2) { $s = "abb" } '
        'if ($i == 3) { $s = "abc" } print(strncmp($s, "ab", 2) == 0); print($s == "abc"); $i++ } }'
    )
    running.thread()
    found = [one[1] for one in running.hit()]
    assert found[::2] == [False, True, True, True]
    assert found[1::2] == [False, False, False, True]


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("str(arg0, -1)", "a text has no length of -1"),
        ('str("hello", arg0)', "a text is cut to a length that is known before the script runs"),
        ('str(arg0 ? str(arg1) : "a", 2)', "a text that is one of several constants is not cut"),
        ('strncmp(arg0 ? "a" : "b", arg1 ? "a" : "c", 1)', "these two texts are not compared yet"),
    ],
)
def test_lengths_that_mean_nothing_are_refused(expression: str, message: str) -> None:
    assert message in refused(f"uprobe:m:f {{ print({expression}) }}")


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


LETTERS = st.text("ab", max_size=5)
LENGTHS = st.integers(0, 8)


@settings(max_examples=15, deadline=None)
@given(LETTERS, LETTERS, LENGTHS, LENGTHS, LENGTHS)
def test_texts_of_all_kinds_are_the_bytes_that_they_have(
    one: str, other: str, length: int, another: int, letters: int
) -> None:
    """However a text comes (of the process, the thread's name, written out), what is said of it is
    what is said of its bytes."""
    left = one[: max(0, length - 1)]
    right = other[: max(0, another - 1)]
    lefts = [f"str(arg0, {length})", f"str(comm, {length})", f'str("{one}", {length})']
    rights = [f"str(arg1, {another})", f'str("{other}", {another})', f"str(arg1, arg2 + {another})"]
    body, wanted = "", []
    for a in lefts:
        body += f'print(strlen({a})); print(strstr({a}, "{other}")); '
        wanted += [len(left), left.find(other)]
        for b in rights:
            body += f"print({a} == {b}); print(strncmp({a}, {b}, {letters}) == 0); "
            wanted += [left == right, left[:letters] == right[:letters]]
    running = Running(f"uprobe:m:f {{ {body} }}")
    context = running.thread([text(one), text(other, AT + 0x1000)], rdi=AT, rsi=AT + 0x1000)
    context.comm = one.encode().ljust(16, b"\0")
    assert [each[1] for each in running.hit()] == wanted


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


@pytest.mark.parametrize(
    ("given", "worth"),
    [
        ("42", 42),
        ("0", 0),
        ("010", 8),
        ("0x10", 16),
        ("0X1f", 31),
        ("-3", -3),
        ("-0x10", -16),
        ("+5", 5),
        ("18446744073709551615", (1 << 64) - 1),
        ("-9223372036854775808", -1 << 63),
        ("18446744073709551616", "18446744073709551616"),
        ("-9223372036854775809", "-9223372036854775809"),
        ("9" * 5000, "9" * 5000),
        ("08", "08"),
        ("0x", "0x"),
        ("1_000", "1_000"),
        ("0b1", "0b1"),
        ("٣", "٣"),
        ("1e3", "1e3"),
        ("5 ", "5 "),
        ("-", "-"),
        ("abc", "abc"),
        ("", ""),
        ("\udcff", "\udcff"),
    ],
)
def test_a_parameter_is_a_number_where_c_reads_one(given: str, worth: Any) -> None:
    running = Running(
        "uprobe:m:f { print($1); print(str($1)); print(str($1, 3)); print($2); print($#) }",
        Options(arguments=(given,)),
    )
    running.thread()
    assert [one[1] for one in running.hit()] == [worth, given, given[:2], 0, 1]


@pytest.mark.parametrize("expression", ["$1 + 1", "1 << $1", "$1 < 3", "pid == $1", "$1 != arg0"])
def test_a_parameter_that_is_no_number_is_named(expression: str) -> None:
    with pytest.raises(ProgramError, match=r"`\$1` is used as a number, and is `08`") as raised:
        Running(f"uprobe:m:f {{ print({expression}) }}", Options(arguments=("08",)))
    at = f"print({expression}".index("$1") + len("uprobe:m:f { ") + 1
    assert f"test.bt:1:{at}: " in str(raised.value)


def test_a_parameter_that_is_a_number_is_no_text() -> None:
    with pytest.raises(ProgramError, match="string is not compared with int64"):
        Running("uprobe:m:f { print(comm == $1) }", Options(arguments=("8",)))


def test_a_named_parameter_is_read_as_the_others_are() -> None:
    script = 'uprobe:m:f { print(getopt("n", 1)) }'
    running = Running(script, Options(arguments=("--n=010",)))
    running.thread()
    assert running.hit() == [("Print", 8)]
    with pytest.raises(ProgramError, match="--n is a number, not 1_0"):
        Running(script, Options(arguments=("--n=1_0",)))


def test_parameters_are_texts_and_numbers() -> None:
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
