"""The preprocessor and what it leaves of a source."""

from __future__ import annotations

from pathlib import Path

import pytest

from dprobed.program.rpn.lexer import Diagnostics, written
from dprobed.program.rpn.preprocessor import MAX_INCLUDES, Preprocessor


def run(text: str, file: str = "x.rpn", **defines: str) -> tuple[list[str], list[str]]:
    """(the lines that are left, the diagnostics as ``line:column message``)."""
    diagnostics = Diagnostics()
    lines = [written(line.tokens) for line in Preprocessor(diagnostics, defines).lines(text, file)]
    return lines, [f"{f.line}:{f.column} {f.message}" for f in diagnostics.found]


def clean(text: str, file: str = "x.rpn", **defines: str) -> list[str]:
    lines, diagnostics = run(text, file, **defines)
    assert diagnostics == []
    return lines


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("a // b\nc", ["a", "c"]),
        ("a /* b */ c", ["a c"]),
        ("a /* b\n // */ c\nd", ["a", "c", "d"]),
        ('"// no" b', ['"// no" b']),
        ("'\"' /* x */ b", ["'\"' b"]),
        ("a \\\n  b\nc", ["a b", "c"]),
        ("\n\n  \n", []),
        ("a\r\nb\r\n", ["a", "b"]),
    ],
)
def test_comments_and_lines(text: str, left: list[str]) -> None:
    assert clean(text) == left


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("#define A 1\nA B", "1 B"),
        ("#define A B\n#define B 2\nA", "2"),
        ("#define A A + 1\nA", "A + 1"),
        ("#define A B\n#define B A\nA", "A"),
        ("#define A 1\n#undef A\nA", "A"),
        ("#define A\nx A y", "x y"),
        ("#define F(x) (x) * x\nF(2 + 3)", "(2 + 3) * 2 + 3"),
        ("#define F(x, y) y x\nF((1, 2), 3)", "3 (1, 2)"),
        ("#define F() 7\nF()", "7"),
        ("#define F(x) x\nF", "F"),
        ("#define F(x) x + 1\nF(F(2))", "2 + 1 + 1"),
        ("#define A (x)\nA", "(x)"),
        ("#define ADD(x) \\\n x + 1\nADD(2)", "2 + 1"),
    ],
)
def test_macros(text: str, left: str) -> None:
    assert clean(text) == [left]


def test_d_is_a_define_before_the_first_line() -> None:
    assert clean("A\n#ifdef B\nb\n#endif", A="x + 1", B="") == ["x + 1", "b"]
    assert run("", **{"a b": "1"})[1] == ["1:1 `a b` is not a name that -D can define"]


@pytest.mark.parametrize(
    ("condition", "taken"),
    [
        ("#if 1", True),
        ("#if 0", False),
        ("#if N == 3", True),
        ("#if N > 3 || N < 0", False),
        ("#if defined N && !defined(M)", True),
        ("#if defined(M)", False),
        ("#if UNKNOWN", False),
        ("#if (N << 2) % 5 == 2 && -7 / 2 == -3", True),
        ("#ifdef N", True),
        ("#ifndef N", False),
        ("#ifdef M", False),
    ],
)
def test_conditions(condition: str, taken: bool) -> None:
    left = clean(f"#define N 3\n{condition}\nyes\n#else\nno\n#endif")
    assert left == ["yes" if taken else "no"]


def test_only_one_branch_is_read_and_the_others_are_not_looked_at() -> None:
    text = "#if A == 1\none\n#elif A == 2\ntwo\n#if 0\n#error\n#endif\n#elif A == 2\nagain\n#else\n"
    text += "#error never\n#define B 1\n#endif\nB"
    assert clean(text, A="2") == ["two", "B"]


def test_error_directive_says_its_text() -> None:
    assert run("\n  #error SIZE is missing\n")[1] == ["2:4 SIZE is missing"]


def test_include_is_found_beside_the_file_that_asks(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.inc").write_text('#include "b.inc"\n#define A b\n')
    (tmp_path / "sub" / "b.inc").write_text("first\n")
    assert clean('#include "sub/a.inc"\nA', str(tmp_path / "x.rpn")) == ["first", "b"]


def test_include_of_itself_ends(tmp_path: Path) -> None:
    file = tmp_path / "x.rpn"
    file.write_text('#include "x.rpn"\n')
    _, diagnostics = run(file.read_text(), str(file))
    assert diagnostics == [f"1:10 more than {MAX_INCLUDES} files include each other"]


def test_include_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "a.inc").write_bytes(b"\xff\xfe")
    _, diagnostics = run('#include "a.inc"', str(tmp_path / "x.rpn"))
    assert len(diagnostics) == 1
    assert "is not UTF-8 text" in diagnostics[0]


def test_places_are_those_of_the_source() -> None:
    diagnostics = Diagnostics()
    text = '#define A 1 +\n  /* x */ A b\n#line 70 "other.rpn"\nc\n'
    lines = list(Preprocessor(diagnostics, {}).lines(text, "x.rpn"))
    tokens = [token for line in lines for token in line.tokens]
    places = [(t.text, t.origin.file, t.origin.line, t.column) for t in tokens]
    assert places == [
        ("1", "x.rpn", 2, 11),
        ("+", "x.rpn", 2, 11),
        ("b", "x.rpn", 2, 13),
        ("c", "other.rpn", 70, 1),
    ]


@pytest.mark.parametrize("depth", [50, 90])
def test_macros_may_use_each_other(depth: int) -> None:
    text = "#define M0 end\n" + "".join(f"#define M{n} M{n - 1}\n" for n in range(1, depth))
    assert clean(f"{text}M{depth - 1}") == ["end"]


@pytest.mark.parametrize(
    "text",
    [
        "#define M0 end\n" + "".join(f"#define M{n} M{n - 1}\n" for n in range(1, 5000)) + "M4999",
        "#define F(x) x\n" + "F(" * 5000 + ")" * 5000,
        "".join(f"#define M{n} {f'M{n + 1} ' * 9}\n" for n in range(30)) + "M0",
        "".join(f"#define F{n}(x) F{n + 1}(x x x)\n" for n in range(40)) + "F0(1)",
    ],
    ids=["chain", "nested", "bomb", "growing argument"],
)
@pytest.mark.slow
def test_macros_that_make_too_much_are_refused(text: str) -> None:
    _, diagnostics = run(text)
    assert len(diagnostics) == 1
    assert "macros make too much text" in diagnostics[0]
