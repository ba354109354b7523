"""Files that are read or written from one end to the other, where perhaps nobody answers.

``files`` opens and looks at a file without sleeping where its file system does not answer; this
goes on from there. Of a file on a far file system (``mounts``) this process only ever has a
descriptor that cannot be read (O_PATH): each piece is read, or written, by the helper, which opens
and closes the file for it. For to close a file is a question to its file system, too, and a process
that had it open could not even end.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import stat
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, BinaryIO, Final, cast

from dprobed.proc import files, helper, mounts

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

#: Bytes that the helper is asked for at once: a message has no room for more than 200 KiB.
_PIECE: Final = 1 << 17
#: Bytes that are kept of a file that is read: a trace has one for each process.
_BUFFER: Final = 1 << 15
#: Seconds for which a piece is written: a disk that has too much to write lets who writes wait.
_WRITE_PATIENCE: Final = 10.0
SILENCE: Final = "its file system does not answer"
_WRITE: Final = os.O_WRONLY | os.O_CLOEXEC | os.O_NOCTTY


def silent(path: str | os.PathLike[str]) -> helper.SilentError:
    """What is raised for a file that does not answer."""
    return helper.SilentError(errno.ETIMEDOUT, SILENCE, os.fspath(path))


def kind(path: str) -> int:
    """The type of the file that a path leads to, as ``stat.S_IFMT`` says it; 0: there is none.

    Raises OSError, which is SilentError where nobody answers.
    """
    try:
        descriptor = _located(path)
    except (FileNotFoundError, NotADirectoryError):
        return 0
    try:
        return stat.S_IFMT(files.status(descriptor)[2])
    except helper.SilentError:
        raise silent(path) from None
    finally:
        os.close(descriptor)


def open_reading(path: str) -> BinaryIO:
    """A file to be read from its beginning; raises OSError."""
    descriptor = _located(path)
    try:
        if not _is_far(descriptor):
            return open(path, "rb")
        return io.BufferedReader(_FarFile(os.dup(descriptor), path), _BUFFER)
    except helper.SilentError:
        raise silent(path) from None
    finally:
        os.close(descriptor)


def open_writing(path: str, *, new: bool = False) -> BinaryIO:
    """A file to be written from its beginning, made or emptied; raises OSError.

    ``new``: it must not be there. It has a descriptor here (``fileno``) where it is near.
    """
    flags = _WRITE | os.O_CREAT | (os.O_EXCL if new else os.O_TRUNC)
    try:
        if not _would_be_far(path):
            return os.fdopen(os.open(path, flags, 0o666), "wb")
        # The helper's folder is another.
        whole = os.path.join(os.getcwd(), path)  # noqa: PTH109, PTH118
        _, descriptor = helper.HELPER.do(path, _create, (os.fsencode(whole), flags))
    except helper.SilentError:
        raise silent(path) from None
    except ValueError as error:
        raise OSError(str(error)) from None
    return cast(BinaryIO, _FarFile(descriptor, path, writes=True))


def remove(path: str) -> None:
    """Remove a file that could not be finished; where that cannot be done either, it stays."""
    with contextlib.suppress(OSError, ValueError):
        if files.is_near(os.path.dirname(path) or "."):  # noqa: PTH120
            os.unlink(path)  # noqa: PTH108
        else:
            whole = os.path.join(os.getcwd(), path)  # noqa: PTH109, PTH118
            helper.HELPER.do(path, _remove, (os.fsencode(whole),))


def regular_files(folder: str) -> list[str]:
    """The paths of all regular files in a folder and below it, in their order; raises OSError.

    Links to files count, links to folders do not.
    """
    return sorted(os.path.join(folder, name) for name in _listed(folder, _below))  # noqa: PTH118


def entries(folder: str) -> list[str]:
    """The names of what is in a folder, in their order; a folder's ends with ``/``.

    Raises OSError.
    """
    return sorted(_listed(folder, _inside))


def _listed(folder: str, how: Callable[[bytes], bytes]) -> list[str]:
    try:
        if files.is_near(folder):
            data = how(os.fsencode(folder))
        else:
            whole = os.path.join(os.getcwd(), folder)  # noqa: PTH109, PTH118
            values = (os.fsencode(whole), int(how is _below))
            (told,), _ = helper.HELPER.do(folder, _list, values)
            assert isinstance(told, bytes)
            data = told
    except helper.SilentError:
        raise silent(folder) from None
    except ValueError as error:
        raise OSError(str(error)) from None
    return [os.fsdecode(each) for each in data.split(b"\0") if each]


class _FarFile(io.RawIOBase):
    """A file that is read or written piece by piece, by the helper."""

    def __init__(self, descriptor: int, path: str, *, writes: bool = False) -> None:
        self._descriptor = descriptor
        self._path = path
        self._writes = writes
        self._at = 0

    def readable(self) -> bool:
        """Whether it can be read (io)."""
        return not self._writes

    def writable(self) -> bool:
        """Whether it can be written (io)."""
        return self._writes

    def tell(self) -> int:
        """Where it is read or written next (io)."""
        return self._at

    def readinto(self, buffer: WriteableBuffer) -> int:
        """The next bytes (io); raises OSError."""
        view = memoryview(buffer).cast("B")
        length = min(len(view), _PIECE)
        (data,) = self._asked(_read, (length, self._at))
        assert isinstance(data, bytes)
        view[: len(data)] = data
        self._at += len(data)
        return len(data)

    def write(self, data: ReadableBuffer) -> int:
        """Write all of it (io: perhaps less); raises OSError."""
        view = memoryview(data).cast("B")
        for begin in range(0, len(view), _PIECE):
            piece = bytes(view[begin : begin + _PIECE])
            self._asked(_write, (piece, self._at), _WRITE_PATIENCE)
            self._at += len(piece)
        return len(view)

    def close(self) -> None:
        """Let go of it (io)."""
        if not self.closed:
            os.close(self._descriptor)
        super().close()

    def _asked(
        self, job: helper.Job, values: Sequence[helper.Value], patience: float | None = None
    ) -> list[helper.Value]:
        device = files.facts(self._descriptor).device
        try:
            return helper.HELPER.do(device, job, values, (self._descriptor,), patience)[0]
        except helper.SilentError:
            raise silent(self._path) from None


def _located(path: str) -> int:
    try:
        return files.locate(path)
    except helper.SilentError:
        raise silent(path) from None
    except ValueError as error:
        raise OSError(str(error)) from None


def _is_far(descriptor: int) -> bool:
    """Whether it is a file for which perhaps nobody answers: pipes and terminals are our own."""
    if mounts.is_local(files.facts(descriptor).device):
        return False
    return stat.S_ISREG(files.status(descriptor)[2])


def _would_be_far(path: str) -> bool:
    """The same of one that is to be made."""
    try:
        descriptor = files.locate(path)
    except FileNotFoundError:
        # A link that leads nowhere would be made elsewhere.
        return not files.is_near(os.path.dirname(path) or ".") or os.path.islink(path)  # noqa: PTH114, PTH120
    try:
        return _is_far(descriptor)
    finally:
        os.close(descriptor)


# --- in the helper ---


@helper.job
def _create(
    values: Sequence[helper.Value], _descriptors: Sequence[int]
) -> tuple[list[helper.Value], int]:
    path, flags = values
    assert isinstance(path, bytes)
    assert isinstance(flags, int)
    made = os.open(path, flags, 0o666)
    try:
        return [], os.open(f"/proc/self/fd/{made}", os.O_PATH | os.O_CLOEXEC)
    finally:
        os.close(made)


@helper.job
def _remove(
    values: Sequence[helper.Value], _descriptors: Sequence[int]
) -> tuple[list[helper.Value], int]:
    (path,) = values
    assert isinstance(path, bytes)
    os.unlink(path)  # noqa: PTH108
    return [], -1


@helper.job
def _read(
    values: Sequence[helper.Value], descriptors: Sequence[int]
) -> tuple[list[helper.Value], int]:
    length, offset = values
    assert isinstance(length, int)
    assert isinstance(offset, int)
    opened = os.open(f"/proc/self/fd/{descriptors[0]}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return [os.pread(opened, length, offset)], -1
    finally:
        os.close(opened)


@helper.job
def _write(
    values: Sequence[helper.Value], descriptors: Sequence[int]
) -> tuple[list[helper.Value], int]:
    data, offset = values
    assert isinstance(data, bytes)
    assert isinstance(offset, int)
    opened = os.open(f"/proc/self/fd/{descriptors[0]}", _WRITE)
    try:
        view = memoryview(data)
        while view:
            written = os.pwrite(opened, view, offset)
            view, offset = view[written:], offset + written
    finally:
        os.close(opened)  # which a full disk of another machine may say only now
    return [], -1


@helper.job
def _list(
    values: Sequence[helper.Value], _descriptors: Sequence[int]
) -> tuple[list[helper.Value], int]:
    folder, deep = values
    assert isinstance(folder, bytes)
    return [_below(folder) if deep else _inside(folder)], -1


def _below(folder: bytes) -> bytes:
    """The regular files of a folder and below, by their paths from there, each with a NUL."""

    def fail(error: OSError) -> None:
        if error.filename == folder:
            raise error

    found = []
    for above, _, names in os.walk(folder, onerror=fail):
        paths = (os.path.join(above, name) for name in names)  # noqa: PTH118
        found += [os.path.relpath(each, folder) for each in paths if os.path.isfile(each)]  # noqa: PTH113
    return b"".join(each + b"\0" for each in found)


def _inside(folder: bytes) -> bytes:
    """What is in a folder, by name, each with a NUL; a folder's has a slash before that."""
    with os.scandir(folder) as found:
        return b"".join(each.name + b"/" * each.is_dir() + b"\0" for each in found)
