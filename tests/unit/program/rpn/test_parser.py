"""From source text to a program, and what is said about text that is none."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dprobed.program.bytecode import encode
from dprobed.program.isa import decode_at
from dprobed.program.model import (
    Header,
    NothingSelectedError,
    ProbeDefinition,
    Program,
    ProgramError,
    select,
)
from dprobed.program.rpn.parser import assemble, load_file

REFUSALS = Path(__file__).parents[3] / "programs" / "refusals"


def body(text: str, header: str = "", keywords: str = "") -> Program:
    """A program of one probe with these instructions."""
    return assemble(f"name = x\n{header}\noffset = f\n{keywords}\n{text}\n", "x.rpn")


def listing(program: Program) -> list[tuple[str, tuple[int, ...]]]:
    found = []
    offset = 0
    while offset < len(program.code):
        instruction, operands, offset = decode_at(program.code, offset)
        found.append((instruction.key, operands))
    return found


def test_the_first_program() -> None:
    source = "name = libc.so.6\nmodtype = user\noffset = malloc\n  push r,rdi\n  log 1\n  exit\n"
    program = assemble(source, "first.rpn")
    assert program.header == Header("libc.so.6")
    assert program.probes == (ProbeDefinition(0, offset="malloc", entry=0, end=6),)
    assert [key for key, _ in listing(program)] == ["push r,register", "log count", "exit"]
    assert program.source_name == "first.rpn"
    assert [line for _, _, line in program.lines] == [4, 5, 6]


def test_every_keyword() -> None:
    source = """
        name = /usr/lib/libx.so.1
        modtype = kmod
        major = 2
        id = 3
        jmpmax = 4
        logmax = 5
        ex_logmax = 6
        vars = 7
        gvars = 8
        heapmax = 9
        autostacktrace = yes
        offset = f + 0x10
        opcode = 0x55, 0x48 'A'
        minor = 10
        group = 11
        type = 12
        pass_count = 13
        max_hits = 14
        logonfault = yes
        ex_mask = EX_INVALID_ADDR | EX_LOG_OVERFLOW
        heap = 2 * 4
        always = yes
        exit
        address = port:8
        watchpoint = io
        exit
    """
    program = assemble(source, "x.rpn")
    assert program.header == Header(
        "/usr/lib/libx.so.1", "kmod", 2, 3, 4, 5, 6, 7, 8, 9, autostacktrace=True
    )
    assert program.probes == (
        ProbeDefinition(
            0, "f+0x10", None, None, b"\x55\x48A", 10, 11, 12, 13, 14, True, 0x1001, 8, 0, 1, True
        ),
        ProbeDefinition(1, None, "port:8", "io", entry=1, end=2),
    )


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("libc.so.6", "libc.so.6"),
        ("/opt/a-b/c++.so", "/opt/a-b/c++.so"),
        ("0123456789abcdef0123456789abcdef01234567", "0123456789abcdef0123456789abcdef01234567"),
        ('"/a b/c.so"', "/a b/c.so"),
        (r'"a\"b\\c"', 'a"b\\c'),
        ("LIB", "libm.so.6"),
    ],
)
def test_names_of_modules(written: str, value: str) -> None:
    source = f"#define LIB libm.so.6\nname = {written}\noffset = f\nexit\n"
    assert assemble(source, "x.rpn").header.name == value


@pytest.mark.parametrize(
    ("keyword", "written", "value"),
    [
        ("offset", "malloc", "malloc"),
        ("offset", "malloc + 4", "malloc+4"),
        ("offset", "malloc-0x4", "malloc-0x4"),
        ("offset", "0x1234", "0x1234"),
        ("offset", "src/my-file.c:12", "src/my-file.c:12"),
        ("offset", "memcpy@@GLIBC_2.14", "memcpy@@GLIBC_2.14"),
        ("offset", '"operator new(unsigned long)"', "operator new(unsigned long)"),
        ("offset", "F(3)", "g+3"),
        ("address", "counter", "counter"),
        ("address", "0x7f0000001000", "0x7f0000001000"),
    ],
)
def test_places(keyword: str, written: str, value: str) -> None:
    source = f"#define F(n) g+n\nname = x\n{keyword} = {written}\nexit\n"
    assert getattr(assemble(source, "x.rpn").probes[0], keyword) == value


def test_numbers_are_those_of_c() -> None:
    numbers = "10 0x0A 012 0b11 'A' '\\n' '\\x41' '\\0' '\\'' -1 ~0 !5 10UL (1+2)*3 7/2 7%4 1<<63"
    values = [10, 10, 10, 3, 65, 10, 65, 0, 39, -1, -1, 0, 10, 9, 3, 3, 1 << 63]
    program = body("\n".join(f"push {number}" for number in numbers.split()))
    found = [operands[0] for key, operands in listing(program) if key == "push word"]
    assert found == [value & 0xFFFF_FFFF_FFFF_FFFF for value in values]


def test_operators_bind_as_in_c() -> None:
    text = "push 1 | 2 ^ 3 & 4 == 4 < 5 << 1 + 2 * 3\npush 10 - 4 - 3\npush 1 || 0 && 0\n"
    found = [operands[0] for key, operands in listing(body(text)) if key == "push word"]
    assert found == [1 | (2 ^ (3 & ((4 < (5 << (1 + (2 * 3)))) == 4))), 3, 1]


def test_blanks_and_commas_separate_alike() -> None:
    assert body("push r,rdi").code == body("push  r , rdi").code == body("push r rdi").code


def test_labels_hold_in_a_file_and_calls_reach_all_of_it() -> None:
    source = """
        name = x
        offset = f
        start: push 1
            jnz end
            call shared
        end:
        offset = g
            call shared
            exit
        shared: inner: nop
            jmp inner
    """
    program = assemble(source, "x.rpn")
    calls = [operands[0] for key, operands in listing(program) if key == "call label"]
    assert len(set(calls)) == 1
    assert decode_at(program.code, calls[0])[0].name == "nop"


def test_a_probe_that_runs_past_its_end_ends_as_by_exit() -> None:
    assert [key for key, _ in listing(body("nop"))] == ["nop", "exit"]
    assert [key for key, _ in listing(body("abort"))] == ["abort"]
    assert [key for key, _ in listing(body("push 1\njz e\nabort\ne:"))][-1] == "exit"
    two = assemble("name = x\noffset = a\nnop\noffset = b\nnop\n", "x.rpn")
    assert [probe.end - probe.entry for probe in two.probes] == [2, 2]


def test_facilities_are_listed_once_in_the_order_of_their_use() -> None:
    text = "push 1\njz a\njgt b\njlt c\nexit trace\na: exit 3\nb: exit trace\nc: exit core-dump.1"
    program = body(text)
    assert program.facilities == ("trace", 3, "core-dump.1")
    assert [o for key, o in listing(program) if key == "exit facility"] == [(0,), (1,), (0,), (2,)]


def test_defines_and_includes_reach_instructions(tmp_path: Path) -> None:
    (tmp_path / "common.inc").write_text("offset = PLACE\n  push SIZE\n")
    path = tmp_path / "x.rpn"
    path.write_text('name = x\n#include "common.inc"\n exit\n')
    program = load_file(path, {"PLACE": "malloc", "SIZE": "3 * 3"})
    assert program.probes[0].offset == "malloc"
    assert listing(program)[0] == ("push word", (9,))
    assert program.sources == (str(tmp_path / "common.inc"), str(path))


@pytest.mark.parametrize("path", sorted(REFUSALS.glob("*.rpn")), ids=lambda path: path.stem)
def test_refused_with(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole report, word for word, of every program in tests/programs/refusals."""
    shutil.copytree(REFUSALS, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ProgramError) as caught:
        load_file(path.name)
    assert f"{caught.value}\n" == path.with_suffix(".expected").read_text()


