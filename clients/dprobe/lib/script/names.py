"""Names what scripts show of addresses and stacks, as bpftrace writes them."""

from __future__ import annotations

from typing import Any, Final

from dprobe.lib.stacks import StackNames
from dprobe.lib.symbolize import Addresses

#: Processes that are remembered as looked at.
_MOST_SEEN: Final = 1024


class ProcessNames:
    """Of any processes; files are read in this process."""

    def __init__(self) -> None:
        self._addresses = Addresses()
        self._stacks = StackNames()
        self._seen: dict[int, str] = {}

    def learn(self, pid: int, comm: str) -> None:
        """Look at what a process maps while it is there: what it says is shown later."""
        if self._seen.get(pid) != comm:
            if len(self._seen) >= _MOST_SEEN:
                self._seen.clear()
            self._seen[pid] = comm
            self._addresses.place(pid, 1, comm)

    def symbol(self, pid: int, address: int, comm: str, *, offset: bool) -> str:
        """``function+12``, or without ``offset`` its name alone; hexadecimal if it has none."""
        place = self._addresses.place(pid, address, comm)
        name, plus, behind = place.rpartition("+")
        if not plus:
            return f"{address:#x}"
        return f"{name}+{int(behind, 16)}" if offset else name

    def frames(self, stack: dict[str, Any], pid: int, mode: str) -> tuple[str, ...]:
        """A line for each frame of a stack, as ``decode_log`` has it."""
        if mode != "raw":
            self._stacks.name_frames([stack], pid)
        return tuple(_line(frame, mode) for frame in stack.get("ustack", ()))


def _line(frame: dict[str, Any], mode: str) -> str:
    address = frame.get("address", frame.get("offset", 0))
    if mode == "raw":
        return f"{address:x}"
    name = f"{frame['function']}+{frame['plus']}" if "function" in frame else f"{address:#x}"
    if mode != "perf":
        return name
    return f"{address:x} {name} ({frame.get('module', '[unknown]')})"
