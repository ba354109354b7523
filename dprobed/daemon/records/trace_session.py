"""A trace session: a handler on the facility ``trace`` that writes its reports to a trace.

Its records are encoded in the daemon's loop, in batches, and written by a thread of its own
(trace/writer.py) at the latest ``FLUSH`` seconds later. A flight recorder keeps the last ones in
memory instead, and writes them as one chunk when a client asks, or when a program ends by
``exit dump``.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import Final

from dprobed.daemon.records.dispatcher import Handler, Report, Verdict
from dprobed.daemon.records.trace_encoders import BATCH, Encoder
from dprobed.trace.ctf import RecordBlock
from dprobed.trace.writer import Writer
from dprobed.wire.messages import TraceInfo, TraceStart

#: Seconds until a record is given to the writer thread.
FLUSH: Final = 0.25
#: Seconds until records that other tracers sent before a record that triggers a save have arrived.
_SETTLE: Final = 0.2
#: Seconds between two saves of a flight recorder that records trigger.
_SAVE_PAUSE: Final = 1.0
#: Chunks within the limits of a session.
FOLDER_CHUNKS: Final = 8


class TraceSession(Handler):
    """One trace session; ``what``: the request that started it."""

    def __init__(
        self, what: TraceStart, encoder: Encoder, writer: Writer, loop: asyncio.AbstractEventLoop
    ) -> None:
        super().__init__(f"trace.{what.name}", facility="trace", owner="dprobed")
        self.what = what
        self.writer = writer
        self._encoder = encoder
        self._loop = loop
        self._timer: asyncio.TimerHandle | None = None
        self._ring: deque[RecordBlock] = deque()
        self._ring_bytes = 0
        self._saved = 0.0
        self._save_timer: asyncio.TimerHandle | None = None
        self._taken = 0
        self._refused = 0
        self._overwritten = 0
        self._age: asyncio.TimerHandle | None = None
        if what.max_seconds is not None:
            self._watch_age(what.max_seconds)

    # -- records --------------------------------------------------------------------------------

    def offer(self, report: Report) -> Verdict:
        """Take a report (dispatcher)."""
        self._taken += 1
        if self.what.flight_bytes is None and self.writer.full:
            self._refused += 1
            self._encoder.refuse(report)
            return Verdict.DROPPED
        self._encoder.add(report)
        if self._timer is None:
            self._timer = self._loop.call_later(FLUSH, self._flush)
        if self._taken % BATCH == 0:
            self._pass_on(self._encoder.take(all_=False))
        return Verdict.CONTINUE

    def _flush(self) -> None:
        self._timer = None
        self._pass_on(self._encoder.take(all_=True))
        for stream in self._encoder.ended():
            if self.what.flight_bytes is None:
                self.writer.end_stream(stream)

    def _pass_on(self, blocks: list[RecordBlock]) -> None:
        if self.what.flight_bytes is not None:
            self._keep(blocks, self.what.flight_bytes)
            return
        for block in blocks:
            if not self.writer.give(block):
                self._refused += block.count
                if block.stream is not None:
                    block.stream.dropped += block.count

    def _keep(self, blocks: list[RecordBlock], room: int) -> None:
        self._ring.extend(blocks)
        self._ring_bytes += sum(len(block.data) for block in blocks)
        while self._ring_bytes > room:
            oldest = self._ring.popleft()
            self._ring_bytes -= len(oldest.data)
            self._overwritten += oldest.count

    # -- requests -------------------------------------------------------------------------------

    def save(self) -> int:
        """Save the flight recorder; how many records are written."""
        self._flush()
        blocks = list(self._ring)
        self._ring.clear()
        self._ring_bytes = 0
        self._saved = time.monotonic()
        if blocks:
            self.writer.give_all(blocks)
        return sum(block.count for block in blocks)

    def save_soon(self) -> None:
        """As ``save``, with a pause between saves that records trigger."""
        if self._save_timer is None:
            wait = max(_SETTLE, self._saved + _SAVE_PAUSE - time.monotonic())
            self._save_timer = self._loop.call_later(wait, self._save_now)

    def _save_now(self) -> None:
        self._save_timer = None
        self.save()

    def _watch_age(self, seconds: float) -> None:
        """Have chunks that are too old removed also while no records come."""
        self.writer.poke()
        wait = min(max(seconds / FOLDER_CHUNKS, 0.2), 60.0)
        self._age = self._loop.call_later(wait, self._watch_age, seconds)

    def close(self) -> None:
        """Write the rest and end the session."""
        for timer in (self._timer, self._age, self._save_timer):
            if timer is not None:
                timer.cancel()
        pending_save = self._save_timer is not None
        self._timer = self._age = self._save_timer = None
        if pending_save:
            self.save()
        else:
            self._flush()
        self.writer.close()

    def info(self) -> TraceInfo:
        """The session as ``dprobe trace list`` shows it."""
        what, writer = self.what, self.writer
        ring = sum(block.count for block in self._ring)
        return TraceInfo(
            name=what.name,
            folder=what.folder or "",
            format=what.format,
            everything=what.everything,
            flight_bytes=what.flight_bytes,
            armed=self.armed,
            records=self._taken,
            written=writer.written,
            held=ring,
            dropped=self._refused + writer.lost,
            overwritten=self._overwritten,
            bytes=writer.bytes,
            chunks=writer.chunks,
            problem=writer.problem,
        )