def test_there_is_a_report_for_every_refusal() -> None:
    programs = {path.stem for path in REFUSALS.glob("*.rpn")}
    assert programs == {path.stem for path in REFUSALS.glob("*.expected")}


#: A program whose code, with the `exit` behind it, is as large as one may be. In few lines: each
#: costs time. (9 bytes, and 2.)
_FULL = "push 1\nros 1\n" * 5957 + "nop\n" * 8


def test_a_program_that_is_too_large() -> None:
    with pytest.raises(ProgramError, match="the program is too large: 65537 bytes of code"):
        body(_FULL + "nop\n")
    assert len(body(_FULL).code) == 65536


@pytest.mark.parametrize("start", ["", "0x", "0", "0b"])
def test_a_number_of_any_length_is_judged(start: str) -> None:
    """Python converts no more than 4300 decimal digits."""
    with pytest.raises(ProgramError, match="the number does not fit into a 64-bit word"):
        body(f"push {start}{'1' * 10_000}\nexit\n")


def test_too_many_faults_are_not_all_told() -> None:
    with pytest.raises(ProgramError) as caught:
        body("foo\n" * 5000)
    assert len(caught.value.diagnostics) == 100


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("no.rpn", None, "no.rpn: error: cannot read the program: No such file or directory"),
        ("no.dpb", None, "no.dpb: error: cannot read the program: No such file or directory"),
        ("x.rpn", b"\xff", "x.rpn: error: cannot read the program: it is not UTF-8 text (byte 0)"),
        ("x.dpb", b"name = x", "x.dpb: error: not a usable .dpb file: it does not begin as one"),
        ("big.rpn", b"\n" * ((4 << 20) + 1), "it has more than 4194304 bytes"),
        ("empty.rpn", b"", "empty.rpn:1:1: error: the program has no probe"),
    ],
)
def test_files_that_cannot_be_a_program(
    tmp_path: Path, name: str, data: bytes | None, message: str
) -> None:
    path = tmp_path / name
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(ProgramError) as caught:
        load_file(path)
    assert message in str(caught.value)


