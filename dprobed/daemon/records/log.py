"""The log of recent records, for ``dprobe log``: a ring for each program.

All rings together are bounded. Where there is no room, the program that takes more than its share
loses its oldest record, so that a loud one does not push out what another reported an hour ago.
"""

from __future__ import annotations

import itertools
from collections import Counter, deque
from operator import itemgetter
from typing import Final

from dprobed.daemon.client import Client, Refusal
from dprobed.daemon.gate import Gate
from dprobed.daemon.records.dispatcher import Handler
from dprobed.wire import messages
from dprobed.wire.notices import NoticeKind

#: Bytes of records kept for ``log``.
LOG_BYTES: Final = 2 << 20


class _Ring:
    """The last records of one program, each with its time and its number among all."""

    def __init__(self) -> None:
        self.lines: deque[tuple[int, int, bytes]] = deque()
        self.bytes = 0


class RecordLog:
    """The last records of all programs, at most LOG_BYTES of them, with the user of each program.

    ``followers``: clients that get every later record as well.
    """

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self.followers: set[Client] = set()
        #: By user and name of the program.
        self._rings: dict[tuple[int, str], _Ring] = {}
        self._number = 0
        self._bytes = 0
        self._forgotten: Counter[int] = Counter()

    def add(self, line: bytes, uid: int, program: str, time: int) -> None:
        """Keep a record of this ``time``, and drop the oldest ones beyond LOG_BYTES."""
        key = uid, program
        ring = self._rings.get(key)
        if ring is None:
            ring = self._rings[key] = _Ring()
        self._number += 1
        ring.lines.append((time, self._number, line))
        ring.bytes += len(line)
        self._bytes += len(line)
        while self._bytes > LOG_BYTES:
            self._forget(key)

    def _forget(self, newest: tuple[int, str]) -> None:
        """Drop the oldest record of a program that has more than its share."""
        key = newest
        if self._rings[key].bytes * len(self._rings) <= LOG_BYTES:
            key = max(self._rings, key=lambda each: self._rings[each].bytes)
        ring = self._rings[key]
        *_, oldest = ring.lines.popleft()
        ring.bytes -= len(oldest)
        self._bytes -= len(oldest)
        self._forgotten[key[0]] += 1
        if not ring.lines:
            del self._rings[key]

    async def log(self, client: Client, request: messages.Log) -> messages.Logged:
        """Send the kept records that the client may see, oldest first; then let it follow.

        Oldest by the time of their hits: what several tracers, and threads, report does not come in
        that order.
        """
        seen = [
            ring.lines for (uid, _), ring in self._rings.items() if self._gate.sees(client, uid)
        ]
        lines = [line for *_, line in sorted(itertools.chain(*seen), key=itemgetter(0, 1))]
        if lines and not client.offer(b"".join(lines)):
            raise Refusal("too much of what was sent is still unread; read it, and ask again")
        if request.follow:
            self.followers.add(client)
        counts = self._forgotten.items()
        forgotten = sum(count for uid, count in counts if self._gate.sees(client, uid))
        return messages.Logged(id=request.id, forgotten=forgotten)

    def tell_death(self, handler: Handler) -> None:
        """Say to who follows that a handler has died."""
        text = f"handler {handler.name} of {handler.facility} has died ({handler.owner})"
        notice = messages.Notice(kind=NoticeKind.HANDLER, pid=messages.KERNEL, tid=0, text=text)
        for follower in self.followers:
            follower.tell(notice)

    def release(self, client: Client) -> None:
        """A client is gone."""
        self.followers.discard(client)
