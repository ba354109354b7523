"""The private folders of debuggers' sockets: each is locked for as long as its tracer lives.

One that was killed leaves its folder behind. Whoever makes the next one, or undoes what a killed
tracer has left, removes those of the same user that nobody holds any more.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import tempfile
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Final

_PREFIX: Final = "dprobed-debug-"
#: Ends the names of those that are locked.
_LOCKED: Final = ".lk"
#: Abandoned ones that are looked for at once.
_MOST: Final = 256


def socket_folder() -> Path:
    """The folder in which private folders of the user are made."""
    runtime = Path(f"/run/user/{os.geteuid()}")
    return runtime if os.access(runtime, os.W_OK) else Path(tempfile.gettempdir())


class PrivateFolder:
    """A new one; raises OSError when there can be none."""

    def __init__(self, inside: Path) -> None:
        remove_abandoned(inside)
        while True:
            self.path: Path = Path(tempfile.mkdtemp(_LOCKED, _PREFIX, inside))
            try:
                self._descriptor = _lock(self.path)
            except (FileNotFoundError, BlockingIOError):
                continue  # It was taken for an abandoned one.
            except BaseException:
                shutil.rmtree(self.path, ignore_errors=True)
                raise
            return

    def close(self) -> None:
        """Remove it."""
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._descriptor)


def remove_abandoned(inside: Path) -> None:
    """Remove those of this user that tracers have left which were killed."""
    with suppress(OSError):
        for path in islice(inside.glob(f"{_PREFIX}*{_LOCKED}"), _MOST):
            with suppress(OSError):
                descriptor = _lock(path)
                shutil.rmtree(path, ignore_errors=True)
                os.close(descriptor)


def _lock(path: Path) -> int:
    """A folder of this user that nobody else holds; raises OSError."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(path, flags)
    try:
        found = os.fstat(descriptor)
        if found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o077:
            raise PermissionError(f"{path} is not of this user alone")
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Whoever had it may have removed it since.
        if not os.path.samestat(found, path.lstat()):
            raise FileNotFoundError(path)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor
