"""The process that writes one core, forked from the tracer.

It reads the memory through descriptors that the tracer opened, so it needs no right to trace. Its
result goes over a pipe: a ``Done``, as msgpack. If it dies before, a file is left that the next one
removes.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import shutil
import signal
import struct
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final, NoReturn

import msgspec

from dprobed import systemd_journal
from dprobed.corefile import store
from dprobed.corefile.areas import Area, dumped_size, parse_smaps, without
from dprobed.corefile.holes import Holes
from dprobed.corefile.store import StoreError, StoreLimits
from dprobed.corefile.writer import (
    Memory,
    Piece,
    ProcessImage,
    Used,
    VanishedError,
    layout,
    write_pieces,
)
from dprobed.proc import files, mounts
from dprobed.program.registers import USER_REGS
from dprobed.resolver.image import build_id_of_image

_PR_SET_PDEATHSIG: Final = 1
_DEFAULT_FILTER: Final = 0x33
#: Bytes between two looks at how much the file has on disk.
_LOOK: Final = 64 << 20
#: Pieces of memory that are worth a second process.
_WORTH_TWO: Final = 16
#: Bytes of a core that are compressed; of holes, too, each passes through `zstd`.
_MOST_PACKED: Final = 64 << 30
_FIELD_LIMIT: Final = 64 << 10


class Done(msgspec.Struct, frozen=True):
    """How a dump ended: ``error`` is empty when there is a core; ``cause``: why there is none, in a
    few words."""

    error: str = ""
    cause: str = ""
    path: str = ""
    bytes: int = 0
    size: int = 0
    seconds: float = 0.0


class Job(msgspec.Struct):
    """One dump. ``source``: the process whose memory is read (the copy, or the target itself).

    ``omitted``: ranges that are ours. ``extra``: areas that the copy does not have. ``about``: what
    the tracer has to say in the JSON file. ``stopped_at``: monotonic ns. ``probe``: which probe's
    limit it is counted for; empty: none's.
    """

    pid: int
    source: int
    process: ProcessImage
    memory: Memory
    smaps: int
    limits: StoreLimits
    omitted: list[tuple[int, int]]
    extra: list[Area]
    about: dict[str, Any]
    exe: str
    stopped_at: int
    facts: dict[str, bytes] = msgspec.field(default_factory=dict)
    probe: str = ""


def run(job: Job, result: int) -> NoReturn:
    """The main function of the process: write the core, send the result, exit."""
    for number in (signal.SIGIO, signal.SIGALRM, signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    status = 1
    try:
        done = dump(job)
        os.write(result, msgspec.msgpack.encode(done))
        status = 0
    finally:
        os._exit(status)


def dump(job: Job) -> Done:
    """Write the core and its JSON file, and enter it in the journal."""
    began = time.monotonic()
    limits = job.limits
    try:
        areas = _areas(job)
        segments = _segments(job, areas)
        holes = Holes(
            job.memory.pagemap,
            job.source,
            job.pid,
            [(at, at + len(data)) for at, data in job.memory.kept],
        )
        head, pieces, size = layout(job.process, segments, holes.used)
        compress = limits.zstd and size < _MOST_PACKED and shutil.which("zstd") is not None
        suffix = ".core.zst" if compress else ".core"
        draft = store.begin(limits, job.process.name, job.pid, suffix, job.probe)
    except VanishedError:
        return _vanished(job)
    except (StoreError, OSError) as error:
        return _refused(error, limits.folder)
    try:
        if compress:
            packed = _Packed(draft.fd, draft.check)
            packed.put(0, head)
            write_pieces(packed, pieces, job.memory, holes.used)
            packed.finish(size)
        else:
            sparse = Sparse(draft.fd, draft.check)
            sparse.put(0, head)
            _write_sparse(sparse, pieces, job.memory, holes.used)
            sparse.finish(size)
        stored = os.fstat(draft.fd).st_blocks * 512
        draft.publish(_about(job, areas, size, compress))
    except VanishedError:
        return _vanished(job)
    except (StoreError, OSError) as error:
        return _refused(error, limits.folder)
    finally:
        draft.discard()
    _tell_journal(job, draft.path)
    seconds = time.monotonic() - began
    return Done(path=str(draft.path), bytes=stored, size=size, seconds=seconds)


def _vanished(job: Job) -> Done:
    return Done(f"process {job.pid} ended while its memory was read", "the process ended")


def _write_sparse(sink: Sparse, pieces: list[Piece], memory: Memory, used: Used) -> None:
    """Write with two processes: one reads while the other writes; raises what either raises.

    Each takes the next piece when it has done one: where one of them has a busy CPU, the other does
    the more.
    """
    if len(pieces) < _WORTH_TWO:
        write_pieces(sink, pieces, memory, used)
        return
    turns = _Turns(pieces)
    reading, writing = os.pipe()
    helper = os.fork()
    if helper == 0:
        try:
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            sink.turns = turns = turns.of_another()
            failure = _failure(sink, turns.pieces(), memory, used)
            os.write(writing, msgspec.msgpack.encode(failure))
        finally:
            os._exit(0)
    os.close(writing)
    try:
        sink.turns = turns
        write_pieces(sink, turns.pieces(), memory, used)
        said = os.read(reading, 1 << 16)
    finally:
        os.kill(helper, signal.SIGKILL)
        os.waitpid(helper, 0)
    kind, text, cause = ("errno", str(errno.EIO), "")
    if said:
        kind, text, cause = msgspec.msgpack.decode(said, type=tuple[str, str, str])
    if kind == "vanished":
        raise VanishedError
    if kind == "store":
        raise StoreError(text, cause)
    if kind == "errno":
        raise OSError(int(text), os.strerror(int(text)))


def _failure(
    sink: Sparse, pieces: Iterable[Piece], memory: Memory, used: Used
) -> tuple[str, str, str]:
    """Write; returns the error in a form that can be sent."""
    try:
        write_pieces(sink, pieces, memory, used)
    except VanishedError:
        return "vanished", "", ""
    except StoreError as error:
        return "store", str(error), error.cause
    except OSError as error:
        return "errno", str(error.errno or errno.EIO), ""
    return "", "", ""


def _refused(error: StoreError | OSError, folder: Path) -> Done:
    known = store.failed(folder, error) if isinstance(error, OSError) else error
    return Done(str(known), known.cause)


def _pread_all(descriptor: int) -> bytes:
    parts = []
    while part := os.read(descriptor, 1 << 20):
        parts.append(part)
    return b"".join(parts)


def _areas(job: Job) -> list[Area]:
    text = _pread_all(job.smaps)
    if not text:
        raise VanishedError
    areas = sorted([*parse_smaps(text), *job.extra], key=lambda area: area.start)
    return [area for area in without(areas, job.omitted) if area.path != b"[vsyscall]"]


def _segments(job: Job, areas: list[Area]) -> list[tuple[Area, int]]:
    """Each mapping, with how much of it goes in."""
    wanted = _DEFAULT_FILTER
    with contextlib.suppress(OSError, ValueError):
        wanted = int(Path(f"/proc/{job.source}/coredump_filter").read_text(), 16)
    return [(area, dumped_size(area, wanted, _is_elf(job, area))) for area in areas]


def _is_elf(job: Job, area: Area) -> bool:
    # Not of shared memory, where a look at a hole would fill it.
    if not area.is_file or area.offset or b"sh" in area.flags:
        return False
    return _peek(job, area, area.start, 4) == b"\x7fELF"


def _peek(job: Job, area: Area, address: int, length: int) -> bytes:
    try:
        if not mounts.is_local(mounts.device_of(area.device)):
            return files.peek((area.device, area.inode), job.memory.mem, length, address)
        return os.pread(job.memory.mem, length, address)
    except (OSError, OverflowError):
        return b""


class _Turns:
    """A lock and a counter for two processes that write one file: the next piece, whose turn it is.

    The kernel lets one at a time write to a file, and the other would spin meanwhile.
    """

    def __init__(self, pieces: list[Piece], descriptor: int = -1) -> None:
        self._pieces = pieces
        self._descriptor = os.memfd_create("dprobed-turns") if descriptor < 0 else descriptor

    def of_another(self) -> _Turns:
        """The same for the other process, opened anew, since a lock belongs to an open file."""
        path = f"/proc/self/fd/{self._descriptor}"
        return _Turns(self._pieces, os.open(path, os.O_RDWR | os.O_CLOEXEC))

    def take(self) -> None:
        """Wait until it is our turn."""
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)

    def give(self) -> None:
        """Let the other one have its turn."""
        fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def pieces(self) -> Iterator[Piece]:
        """Pieces that neither process has begun."""
        while True:
            self.take()
            number = int.from_bytes(os.pread(self._descriptor, 4, 0), "little")
            os.pwrite(self._descriptor, (number + 1).to_bytes(4, "little"), 0)
            self.give()
            if number >= len(self._pieces):
                return
            yield self._pieces[number]


class Sparse:
    """A core file with holes. ``turns``: if another process writes to it, too.

    ``check`` is called now and then; it raises where there is no room for more.
    """

    def __init__(self, descriptor: int, check: Callable[[], None]) -> None:
        self._descriptor = descriptor
        self._check = check
        self._unseen = 0
        self.turns: _Turns | None = None

    def put(self, offset: int, data: bytes | memoryview) -> None:
        """See corefile.writer.Sink."""
        if self.turns is not None:
            self.turns.take()
        while data:
            written = os.pwrite(self._descriptor, data, offset)
            data, offset = data[written:], offset + written
            self._unseen += written
        if self.turns is not None:
            self.turns.give()
        if self._unseen >= _LOOK:
            self._unseen = 0
            self._check()

    def finish(self, size: int) -> None:
        """See corefile.writer.Sink."""
        os.ftruncate(self._descriptor, size)
        self._check()


class _Packed:
    """A core file compressed by `zstd`; holes become zeros, which compress to next to nothing."""

    def __init__(self, descriptor: int, check: Callable[[], None]) -> None:
        self._check = check
        self._at = self._looked = 0
        # Level 1: a core is wanted soon, and higher levels save little more.
        self._zstd = subprocess.Popen(
            ["zstd", "-q", "-1", "-c"],
            stdin=subprocess.PIPE,
            stdout=descriptor,
            stderr=subprocess.PIPE,
        )

    def put(self, offset: int, data: bytes | memoryview) -> None:
        """See corefile.writer.Sink."""
        self._fill(offset)
        self._write(data)

    def _fill(self, offset: int) -> None:
        while self._at < offset:
            self._write(bytes(min(offset - self._at, 1 << 20)))

    def _write(self, data: bytes | memoryview) -> None:
        assert self._zstd.stdin is not None
        try:
            self._zstd.stdin.write(data)
        except BrokenPipeError:
            self._end()
        self._at += len(data)
        if self._at - self._looked >= _LOOK:
            self._looked = self._at
            self._check()

    def finish(self, size: int) -> None:
        """See corefile.writer.Sink."""
        self._fill(size)
        self._end()
        self._check()

    def _end(self) -> None:
        with contextlib.suppress(BrokenPipeError):
            _, said = self._zstd.communicate()
        if self._zstd.returncode != 0:
            raise StoreError(f"zstd failed: {' '.join(said.decode(errors='replace').split())}")


def _build_ids(job: Job, areas: list[Area]) -> list[dict[str, Any]]:
    """The mapped ELF files with their build-ids, as they are in memory."""
    found: dict[bytes, dict[str, Any]] = {}
    for area in areas:
        if area.path in found or not _is_elf(job, area):
            continue
        build_id = build_id_of_image(partial(_peek, job, area), area.start)
        found[area.path] = {
            "path": area.path.decode(errors="replace"),
            "start": area.start,
            "build_id": build_id,
        }
    return list(found.values())


def _about(job: Job, areas: list[Area], size: int, compressed: bool) -> dict[str, Any]:
    """The contents of the JSON file. A process that was not copied has been stopped until now."""
    if "pause_ns" not in job.about:
        job.about["pause_ns"] = time.monotonic_ns() - job.stopped_at
    threads = job.process.threads
    words = struct.unpack(f"<{len(USER_REGS)}Q", threads[0].registers)
    return {
        "version": 1,
        **job.about,
        "command": job.process.name.decode(errors="replace"),
        "arguments": job.process.arguments.decode(errors="replace"),
        "executable": job.exe,
        "uid": job.process.uid,
        "gid": job.process.gid,
        "threads": [thread.tid for thread in threads],
        "registers": dict(zip(USER_REGS, words, strict=True)),
        "modules": _build_ids(job, areas),
        "size": size,
        "compressed": compressed,
        "limits": job.limits.shown(),
        "process_limits": _process_limits(job.source),
    }


def _process_limits(pid: int) -> dict[str, list[str]]:
    """The resource limits of the process: soft and hard."""
    found = {}
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/limits").read_text().splitlines()[1:]:
            found[line[:26].strip()] = line[26:].split()[:2]
    return found


#: SD_MESSAGE_COREDUMP (systemd/sd-messages.h): coredumpctl lists entries with it.
_COREDUMP: Final = b"fc2e22bc6ee647b6b90729ab34a250b1"


def _tell_journal(job: Job, path: Path) -> None:
    """Make the core known to coredumpctl, where there is a journal."""
    thread = job.process.threads[0]
    number = thread.signal or signal.SIGTRAP
    comm = job.process.name.decode(errors="replace")
    text = f"Process {job.pid} ({comm}) of user {job.process.uid} was dumped by dprobed."
    fields = {
        "MESSAGE": text.encode(),
        "MESSAGE_ID": _COREDUMP,
        "PRIORITY": b"5",
        "SYSLOG_IDENTIFIER": b"dprobed",
        "COREDUMP_PID": str(job.pid).encode(),
        "COREDUMP_TID": str(thread.tid).encode(),
        "COREDUMP_UID": str(job.process.uid).encode(),
        "COREDUMP_GID": str(job.process.gid).encode(),
        "COREDUMP_SIGNAL": str(int(number)).encode(),
        "COREDUMP_SIGNAL_NAME": signal.Signals(number).name.encode(),
        "COREDUMP_TIMESTAMP": str(time.time_ns() // 1000).encode(),
        "COREDUMP_HOSTNAME": os.uname().nodename.encode(),
        "COREDUMP_COMM": job.process.name,
        "COREDUMP_CMDLINE": job.process.arguments,
        "COREDUMP_EXE": os.fsencode(job.exe),
        "COREDUMP_FILENAME": os.fsencode(path),
        **job.facts,
    }
    systemd_journal.post({name: value[:_FIELD_LIMIT] for name, value in fields.items()})
