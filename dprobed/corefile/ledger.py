"""The dumps of the last hour, kept in the folder of cores: whoever dumps there is limited by them.

The file ``.hourly`` has a line for each dump that was begun by a probe::

    BOOT SECONDS WALL PROBE

``BOOT`` is the kernel's number of this boot and ``SECONDS`` CLOCK_BOOTTIME, which nobody can set:
by these an age is told. ``WALL``, in seconds since 1970, tells it where the boot was another one.
A line stays when its core is removed, and when its writer is killed; of a dump that fails it is
taken out. It goes when it is an hour old, and the file has grown; lines that are none are passed
over.
"""

from __future__ import annotations

import errno
import fcntl
import math
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

NAME: Final = ".hourly"
HOUR: Final = 3600.0
#: Bytes from which on old lines are taken out, and of which no more are read.
_GROWN: Final = 64 << 10
_MOST: Final = 4 << 20
#: Seconds for which another's lock is waited for.
_PATIENCE: Final = 5.0
_BOOT: Final = Path("/proc/sys/kernel/random/boot_id")


class Moment(NamedTuple):
    """A time by three clocks: the boot, seconds since it, seconds since 1970."""

    boot: str
    since: float
    wall: float

    @classmethod
    def now(cls) -> Moment:
        """This moment."""
        try:
            boot = _BOOT.read_text().strip()
        except OSError:
            boot = "?"
        return cls(boot, time.clock_gettime(time.CLOCK_BOOTTIME), time.time())

    def age(self, now: Moment) -> float:
        """How long ago it was; below 0 where that cannot be told."""
        if self.boot == now.boot and self.since <= now.since:
            return now.since - self.since
        return now.wall - self.wall


class Entry(NamedTuple):
    """A dump that was begun, and by which probe."""

    when: Moment
    probe: str

    @property
    def line(self) -> bytes:
        """As the file has it: in ms, and never later than it was."""
        boot, *times = self.when
        since, wall = (math.floor(each * 1000) / 1000 for each in times)
        return f"{boot} {since:.3f} {wall:.3f} {self.probe}\n".encode()


def ages(folder: int, probe: str, now: Moment | None = None) -> list[float]:
    """How long ago the dumps of a probe were begun, of the last hour; raises OSError.

    ``folder``: a descriptor.
    """
    try:
        descriptor = _open(folder, os.O_RDONLY)
    except FileNotFoundError:
        return []
    try:
        entries = _entries(descriptor)
    finally:
        os.close(descriptor)
    now = now or Moment.now()
    return [age for when, name in entries if name == probe and 0 <= (age := when.age(now)) < HOUR]


@contextmanager
def locked(folder: int) -> Iterator[int]:
    """The file, for whoever begins a dump: one at a time. Raises OSError."""
    descriptor = _open(folder, os.O_RDWR | os.O_CREAT)
    try:
        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise OSError(errno.ETIMEDOUT, f"{NAME} is locked by another") from None
                time.sleep(0.01)
        yield descriptor
    finally:
        os.close(descriptor)


def note(ledger: int, probe: str, now: Moment | None = None) -> Entry:
    """Enter a dump that is begun now; ``ledger``: the locked file. Raises OSError."""
    now = now or Moment.now()
    entry = Entry(now, probe)
    # Before it another may have been cut short, on a full disk.
    line = b"\n" + entry.line
    size = os.fstat(ledger).st_size
    if size < _GROWN:
        _write(ledger, line, size)
    else:
        fresh = [each for each in _entries(ledger) if 0 <= each.when.age(now) < HOUR]
        _rewrite(ledger, [*fresh, entry])
    return entry


def withdraw(ledger: int, entry: Entry) -> None:
    """Take a dump out that came to nothing; ``ledger``: the locked file. Raises OSError."""
    entries = _entries(ledger)
    kept = [each for each in entries if each.line != entry.line]
    # Of several in the same millisecond only one.
    _rewrite(ledger, kept + [entry] * (len(entries) - len(kept) - 1))


def _rewrite(ledger: int, entries: list[Entry]) -> None:
    # What is read after a crash in the midst of this is what there was, or some of it twice.
    data = b"".join(entry.line for entry in entries)
    _write(ledger, data, 0)
    os.ftruncate(ledger, len(data))


def _open(folder: int, flags: int) -> int:
    flags |= os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    descriptor = os.open(NAME, flags, 0o600, dir_fd=folder)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, f"{NAME} is not a regular file")
    return descriptor


def _write(descriptor: int, data: bytes, at: int) -> None:
    while data:
        written = os.pwrite(descriptor, data, at)
        data, at = data[written:], at + written


def _entries(descriptor: int) -> list[Entry]:
    size = os.fstat(descriptor).st_size
    data = os.pread(descriptor, _MOST, max(0, size - _MOST))
    found = []
    for line in data.split(b"\n"):
        try:
            boot, since, wall, probe = line.decode("ascii").split(" ")
            found.append(Entry(Moment(boot, float(since), float(wall)), probe))
        except ValueError:
            continue
    return found
