"""Programs that are made without any source text: they run, and know where they were written."""

from __future__ import annotations

import pytest

from dprobed.program.builder import Builder
from dprobed.program.bytecode import decode, encode
from dprobed.program.exceptions import ExCode
from dprobed.program.exec.variables import ListVariables
from dprobed.program.model import ProgramError, SourcePlace, select
from dprobed.program.rpn.parser import assemble
from dprobed.record.log import decode_log
from tests.programs.cases import Case
from tests.programs.executors import EXECUTORS, Maker

FILE = "counter.script"


def _counter() -> Builder:
    """Counts its hits, logs rdi so many times as it was hit, and hands over every third."""
    builder = Builder(name="target", vars=1, name_at=SourcePlace(FILE, 1, 1))
    builder.probe(offset="main", minor=7, placed_at=SourcePlace(FILE, 3, 9))
    again, out = builder.label(), builder.label()
    builder.add("inc lv,index", 0)
    builder.add("push lv,index", 0)
    builder.place(again)
    builder.add("push r,register", "rdi", SourcePlace(FILE, 4, 5))
    builder.add("log count", 1)
    builder.add("loop label", again)
    builder.add("push lv,index", 0)
    builder.add("push word", 3)
    builder.add("sub")
    builder.add("jnz label", out)
    builder.add("exit facility", "mine", SourcePlace(FILE, 6, 2))
    builder.place(out)
    builder.probe(address="flag", watchpoint="w", group=2, placed_at=SourcePlace(FILE, 9, 1))
    builder.add("push word", 0)
    builder.add("push word", 1)
    builder.add("xchg")
    builder.add("div")
    return builder


@pytest.mark.parametrize("maker", EXECUTORS)
def test_it_runs(maker: Maker) -> None:
    executor = maker(_counter().build(), ListVariables(), {"mine": 20})
    context = Case("", "").context()
    context.set_register("rdi", 42)
    outcomes = [executor.entry(0)(context) for _ in range(3)]
    assert [outcome.exit for outcome in outcomes] == [0, 0, 20]
    assert [outcome.minor for outcome in outcomes] == [7, 7, 7]
    logged = decode_log(outcomes[2].log, outcomes[2].raw)
    assert logged == [{"words": [42]}] * 3
    assert executor.entry(1)(context).exception == (ExCode.DIV_BY_ZERO, 0, 0)


def test_it_knows_where_it_was_written() -> None:
    made = _counter().build()
    for program in (made, decode(encode(made))):
        assert str(program.name_place()) == "counter.script:1:1"
        main, flag = program.probes
        assert program.probe_place(main) == SourcePlace(FILE, 3, 9)
        assert program.facility_places("mine") == (SourcePlace(FILE, 6, 2),)
        assert program.facility_places("other") == ()
        assert program.code_place(0) is None
        assert program.code_place(main.end - 1) == SourcePlace(FILE, 6, 2)
        (only,) = select(program, frozenset({2})).probes
        assert select(program, frozenset({2})).probe_place(only) == SourcePlace(FILE, 9, 1)
        assert flag == only


def test_source_text_says_where_things_are() -> None:
    text = 'name = x\n  offset = "odd place"\n\tpush 1\non: exit dump\naddress=f\nexit 7\n'
    program = assemble(text, "x.rpn")
    first, second = program.probes
    assert str(program.name_place()) == "x.rpn:1:8"
    assert str(program.probe_place(first)) == "x.rpn:2:12"
    assert str(program.probe_place(second)) == "x.rpn:5:9"
    assert str(program.code_place(0)) == "x.rpn:3:2"
    assert list(map(str, program.facility_places("dump"))) == ["x.rpn:4:5"]
    assert list(map(str, program.facility_places(7))) == ["x.rpn:6:1"]


def test_a_column_that_is_too_far_right_is_not_known() -> None:
    builder = Builder(name="x")
    builder.probe(offset="f")
    builder.add("exit", at=SourcePlace(FILE, 2, 1 << 16))
    program = decode(encode(builder.build()))
    assert str(program.code_place(0)) == "counter.script:2"
    assert program.probe_place(program.probes[0]) is None
    assert program.name_place() is None


def test_what_is_wrong_with_the_program_is_the_verifiers() -> None:
    builder = Builder(name="x")
    builder.probe(offset="f")
    builder.add("add", at=SourcePlace(FILE, 5, 1))
    with pytest.raises(ProgramError) as caught:
        builder.build()
    assert "counter.script" in str(caught.value)


def test_what_is_wrong_with_the_calls_is_the_callers() -> None:
    builder = Builder(name="x")
    builder.probe(offset="f")
    label = builder.label()
    builder.add("jmp label", label)
    with pytest.raises(ValueError, match="never placed"):
        builder.program()
    builder.place(label)
    with pytest.raises(ValueError, match="placed already"):
        builder.place(label)
    with pytest.raises(ValueError, match="no word"):
        builder.add("push word", label)
    with pytest.raises(ValueError, match="no word"):
        builder.add("push word")
    with pytest.raises(KeyError):
        builder.add("push")
