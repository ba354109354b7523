"""Programs that run in the target: which do, and their maps, to which the target can write."""

from __future__ import annotations

import pytest

from dprobed.engine.inline.executor import InlineExecutor
from dprobed.program.exec.native.maps import CAPACITY, USED
from dprobed.program.exec.python import PythonExecutor
from dprobed.program.exec.variables import ListVariables
from dprobed.program.maps import MapContents
from dprobed.program.rpn.parser import assemble

pytest.importorskip("llvmlite")

SOURCE = 'name = "/bin/true"\nmap = calls, count, keys=1, size=4\noffset = 1\nabort\n'


@pytest.mark.parametrize("used", [0, 100, 1 << 40, (1 << 64) - 1])
def test_maps_begin_anew_in_memory_of_which_anything_may_be_said(used: int) -> None:
    executor = InlineExecutor(PythonExecutor(assemble(SOURCE, "x.rpn"), ListVariables(), {}))
    (calls,) = executor.maps
    calls.load(MapContents(0, [([7], [1])]))
    view = memoryview(bytearray(executor.map_bytes))
    for at in (USED, CAPACITY):
        view[at : at + 8] = used.to_bytes(8, "little")
    executor.bind_maps(view)
    (calls,) = executor.maps
    assert calls.contents() == MapContents(0, [([7], [1])])


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("push 1\nexit dump", "x.rpn:4:1: it ends by `exit dump`"),
        ("nop\nnop\nexit dump once", "x.rpn:5:1: it ends by `exit dump once`"),
        ("exit debugger", "x.rpn:3:1: it ends by `exit debugger`"),
        ("nop\nsuspend\nexit", "x.rpn:4:1: it suspends or resumes threads"),
        ("push 1\nlog ustack\nexit", "x.rpn:4:1: `log ustack`: the stack of a thread is walked"),
    ],
)
def test_what_is_refused_is_named_with_its_place_in_the_source(body: str, told: str) -> None:
    program = assemble(f'name = "/bin/true"\noffset = 1\n{body}\n', "x.rpn")
    numbers = {"dump": 3, "debugger": 1}
    executor = InlineExecutor(PythonExecutor(program, ListVariables(), numbers))
    found = executor.native(program.probes[0])
    assert isinstance(found, str) and found.startswith(told)


def test_what_was_counted_in_the_target_goes_on_in_the_tracer() -> None:
    source = SOURCE.replace("map", "vars = 2\nmap", 1)
    executor = InlineExecutor(PythonExecutor(assemble(source, "x.rpn"), ListVariables(), {}))
    executor.locals.write(0, [3, 4])
    (calls,) = executor.maps
    calls.load(MapContents(1, [([7], [5])]))
    python = executor.handed_back()
    assert python.locals.read() == [3, 4]
    assert python.maps[0].contents() == MapContents(1, [([7], [5])])
