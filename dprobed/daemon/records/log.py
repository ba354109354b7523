"""The log of recent records, for ``dprobe log``."""

from __future__ import annotations

from collections import Counter, deque
from typing import Final

from dprobed.daemon.client import Client, Refusal
from dprobed.daemon.gate import Gate
from dprobed.wire import messages

#: Bytes of records kept for ``log``.
LOG_BYTES: Final = 2 << 20


class RecordLog:
    """The last records of all programs, at most LOG_BYTES of them, with the user of each program.

    ``followers``: clients that get every later record as well.
    """

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self.followers: set[Client] = set()
        self._lines: deque[tuple[int, bytes]] = deque()
        self._bytes = 0
        self._forgotten: Counter[int] = Counter()

    def add(self, line: bytes, uid: int) -> None:
        """Keep a record, and drop the oldest ones beyond LOG_BYTES."""
        self._lines.append((uid, line))
        self._bytes += len(line)
        while self._bytes > LOG_BYTES:
            owner, oldest = self._lines.popleft()
            self._bytes -= len(oldest)
            self._forgotten[owner] += 1

    async def log(self, client: Client, request: messages.Log) -> messages.Logged:
        """Send the kept records that the client may see, oldest first; then let it follow."""
        lines = [line for uid, line in self._lines if self._gate.sees(client, uid)]
        if lines and not client.offer(b"".join(lines)):
            raise Refusal("too much of what was sent is still unread; read it, and ask again")
        if request.follow:
            self.followers.add(client)
        counts = self._forgotten.items()
        forgotten = sum(count for uid, count in counts if self._gate.sees(client, uid))
        return messages.Logged(id=request.id, forgotten=forgotten)

    def release(self, client: Client) -> None:
        """A client is gone."""
        self.followers.discard(client)
