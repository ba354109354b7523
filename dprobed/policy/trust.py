"""Files that a daemon may rely on: nobody but its user, and root, could have written them.

Whoever can write to what root's daemon reads could do with it whatever root can.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from dprobed.printable import readable

#: Symbolic links on the way to a file, as many as the kernel follows.
_MOST_LINKS: Final = 40


class UntrustedError(OSError):
    """A file that others could have written; ``strerror`` says so."""


def read(path: Path, most: int, trust: int | None) -> bytes:
    """The bytes of a file, at most so many, that user ``trust`` may rely on; raises OSError.

    What is checked is what is read: nobody can put another file in its place in between. A pipe or
    a device could keep the daemon waiting, and is not read; None: whoever asks may wait.
    """
    if trust is not None and (why := distrusted_way(path, trust)):
        raise UntrustedError(errno.EPERM, why)
    # Else the opening of a pipe waits already.
    waits = 0 if trust is None else os.O_NONBLOCK
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | waits
    # By its name: a folder that is opened by its number stays open where `open` refuses it.
    with open(path, "rb", opener=lambda name, _: os.open(name, flags)) as file:
        status = os.fstat(file.fileno())
        if trust is not None and not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file")
        if trust is not None and (why := _distrusted(status, path, trust)):
            raise UntrustedError(errno.EPERM, why)
        data = file.read(most + 1)
    if len(data) > most:
        raise OSError(errno.EFBIG, f"it has more than {most} bytes")
    return data


def distrusted(path: Path, uid: int) -> str:
    """Why a daemon of user ``uid`` must not do what is in a folder; empty: it may.

    Whoever can write to what root's daemon reads could do with it whatever root can. Raises
    OSError.
    """
    return distrusted_way(path, uid) or _distrusted(path.stat(), path, uid)


def distrusted_way(path: Path, uid: int) -> str:
    """Why somebody else could put another file in its place; empty: nobody can. Raises OSError.

    Where nobody else can write to the folders that lead there, from the root on, what they lead to
    stays the same after this look, too.
    """
    for step, status in _way(path):
        if stat.S_ISLNK(status.st_mode):
            # Whoever owns it where all may write (/tmp) can put another one there.
            if status.st_uid not in (0, uid):
                return f"the link {readable(step)} on the way to it belongs to {status.st_uid}"
        # In a folder with the sticky bit each entry is its owner's, who is looked at as well.
        elif (why := _distrusted(status, step, uid)) and (
            status.st_uid not in (0, uid) or not status.st_mode & stat.S_ISVTX
        ):
            return f"the folder {readable(step)} on the way to it {why}"
    return ""


def _way(path: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """The folders and symbolic links that lead to a file, from the root on; raises OSError."""
    at = Path("/")
    left = list(reversed((path if path.is_absolute() else Path.cwd() / path).parts[1:]))
    links = 0
    yield at, at.lstat()
    while left:
        name = left.pop()
        if name == "..":
            at = at.parent
            continue
        step = at / name
        status = step.lstat()
        if not stat.S_ISLNK(status.st_mode):
            if left:
                yield step, status
            at = step
            continue
        yield step, status
        links += 1
        if links > _MOST_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        target = step.readlink()
        if target.is_absolute():
            at = Path("/")
        left += reversed(target.parts[1:] if target.is_absolute() else target.parts)


def _distrusted(status: os.stat_result, path: Path, uid: int) -> str:
    if status.st_uid not in (0, uid):
        return f"belongs to user {status.st_uid}; run: chown {uid} {readable(path)}"
    if status.st_mode & (0o022 if uid == 0 else 0o002):
        return f"is writable by others; run: chmod go-w {readable(path)}"
    return ""
