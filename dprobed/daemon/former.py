"""What programs had counted under the daemon before this one, as their tracers noted it.

A tracer's note is believed about processes that it was given with the rights of its user, so it is
kept by that user: nobody's note says what a program of another user has counted.
"""

from __future__ import annotations

import logging
from collections import Counter
from typing import Final

import msgspec

from dprobed.daemon.change_journals import Note
from dprobed.proc import procfs
from dprobed.wire import protocol
from dprobed.wire.framing import ProtocolError

#: Bytes of notes that are read of one user (not root): what the quotas of probes and of tracers
#: take, twice.
_MOST: Final = 16 << 20

_log = logging.getLogger("dprobed")


class Former(msgspec.Struct, frozen=True):
    """What one program had counted in one process at ``time`` (monotonic ns)."""

    time: int
    counted: protocol.Counted


class FormerCounts:
    """All that was found at this daemon's start, and is not gone on from yet.

    ``notes``: as they are found (change_journals.py).
    """

    def __init__(self, notes: list[Note]) -> None:
        self._notes: Final = notes
        #: Programs that are gone on with: what had other numbers has ended, and others get them.
        self.programs: Final[set[int]] = set()
        #: By user, the bytes that were taken in.
        self._taken: Final[Counter[int]] = Counter()
        #: By user of the tracer, number of the program, process, and when that was started.
        self._found: Final[dict[tuple[int, int, int, int], Former]] = {}

    def _take_in(self, uid: int, time: int, note: bytes) -> None:
        self._taken[uid] += len(note)
        if uid and self._taken[uid] > _MOST:
            _log.warning("user %d has noted more than is read: some counters begin anew", uid)
            return
        try:
            counts = protocol.decode_counts(note)
        except ProtocolError as error:
            _log.warning("what a tracer of user %d had counted is lost: %s", uid, error)
            return
        for each in counts:
            for number in {status.program for status in each.probes}:
                key = uid, number, each.pid, each.start
                before = self._found.get(key)
                if before is None or before.time < time:
                    self._found[key] = Former(time, _of_program(each, number))

    def get(self, uid: int, number: int, pid: int) -> Former | None:
        """What a program had counted in a process."""
        if number not in self.programs:
            return None
        while self._notes:
            self._take_in(*self._notes.pop())
        if not self._found:
            return None
        return self._found.get((uid, number, pid, procfs.start_time(pid) or 0))

    def forget(self, uid: int, number: int, pid: int) -> None:
        """It goes on from there."""
        if self._found:
            self._found.pop((uid, number, pid, procfs.start_time(pid) or 0), None)


def _of_program(counted: protocol.Counted, number: int) -> protocol.Counted:
    return msgspec.structs.replace(
        counted,
        probes=[each for each in counted.probes if each.program == number],
        variables=[each for each in counted.variables if each.program == number],
        maps=[each for each in counted.maps if each.program == number],
    )
