"""The change journals of tracers: a file for each, which outlives it, and in a folder the daemon.

The daemon of one command has them in memory: they end with it. One that listens has them in a
folder beside its socket; the service's are in ``/run``, which stays when it is started again, and
holds more of them than systemd's store of descriptors. A file's name says with whose rights its
tracer ran, and only the daemon names files there: of what is *in* a file, which that tracer wrote,
it believes nothing.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from dprobed import change_journal, last_counts
from dprobed.change_journal import RECORD
from dprobed.daemon.child_process import User
from dprobed.proc import procfs

#: Journals of one user that stay for the next start because nobody could undo what they name.
MOST: Final = 16
_NAME: Final = re.compile(r"(\d+)-(\d+)-(-?\d+)-(\d+)")


class ChangeJournalFile:
    """The change journal of one tracer: that of ``user``, for processes of ``owner``."""

    def __init__(self, user: User, owner: int, path: Path | None, descriptor: int = -1) -> None:
        """In memory without ``path``: then ``descriptor`` is all there is of it."""
        self.user: Final = user
        self.owner: Final = owner
        self._path: Final = path
        self._descriptor = descriptor
        #: How often it was given to a tracer to undo what is in it.
        self.attempts = 0

    @contextlib.contextmanager
    def opened(self) -> Iterator[int]:
        """Its descriptor, for a child to inherit; raises OSError."""
        if self._path is None:
            yield self._descriptor
            return
        descriptor = os.open(self._path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    @property
    def is_empty(self) -> bool:
        """Whether nothing was ever changed by its tracer."""
        try:
            with self.opened() as descriptor:
                return os.fstat(descriptor).st_size <= RECORD
        except OSError:
            return True

    @property
    def is_done_with(self) -> bool:
        """Whether nothing is left to be undone of what its tracer changed, and that has ended."""
        try:
            with self.opened() as descriptor:
                return not change_journal.names(descriptor) and not self.living_writer()
        except OSError:
            return False

    def may_name(self, owner: int) -> bool:
        """Whether processes of a user may be in it."""
        return self.owner == owner or (self.owner < 0 and self.user[0] in (os.geteuid(), owner))

    def living_writer(self) -> int:
        """The tracer that it says is at work with it, if that runs; else 0."""
        try:
            with self.opened() as descriptor:
                pid, start = change_journal.writer(descriptor)
        except OSError:
            return 0
        return pid if pid and procfs.start_time(pid) == start else 0

    def last_note(self) -> Note | None:
        """What its tracer's probes had counted when it noted that last; None: it never did."""
        try:
            with self.opened() as descriptor:
                found = last_counts.read(descriptor)
        except OSError as error:
            _log.warning("what a tracer of user %d had counted is lost: %s", self.user[0], error)
            return None
        return (self.user[0], *found) if found is not None else None

    def remove(self) -> None:
        """Nothing that it names is left, or can be undone."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)
        elif self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


#: As whom a tracer ran, and its note of what was counted (``last_counts``).
Note = tuple[int, int, bytes]

_log = logging.getLogger("dprobed")


def _age(path: Path) -> float:
    with contextlib.suppress(OSError):
        return path.lstat().st_mtime
    return 0.0


class ChangeJournalFiles:
    """Makes and finds change journals; in memory without ``folder``."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder: Final = folder
        #: Of those that other daemons have left.
        self.notes: Final[list[Note]] = []
        self._count = 0

    def make(self, user: User, owner: int) -> ChangeJournalFile:
        """A new one; raises OSError."""
        self._count += 1
        if self.folder is None:
            descriptor = os.memfd_create("dprobed-changes", os.MFD_CLOEXEC)
            return ChangeJournalFile(user, owner, None, descriptor)
        path = self.folder / f"{user[0]}-{user[1]}-{owner}-{os.getpid()}{self._count:06}"
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        return ChangeJournalFile(user, owner, path)

    def open(self) -> None:
        """Make the folder, or check that nobody else can put anything into it; raises OSError."""
        if self.folder is None:
            return
        with contextlib.suppress(FileExistsError):
            self.folder.mkdir(mode=0o700)
        status = self.folder.lstat()
        mine = status.st_uid == os.geteuid() and not status.st_mode & 0o077
        if not stat.S_ISDIR(status.st_mode) or not mine:
            raise PermissionError(1, "not a folder that only this user can use; remove it")

    def found(self) -> list[ChangeJournalFile]:
        """Those that daemons before this one have left."""
        if self.folder is None:
            return []
        journals = []
        for path in sorted(self.folder.iterdir(), key=_age):
            if name := _NAME.fullmatch(path.name):
                uid, gid, owner = (int(each) for each in name.groups()[:3])
                if os.geteuid() in (0, uid):
                    journals.append(ChangeJournalFile((uid, gid), owner, path))
        return journals

    def limit(self, user: User) -> None:
        """Keep the latest ones of a user only: it is up to that user how many stay."""
        own = [each for each in self.found() if each.user == user and not each.living_writer()]
        for journal in own[:-MOST]:
            journal.remove()

    def close(self) -> None:
        """Remove what names nothing that is left, and the folder, where nothing else is in it."""
        if self.folder is None:
            return
        with contextlib.suppress(OSError):
            for journal in self.found():
                if journal.is_done_with:
                    journal.remove()
            self.folder.rmdir()
