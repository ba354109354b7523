"""The writer thread of a trace session: takes blocks, writes chunks, survives a full disk.

A block that cannot be written is lost and counted; the next one is tried anew, so a session goes on
by itself when there is room again. A chunk whose files were removed is left, and a new one begun.

Threads: the daemon's loop owns ``_given``, the thread all else; each reads the other's numbers.
"""

from __future__ import annotations

import errno
import os
import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import Final

import msgspec

from dprobed.trace import store
from dprobed.trace.ctf import RecordBlock, Stream

#: Bytes that may wait for the thread before further blocks are refused.
QUEUE_BYTES: Final = 16 << 20

#: Makes a chunk: from the session's folder and the chunk's number, or (the journal) from nothing.
MakeChunk = Callable[[Path, int], store.Chunk]


class RotationLimits(msgspec.Struct, frozen=True):
    """When a session begins a new chunk, and how much it keeps; None: no limit."""

    max_bytes: int | None = None
    max_seconds: float | None = None
    rotate_bytes: int | None = None
    rotate_seconds: float | None = None


class _Poke(Enum):
    """Look at the clock."""

    POKE = 0


_Work = RecordBlock | list[RecordBlock] | Stream | _Poke | None


class Writer:
    """Writes the blocks of one session; ``folder`` None: to the journal.

    ``tell`` hears, in the thread, that ``problem`` has changed. (The thread itself must not log:
    the daemon forks tracers, and a lock of the log that it held would be held in them for ever.)
    """

    def __init__(
        self,
        name: str,
        folder: Path | None,
        make: MakeChunk,
        limits: RotationLimits,
        tell: Callable[[str], None],
    ) -> None:
        self._tell = tell
        self._folder = folder
        self._make = make
        self._limits = limits
        self._queue: queue.SimpleQueue[_Work] = queue.SimpleQueue()
        self._given = 0
        self._done = 0
        self._chunk: store.Chunk | None = None
        self._begun = 0.0
        #: Chunks that are complete: path, bytes, when they were ended.
        self._ended: deque[tuple[Path, int, float]] = deque()
        self.problem = ""
        self.written = 0
        self.lost = 0
        self.bytes = 0
        self.chunks = 0
        self._thread = threading.Thread(target=self._run, name=f"trace-{name}", daemon=True)
        self._thread.start()

    # -- the daemon's side ----------------------------------------------------------------------

    @property
    def full(self) -> bool:
        """Whether the queue to the thread is full."""
        return self._given - self._done > QUEUE_BYTES

    def give(self, block: RecordBlock) -> bool:
        """Queue a block; False if the queue is full."""
        if self.full:
            return False
        self._given += len(block.data)
        self._queue.put(block)
        return True

    def give_all(self, blocks: list[RecordBlock]) -> None:
        """Queue these blocks as a chunk of their own."""
        self._given += sum(len(block.data) for block in blocks)
        self._queue.put(blocks)

    def end_stream(self, stream: Stream) -> None:
        """Close a stream."""
        self._queue.put(stream)

    def poke(self) -> None:
        """Look for chunks that have become too old."""
        self._queue.put(_Poke.POKE)

    def close(self) -> None:
        """End the queue: what is in it is still written."""
        self._queue.put(None)

    def join(self, seconds: float) -> bool:
        """Wait until all is written; False on a time-out."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    # -- the thread -----------------------------------------------------------------------------

    def _run(self) -> None:
        while (work := self._queue.get()) is not None:
            if isinstance(work, RecordBlock):
                self._write(work)
            elif isinstance(work, Stream):
                self._end_stream(work)
            elif isinstance(work, _Poke):
                if self._chunk is not None and self._full(self._chunk, 0):
                    self._end_chunk()
                self._make_room(0)
            else:
                self._end_chunk()
                for block in work:
                    self._write(block, keep=True)
                self._end_chunk()
        self._end_chunk()

    def _end_stream(self, stream: Stream) -> None:
        chunk = self._chunk
        if chunk is not None:
            self._quietly(lambda: chunk.end(stream))

    def _write(self, block: RecordBlock, *, keep: bool = False) -> None:
        try:
            try:
                self._put(block, keep=keep)
            except FileNotFoundError:
                # Removed under us (or there is no journal now): once more, from the beginning.
                self._end_chunk()
                self._forget_removed()
                self._put(block, keep=keep)
        except OSError as error:
            # Why comes before how many: whoever sees that records were lost sees why.
            self._say(self._explain(error))
            self._lose(block, block.count)
        else:
            self._lose(block, block.lost)
            self.written += block.count - block.lost
            self._say("")
        self._done += len(block.data)

    def _lose(self, block: RecordBlock, count: int) -> None:
        self.lost += count
        if block.stream is not None:
            block.stream.lost += count

    def _put(self, block: RecordBlock, *, keep: bool) -> None:
        """Write a block where it belongs; raises OSError. ``keep``: never begin a new chunk."""
        chunk = self._chunk
        if chunk is not None and not keep and self._full(chunk, len(block.data)):
            self._end_chunk()
            chunk = None
        self._make_room(len(block.data))
        if chunk is None:
            chunk = self._begin_chunk()
        before = chunk.size
        chunk.write(block)
        self.bytes += chunk.size - before
        # What describes the chunk and the block counts, too.
        self._make_room(0)

    def _full(self, chunk: store.Chunk, more: int) -> bool:
        limits = self._limits
        if limits.rotate_bytes is not None and chunk.size + more > limits.rotate_bytes:
            return chunk.size > 0
        seconds = limits.rotate_seconds
        return seconds is not None and time.monotonic() - self._begun > seconds

    def _make_room(self, more: int) -> None:
        """Remove the oldest chunks until the limits are kept."""
        limits = self._limits
        now = time.monotonic()
        while self._ended:
            path, size, ended = self._ended[0]
            old = limits.max_seconds is not None and now - ended > limits.max_seconds
            large = limits.max_bytes is not None and self.bytes + more > limits.max_bytes
            if not old and not large:
                break
            store.remove(path)
            self._ended.popleft()
            self.bytes -= size
            self.chunks -= 1

    def _forget_removed(self) -> None:
        """Forget chunks that somebody else has removed."""
        gone = [each for each in self._ended if not each[0].exists()]
        for each in gone:
            self._ended.remove(each)
            self.bytes -= each[1]
            self.chunks -= 1

    def _begin_chunk(self) -> store.Chunk:
        folder = self._folder
        number = 0
        if folder is not None:
            # Only the folder itself: what it is in may be a disk that is not mounted now.
            folder.mkdir(mode=0o700, exist_ok=True)
            number = store.next_number(folder)
        chunk = self._make(folder or Path(), number)
        self._chunk = chunk
        self._begun = time.monotonic()
        self.bytes += chunk.size
        self.chunks += folder is not None
        return chunk

    def _end_chunk(self) -> None:
        chunk, self._chunk = self._chunk, None
        if chunk is None:
            return
        before = chunk.size
        self._quietly(chunk.close)
        self.bytes += chunk.size - before
        if self._folder is not None:
            self._ended.append((chunk.path, chunk.size, time.monotonic()))

    def _quietly(self, work: Callable[[], None]) -> None:
        try:
            work()
        except FileNotFoundError:
            pass
        except OSError as error:
            self._say(self._explain(error))

    def _explain(self, error: OSError) -> str:
        where = self._folder or error.filename or "the journal"
        if self._folder is None and error.errno in (errno.ENOENT, errno.ECONNREFUSED):
            return "no journal takes entries"
        text = os.strerror(error.errno) if error.errno else str(error)
        return f"{where}: {text[:1].lower()}{text[1:]}"

    def _say(self, problem: str) -> None:
        """Set the present error (empty: none), and report it when it changes."""
        if problem != self.problem:
            self.problem = problem
            self._tell(problem)
