"""Programs whose maps are in memory that the target can write to as well."""

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
