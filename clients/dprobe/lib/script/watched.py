"""The watchpoints that hits of a script have asked for."""

from __future__ import annotations

from typing import Final, Protocol

from dprobe.lib.script.decode import Act
from dprobed.program.bt import bundle as bt

_WORD: Final = (1 << 64) - 1


class WatchedProcesses(Protocol):
    """What puts watchpoints into processes."""

    def watch(self, pid: int, program: int, address: int) -> None:
        """Watch an address with one of the script's programs."""
        ...

    def unwatch(self, pid: int, address: int) -> None:
        """Watch it no more."""
        ...


class WatchedAddresses:
    """Those of one script."""

    def __init__(self) -> None:
        #: Process, program and address.
        self._watched: set[tuple[int, int, int]] = set()

    def watch(self, act: Act, action: bt.Watch, processes: WatchedProcesses) -> None:
        """Watch memory of a process, unless that is done already."""
        wanted = (act.pid, action.program, _address(act))
        if wanted[2] and wanted not in self._watched:
            self._watched.add(wanted)
            processes.watch(*wanted)

    def unwatch(self, act: Act, processes: WatchedProcesses) -> None:
        """Watch it no more."""
        address = _address(act)
        self._watched = {each for each in self._watched if (each[0], each[2]) != (act.pid, address)}
        processes.unwatch(act.pid, address)


def _address(act: Act) -> int:
    (address,) = act.values
    assert isinstance(address, int)
    return address & _WORD
