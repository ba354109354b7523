"""Maps of values of a target are set as a whole, or not at all."""

from __future__ import annotations

from contextlib import nullcontext

import pytest

from dprobed.program.exec.python import PythonExecutor
from dprobed.program.exec.variables import ListVariables
from dprobed.program.maps import Entry
from dprobed.program.rpn.parser import assemble
from dprobed.tracer.inserted import Inserted, RequestError
from dprobed.tracer.maps import TargetMaps
from dprobed.wire import protocol

SOURCE = """
name = libc.so.6
map = seen, value, keys=1, size=65536
offset = getppid
  abort
"""


def test_what_finds_no_room_is_refused_and_leaves_the_map_as_it_was() -> None:
    inserted: dict[int, Inserted] = {}
    maps = TargetMaps(inserted, lambda: nullcontext(True))
    program = assemble(SOURCE, "x.rpn")
    executor = PythonExecutor(program, ListVariables(0), {}, room=maps.room)
    inserted[5] = Inserted(5, program, executor, check_opcode=True, engines=("trap",))
    maps.write(protocol.SetMap(1, 1234, 5, "seen", [([b"cat"], [7])]))
    long: list[Entry] = [([b"%05d" % number * 180], [1]) for number in range(3000)]
    with pytest.raises(RequestError, match=r"no room for \d+ of 3000 keys; it stays as it was"):
        maps.write(protocol.SetMap(2, 1234, 5, "seen", long))
    (state,) = maps.read(protocol.Maps(3, 1234, 5))
    assert (state.lost, state.entries) == (0, [([b"cat"], [7])])
