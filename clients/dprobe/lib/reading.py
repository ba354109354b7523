"""Files that a user names, looked at, read and made without sleeping as long as they may let us.

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
from dprobed.proc import files, helper

#: Bytes that a helper is asked for at once.
_PIECE: Final = 1 << 18
#: BINPRM_BUF_SIZE (include/uapi/linux/binfmts.h).
_BEGINNING: Final = 256
_CREATE: Final = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC


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
    try:
        descriptor = files.open_file(path)
    except ValueError as error:
        raise OSError(str(error)) from None
    try:
        if not stat.S_ISREG(files.status(descriptor)[2]):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return _first(descriptor, _BEGINNING)
    finally:
        os.close(descriptor)


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
        descriptor = files.open_file(str(path))
        try:
            data = _first(descriptor, most + 1)
        finally:
            os.close(descriptor)
    except helper.SilentError as error:
        raise OSError(error.errno, "its file system does not answer") from None
    except ValueError as error:
        raise SourceError(str(error)) from None
    if len(data) > most:
        raise SourceError(f"it has more than {most} bytes")
    return data


def create(path: str) -> int:
    """Open a file for writing, made or emptied; raises OSError, also where nobody answers."""
    try:
        if not _is_far(path):
            return os.open(path, _CREATE, 0o666)
        # The helper's folder is another.
        whole = os.path.join(os.getcwd(), path)  # noqa: PTH109, PTH118
        return helper.HELPER.do(path, _create, (os.fsencode(whole),))[1]
    except helper.SilentError as error:
        raise OSError(error.errno, "its file system does not answer") from None
    except ValueError as error:
        raise OSError(str(error)) from None


def _is_far(path: str) -> bool:
    """Whether a file, or one that is to be made, is where perhaps nobody answers."""
    try:
        descriptor = files.locate(path)
    except FileNotFoundError:
        # A link that leads nowhere would be made elsewhere.
        return not files.is_near(os.path.dirname(path) or ".") or os.path.islink(path)  # noqa: PTH114, PTH120
    try:
        # Pipes and terminals are this process's own.
        return stat.S_ISREG(files.status(descriptor)[2]) and not files.is_near(path)
    finally:
        os.close(descriptor)


def silence(path: str | Path) -> str:
    """What is said of a file of which nobody knows when it will be there."""
    return f"{path}: its file system does not answer"


def _located(path: str) -> int:
    try:
        return files.locate(path)
    except ValueError as error:
        raise OSError(str(error)) from None


def _first(descriptor: int, most: int) -> bytes:
    """The first bytes of an open file; raises OSError."""
    data = b""
    while len(data) < most:
        part = files.read(descriptor, min(_PIECE, most - len(data)), len(data))
        if not part:
            break
        data += part
    return data


@helper.job
def _create(
    values: Sequence[helper.Value], _descriptors: Sequence[int]
) -> tuple[list[helper.Value], int]:
    (path,) = values
    assert isinstance(path, bytes)
    return [], os.open(path, _CREATE, 0o666)


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
