"""Files that a user names, looked at and read without sleeping as long as they may let us.

A file system may not answer (FUSE, NFS). Who asks it sleeps, perhaps where not even SIGKILL
wakes it; so it is asked by a helper (``proc.helper``), and the user is told.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

from dprobe.lib.errors import UserError
from dprobed.proc import far, files, helper

#: BINPRM_BUF_SIZE (include/uapi/linux/binfmts.h).
_BEGINNING: Final = 256


class FileFacts(NamedTuple):
    """What a file is, and what executing it would mean.

    ``allowed``: this process may; ``capable``: it gains capabilities by that; ``nosuid``: it gains
    nothing by it on its file system.
    """

    mode: int
    owner: int
    allowed: bool
    capable: bool
    nosuid: bool


def look(path: str) -> FileFacts:
    """What a file is; raises OSError, which is SilentError where nobody answers."""
    descriptor = _located(path)
    try:
        mode, owner, *flags = files.asked(descriptor, _look)
    finally:
        os.close(descriptor)
    assert isinstance(mode, int)
    assert isinstance(owner, int)
    return FileFacts(mode, owner, *map(bool, flags))


def is_regular(path: str | Path) -> bool:
    """Whether a regular file is there; raises UserError where nobody answers."""
    try:
        return stat.S_ISREG(look(str(path)).mode)
    except helper.SilentError:
        raise UserError(silence(path)) from None
    except OSError:
        return False


def real(path: str) -> str:
    """The path behind all links; of what is not there, or does not answer, the path itself."""
    try:
        descriptor = _located(path)
    except OSError:
        return path
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}")  # noqa: PTH115
    finally:
        os.close(descriptor)


def beginning(path: str) -> bytes:
    """The bytes of a regular file by which the kernel tells how to execute it; raises OSError, also
    where nobody answers."""
    kind = far.kind(path)
    if kind != stat.S_IFREG:
        number = errno.EINVAL if kind else errno.ENOENT
        raise OSError(number, os.strerror(number))
    with far.open_reading(path) as file:
        return file.read(_BEGINNING)


def read_source(path: Path, most: int) -> bytes:
    """As the preprocessor's ``read_file``; raises OSError also where nobody answers."""
    from dprobed.program.rpn.preprocessor import SourceError, read_file

    try:
        descriptor = files.locate(str(path))
        try:
            mode = files.status(descriptor)[2]
        finally:
            os.close(descriptor)
        if not stat.S_ISREG(mode):
            return read_file(path, most)  # A pipe is waited for, as everywhere.
        with far.open_reading(str(path)) as file:
            data = file.read(most + 1)
    except helper.SilentError as error:
        raise OSError(error.errno, far.SILENCE) from None
    except ValueError as error:
        raise SourceError(str(error)) from None
    if len(data) > most:
        raise SourceError(f"it has more than {most} bytes")
    return data


def silence(path: str | Path) -> str:
    """What is said of a file of which nobody knows when it will be there."""
    return f"{path}: {far.SILENCE}"


def _located(path: str) -> int:
    try:
        return files.locate(path)
    except ValueError as error:
        raise OSError(str(error)) from None


@helper.job
def _look(
    _values: Sequence[helper.Value], descriptors: Sequence[int]
) -> tuple[list[helper.Value], int]:
    (descriptor,) = descriptors
    path = f"/proc/self/fd/{descriptor}"
    found = os.fstat(descriptor)
    allowed = os.access(path, os.X_OK, effective_ids=True)
    return [found.st_mode, found.st_uid, allowed, _capable(path), _nosuid(descriptor)], -1


def _nosuid(descriptor: int) -> bool:
    try:
        return bool(os.fstatvfs(descriptor).f_flag & os.ST_NOSUID)
    except OSError:  # a file system that cannot say
        return False


def _capable(path: str) -> bool:
    try:
        return bool(os.getxattr(path, "security.capability"))
    except OSError:
        return False
