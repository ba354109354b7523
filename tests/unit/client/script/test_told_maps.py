"""What maps had in processes that have ended, and what blocks change of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dprobe.lib.script.runner import Runner
from dprobe.lib.told_maps import MapChange, changed, forgotten
from dprobe.view.script.output import ScriptOutput

from dprobed.program.bt.compiler import compile_script
from dprobed.wire import messages
from tests.unit.client.script.test_runner import NoNames


def info(
    name: str, cells: dict[Any, list[int]], pid: int = 1, *, timed: bool = False
) -> messages.MapInfo:
    """What a process has in a map of one key."""
    return messages.MapInfo(
        number=1, program="x", pid=pid, processes=1, map=name, kind="value",
        arguments=[2, 1] if timed else [],
        keys=1, size=10, signed=True, lost=0, left_out=0,
        entries=[messages.MapEntry([key], cell) for key, cell in cells.items()],
    )  # fmt: skip


def cells(infos: list[messages.MapInfo]) -> list[dict[Any, list[int]]]:
    """What is in them, by key."""
    return [{each.key[0]: each.cell for each in one.entries} for one in infos]


def test_keys_are_changed_in_each_process_and_others_stay() -> None:
    told = [info("v", {1: [5], 2: [6]}), info("v", {2: [7]}, 2), info("w", {1: [1]})]
    found = changed(told, MapChange("v", [messages.MapEntry([3], [9])], [[2]]))
    assert cells(found) == [{1: [5], 3: [9]}, {3: [9]}, {1: [1]}]


def test_what_is_zeroed_keeps_its_keys() -> None:
    told = [info("v", {1: [5]}), info("w", {1: [1]})]
    assert cells(forgotten(told, ["v"], keep_keys=True)) == [{1: []}, {1: [1]}]
    assert cells(forgotten(told, ["v"], keep_keys=False)) == [{1: [1]}]


class Process:
    """A process whose hits set key 1 whenever it has been looked at."""

    def __init__(self) -> None:
        self.cells: dict[int, int] = {1: 0, 2: 5, 3: 5}

    def maps(self, names: Any, reset: str = "") -> list[messages.MapInfo]:
        """What it has; a hit comes right behind."""
        cells = {key: [self.cells[1], cell] for key, cell in self.cells.items()}
        found = [info("v", cells, timed=True)]
        self.cells[1] += 1
        return found

    def settle(self) -> Sequence[int]:
        """None is to be learnt."""
        return ()

    def watch(self, pid: int, program: int, address: int) -> None:
        """Nothing asks for it."""

    def unwatch(self, pid: int, address: int) -> None:
        """Nothing asks for it."""

    def put(self, changes: Sequence[MapChange]) -> None:
        """Keys are set, and forgotten."""
        for change in changes:
            for entry in change.entries:
                assert isinstance(entry.key[0], int)
                self.cells[entry.key[0]] = entry.cell[1]
            for key in change.gone:
                assert isinstance(key[0], int)
                del self.cells[key[0]]


def test_blocks_hand_over_what_they_change_and_nothing_else() -> None:
    said: list[str] = []
    script = "uprobe:m:f { @v[arg0] = @v[arg0] + 1 } begin { @v[2] = 8 } "
    script += "end { @v[2] = @v[2]; @v[4] = 7; delete(@v, 3); print(@v[1]); }"
    output = ScriptOutput("text", "/dev/null", 1, bare=True)
    runner = Runner(compile_script(script, "stdin"), output, NoNames(), said.append)
    process = Process()
    runner.begin()
    runner.work_in(process)
    output.attached(1)
    runner.start()
    assert process.cells == {1: 0, 2: 8, 3: 5}
    # Each look of the block and of what is printed lets a hit come.
    runner.end()
    output.close()
    looks = process.cells.pop(1)
    assert looks > 1
    assert process.cells == {2: 8, 4: 7}
    assert said == []