def test_load_file_reads_both_kinds(tmp_path: Path) -> None:
    program = body("push 1\nlog 1")
    (tmp_path / "x.dpb").write_bytes(encode(program))
    assert load_file(tmp_path / "x.dpb") == program


GROUPS = "name = x\n" + "".join(
    f"offset = f{n}\ngroup = {group}\ntype = {kind}\nexit\n"
    for n, (group, kind) in enumerate([(1, 1), (1, 2), (2, 1), (3, 0)])
)


@pytest.mark.parametrize(
    ("groups", "types", "left"),
    [
        (set(), set(), [0, 1, 2, 3]),
        ({1}, set(), [0, 1]),
        ({1, 2}, {1}, [0, 2]),
        (set(), {0, 2}, [1, 3]),
    ],
)
def test_select_keeps_indices(groups: set[int], types: set[int], left: list[int]) -> None:
    chosen = select(assemble(GROUPS, "x.rpn"), frozenset(groups), frozenset(types))
    assert [probe.index for probe in chosen.probes] == left


def test_select_of_nothing_says_what_there_is() -> None:
    with pytest.raises(NothingSelectedError, match="group 1 type 1, group 1 type 2, group 2"):
        select(assemble(GROUPS, "x.rpn"), frozenset({9}))


_PIECES = st.sampled_from(
    [
        *"\n \t,:=()#\"'\\+-*/%<>!~&|^.0",
        *("name", "x", "offset", "address", "f", "push", "log", "r", "rdi", "exit", "jmp", "mem"),
        *("#define", "#if", "#else", "#endif", "#include", "#line", "/*", "*/", "//", "A", "B"),
        *("0x10", "08", "'a'", '"text"', "<<", "||", "defined", "99999999999999999999"),
        *(
            "\nname = x\n",
            "\noffset = f\n",
            "\nA:",
            "\ncall A\n",
            "\nret\n",
            "\n#define A(B) B B\n",
        ),
    ]
)
_NOISE = st.lists(st.one_of(_PIECES, st.text(max_size=3)), max_size=60).map(" ".join)


@pytest.mark.slow
@settings(max_examples=300)
@given(_NOISE)
def test_any_text_is_judged(source: str) -> None:
    try:
        program = assemble(source, "noise.rpn")
    except ProgramError as error:
        assert error.diagnostics
        assert str(error)
    else:
        assert program.probes
