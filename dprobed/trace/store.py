"""Where blocks of encoded records are written: chunks in a folder, or the journal.

A chunk is a whole trace of its own (CTF) or one file. What is written is written as a whole or not
at all: after a failure (a full disk) the file has the length that it had. A file that was removed
under us is a failure too, not a place to go on writing where nobody will ever read.

All of this runs in the session's writing thread.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
from contextlib import ExitStack
from pathlib import Path
from typing import Final, Protocol

from dprobed.trace import metadata
from dprobed.trace.ctf import RecordBlock, Stream, Trace, new_uuid, packet
from dprobed.trace.lines import Format
from dprobed.trace.systemd_journal import SystemdJournalWriter

_CHUNK: Final = re.compile(r"(\d{6})(\.\w+)?")


class AppendFile:
    """A new file that is appended to, all or nothing; raises OSError."""

    def __init__(self, path: Path) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        self._descriptor = os.open(path, flags, 0o600)
        self.size = 0

    def append(self, data: bytes) -> None:
        """Append all of it; on an error the file is cut back to what it was."""
        if os.fstat(self._descriptor).st_nlink == 0:
            raise FileNotFoundError(errno.ENOENT, "the trace was removed")
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._descriptor, view) :]
        except OSError:
            os.ftruncate(self._descriptor, self.size)
            os.lseek(self._descriptor, self.size, os.SEEK_SET)
            raise
        self.size += len(data)

    def close(self) -> None:
        """Close the file; raises OSError."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


class Chunk(Protocol):
    """A chunk: one piece of a session's output."""

    @property
    def path(self) -> Path:
        """The whole of it."""
        ...

    @property
    def size(self) -> int:
        """Bytes written."""
        ...

    def write(self, block: RecordBlock) -> None:
        """Write a block; raises OSError, and then nothing of it is written."""
        ...

    def end(self, stream: Stream) -> None:
        """Close a stream."""
        ...

    def close(self) -> None:
        """Close the chunk."""
        ...


class CtfChunk:
    """A CTF trace: a folder with its metadata and a file for each stream."""

    def __init__(self, path: Path, trace: Trace) -> None:
        self.path = path
        self.size = 0
        self._trace = trace
        self._uuid = new_uuid()
        self._classes = 0
        self._exits = trace.exits()
        self._streams: dict[Stream, tuple[AppendFile, int]] = {}
        path.mkdir(mode=0o700)
        with ExitStack() as undo:
            undo.callback(shutil.rmtree, path, ignore_errors=True)
            self._metadata = AppendFile(path / "metadata")
            undo.callback(self._metadata.close)
            self._describe(trace.head(self._uuid, self._exits))
            undo.pop_all()

    def _describe(self, text: str) -> None:
        """Append to the metadata: new classes of events, before any packet that has such events."""
        exits = self._trace.exits()
        if len(exits) != len(self._exits):
            text += metadata.more_exits(exits)
        classes = len(self._trace.classes)
        text += "".join(self._trace.classes[self._classes : classes])
        if text:
            data = text.encode(errors="surrogateescape")
            self._metadata.append(data)
            self.size += len(data)
        self._classes = classes
        self._exits = exits

    def write(self, block: RecordBlock) -> None:
        """Write a block as a packet of its stream's file."""
        assert block.stream is not None
        self._describe("")
        stream = block.stream
        file, number = self._streams.get(stream) or (None, 0)
        if file is None:
            file = AppendFile(self.path / f"target-{stream.pid}-{stream.instance}")
            self._streams[stream] = (file, number)
        data = packet(block, self._uuid, number)
        file.append(data)
        self._streams[stream] = (file, number + 1)
        self.size += len(data)

    def end(self, stream: Stream) -> None:
        """Close the stream's file."""
        file, _ = self._streams.pop(stream, (None, 0))
        if file is not None:
            file.close()

    def close(self) -> None:
        """Close all files, those after one that fails too; raises OSError."""
        with ExitStack() as files:
            files.callback(self._metadata.close)
            for file, _ in self._streams.values():
                files.callback(file.close)
            self._streams.clear()


class FileChunk:
    """A file of text lines."""

    def __init__(self, path: Path, form: Format) -> None:
        self.path = path
        self._form = form
        self._empty = True
        with ExitStack() as undo:
            self._file = AppendFile(path)
            undo.callback(path.unlink, missing_ok=True)
            undo.callback(self._file.close)
            if form.begin:
                self._file.append(form.begin)
            undo.pop_all()

    @property
    def size(self) -> int:
        """Bytes written."""
        return self._file.size

    def write(self, block: RecordBlock) -> None:
        """Write lines."""
        data = block.data
        if self._empty and self._form.end:
            # What stands between two lines begins with a comma, which the first has not.
            data = data[1:]
        self._file.append(data)
        self._empty = False

    def end(self, stream: Stream) -> None:
        """There are no streams."""

    def close(self) -> None:
        """Write the end, where the format has one."""
        try:
            if self._form.end:
                self._file.append(self._form.end)
        finally:
            self._file.close()


class SystemdJournalChunk:
    """The journal as a chunk that never ends."""

    path = Path()
    size = 0

    def __init__(self, path: str) -> None:
        self._journal = SystemdJournalWriter(path)

    def write(self, block: RecordBlock) -> None:
        """Send records; those that came too fast are counted in ``block.lost``."""
        block.lost = self._journal.write(block.data.splitlines())

    def end(self, stream: Stream) -> None:
        """There are no streams."""

    def close(self) -> None:
        """Close the socket."""
        self._journal.close()


def next_number(folder: Path) -> int:
    """The number of the next chunk in a folder; raises OSError."""
    names = [path.name for path in folder.iterdir()]
    numbers = (_CHUNK.fullmatch(name) for name in names)
    return 1 + max((int(match[1]) for match in numbers if match), default=0)


def remove(path: Path) -> None:
    """Remove a chunk; one that is gone already is no error."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
