"""Files of other processes, opened and looked at by who may not sleep without limit.

To walk a path, to open a file and to ask for its size can each need an answer of the server of its
file system, which may never come (FUSE, NFS). What is known to need none is done at once: a path of
which every part is in the kernel's cache (``openat2``, RESOLVE_CACHED) to a file of a local file
system; and what is known of a file without asking (``statx``, AT_STATX_DONT_SYNC). All else goes to
the helper process, which can be given up. A descriptor that comes from there is to be read by a
process that can be, too.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
import struct
from collections.abc import Callable, Hashable, Iterator, Sequence
from functools import cache
from typing import Final, NamedTuple

from dprobed.proc import helper, mounts
from dprobed.proc.helper import SilentError

#: O_NONBLOCK: a FIFO must not hold us.
_READ: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
# include/uapi/linux/openat2.h, fcntl.h, stat.h
_RESOLVE_CACHED: Final = 0x20
_RESOLVE_IN_ROOT: Final = 0x10
_AT_FDCWD: Final = -100
_AT_EMPTY_PATH: Final = 0x1000
_AT_STATX_DONT_SYNC: Final = 0x4000
_STATX_BASIC: Final = 0x7FF
_STATX_SIZE: Final = 256
_ELF_HEAD: Final = 5
#: Folders above a name in which it is looked for, if the kernel has none of it in its cache.
_ABOVE: Final = 64
#: Open files of a process: of this one the helper has none.
_OWN: Final = re.compile(r"/dev/(fd/\d+|stdin|stdout|stderr)|/proc/(self|thread-self|\d+)/fd/\d+")


@cache
def _statx() -> Callable[[int, bytearray], None]:
    # Not before somebody asks: commands import this module when they start, and few ask.
    import ctypes

    call = ctypes.CDLL(None, use_errno=True).statx

    def ask(descriptor: int, to: bytearray) -> None:
        flags = _AT_EMPTY_PATH | _AT_STATX_DONT_SYNC
        anchor = (ctypes.c_char * len(to)).from_buffer(to)
        if call(descriptor, b"", flags, _STATX_BASIC, anchor) < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))

    return ask


@cache
def _openat2() -> Callable[[int, bytes, bytes], int]:
    import ctypes

    from dprobed.arch.x86_64.syscalls import SYS_OPENAT2

    call = ctypes.CDLL(None, use_errno=True).syscall

    def find(folder: int, path: bytes, how: bytes) -> int:
        """A descriptor, or the negative error number."""
        found = int(call(SYS_OPENAT2, folder, path, how, len(how)))
        return found if found >= 0 else -ctypes.get_errno()

    return find


class FileIdentity(NamedTuple):
    """What is known of a file."""

    device: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int


def _known(descriptor: int) -> bytearray:
    """Its struct statx (include/uapi/linux/stat.h): nlink is at 0x10, mode 0x1C, ino 0x20, size
    0x28, ctime 0x60, mtime 0x70, dev 0x88."""
    found = bytearray(_STATX_SIZE)
    _statx()(descriptor, found)
    return found


def links(descriptor: int) -> int:
    """How many names an open file has, as far as the kernel knows; raises OSError."""
    (found,) = struct.unpack_from("=I", _known(descriptor), 0x10)
    return int(found)


def facts(descriptor: int) -> FileIdentity:
    """What the kernel knows of an open file, without asking anybody; raises OSError."""
    found = _known(descriptor)
    inode, size = struct.unpack_from("=QQ", found, 0x20)
    ctime, ctime_ns = struct.unpack_from("=qI", found, 0x60)
    mtime, mtime_ns = struct.unpack_from("=qI", found, 0x70)
    major, minor = struct.unpack_from("=II", found, 0x88)
    return FileIdentity(
        os.makedev(major, minor),
        inode,
        size,
        mtime * 1_000_000_000 + mtime_ns,
        ctime * 1_000_000_000 + ctime_ns,
    )


def facts_of(path: str) -> FileIdentity:
    """The same of a magic link of /proc, which leads to a file without a path; raises OSError."""
    descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        return facts(descriptor)
    finally:
        os.close(descriptor)


def known_facts(path: str) -> FileIdentity | None:
    """What is known of the file at a path, if the kernel has it in its cache."""
    try:
        found = _cached(path, 0)
    except ValueError:
        return None
    if found is None:
        return None
    try:
        return facts(found)
    except OSError:
        return None
    finally:
        os.close(found)


def told_at_once(path: str, root: int | None = None) -> FileIdentity | None:
    """What is known of the file at a whole path; None: there is none there.

    Nobody is waited for: raises SilentError where that can only be told by a file system that may
    not answer, and where a link leads there. ``root``: a folder (O_PATH) that is the path's root.
    """
    missing: list[str] = []
    above, found = path, _look(path, 0, root)
    while found < 0 and len(missing) < _ABOVE:
        if found in (-errno.ENOENT, -errno.ENOTDIR):
            return None
        above, _, name = above.rpartition("/")
        missing.insert(0, name)
        found = _look(above or "/", 0, root)
    if found < 0:
        raise SilentError(errno.EAGAIN, "nothing is known of it")
    for name in missing:
        with _closing(found):
            if name in ("", ".", "..") or not mounts.is_local(facts(found).device):
                raise SilentError(errno.EAGAIN, "its file system may not answer")
            try:
                found = os.open(name, os.O_PATH | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=found)
            except (FileNotFoundError, NotADirectoryError):
                return None
    with _closing(found):
        if missing and _is_link(found):
            raise SilentError(errno.EAGAIN, "a link leads there")
        return facts(found)


@contextlib.contextmanager
def _closing(descriptor: int) -> Iterator[None]:
    try:
        yield
    finally:
        os.close(descriptor)


def _is_link(descriptor: int) -> bool:
    (mode,) = struct.unpack_from("=H", _known(descriptor), 0x1C)
    return stat.S_ISLNK(mode)


def locate(path: str, about: Hashable = None) -> int:
    """What a path leads to, as a descriptor that cannot be read (O_PATH).

    ``about``: what it is to the helper, if not that path alone. Raises OSError, which may be a
    SilentError, and ValueError.
    """
    if _OWN.fullmatch(path):
        return os.open(path, os.O_PATH | os.O_CLOEXEC)
    found = _cached(path, 0)
    if found is None:
        found = _in_local_folder(path)
    if found is None:
        # The helper is in another folder than we are.
        whole = path if path.startswith("/") else f"{os.getcwd()}/{path}"  # noqa: PTH109
        _, found = helper.HELPER.do(about or path, _locate, (os.fsencode(whole),))
    return found


def _in_local_folder(path: str) -> int | None:
    """The same of what is in no cache yet, but in a folder that is known and answers by itself."""
    folder, _, name = path.rpartition("/")
    if name in ("", ".", ".."):
        return None
    above = _cached(folder or ("/" if path.startswith("/") else "."), 0)
    if above is None:
        return None
    try:
        if not mounts.is_local(facts(above).device):
            return None
        found = os.open(name, os.O_PATH | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=above)
    finally:
        os.close(above)
    try:
        is_link = mounts.is_local(facts(found).device) and stat.S_ISLNK(os.fstat(found).st_mode)
    except BaseException:
        os.close(found)
        raise
    if is_link:
        os.close(found)
        return None
    return found


def is_near(path: str) -> bool:
    """Whether a path leads to a local file system; raises as ``locate`` does."""
    found = locate(path)
    try:
        return mounts.is_local(facts(found).device)
    finally:
        os.close(found)


def asked(
    descriptor: int, function: helper.Job, values: Sequence[helper.Value] = ()
) -> list[helper.Value]:
    """What a job says of an open file: done here where that needs nobody's answer; raises OSError.

    Values only, no descriptor.
    """
    device = facts(descriptor).device
    if mounts.is_local(device):
        return function(values, (descriptor,))[0]
    return helper.HELPER.do(device, function, values, (descriptor,))[0]


def open_file(path: str) -> int:
    """Open a file for reading; raises OSError, which may be a SilentError, and ValueError."""
    found = locate(path)
    try:
        return _open_local(found)
    finally:
        os.close(found)


def open_link(path: str, device: int | None = None) -> int:
    """The same of a magic link of /proc. ``device``: of its file, where that is known."""
    if device is not None and mounts.is_local(device):
        return os.open(path, _READ)
    descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        return _open_local(descriptor)
    finally:
        os.close(descriptor)


def read_link(path: str) -> str:
    """What a symbolic link says; raises OSError."""
    # Most are not there at all, which is in no cache the first time: then their folder says who
    # knows.
    folder, _, name = path.rpartition("/")
    for place, flags, rest in ((path, os.O_NOFOLLOW, ""), (folder or "/", 0, name)):
        found = _cached(place, flags)
        if found is not None:
            try:
                if mounts.is_local(facts(found).device):
                    return os.readlink(rest, dir_fd=found)
            finally:
                os.close(found)
    (target,), _ = helper.HELPER.do(path, _readlink, (os.fsencode(path),))
    assert isinstance(target, bytes)
    return os.fsdecode(target)


def elf_class(pid: int, *, ask: bool = True) -> int | None:
    """64 or 32 by the executable's ELF header, ``None`` when it cannot be read.

    ``ask``: also where its file system may not answer.
    """
    try:
        if not ask and not mounts.is_local(facts_of(f"/proc/{pid}/exe").device):
            return None
        descriptor = open_link(f"/proc/{pid}/exe")
        try:
            ident = read(descriptor, _ELF_HEAD, 0)
        finally:
            os.close(descriptor)
    except OSError:
        return None
    return {b"\x7fELF\x01": 32, b"\x7fELF\x02": 64}.get(ident)


def read(descriptor: int, length: int, offset: int) -> bytes:
    """Bytes of an open file; raises OSError."""
    (data,) = asked(descriptor, _pread, (length, offset))
    assert isinstance(data, bytes)
    return data


def status(descriptor: int) -> list[int]:
    """All that stat(2) says of an open file: device, inode, mode, links, owner, group, device that
    it is, size, size of a block, blocks, and the three times in seconds; raises OSError."""
    return [each for each in asked(descriptor, _stat) if isinstance(each, int)]


def _status_of(descriptor: int) -> list[int]:
    found = os.fstat(descriptor)
    ids = [found.st_dev, found.st_ino, found.st_mode, found.st_nlink, found.st_uid, found.st_gid]
    sizes = [found.st_rdev, found.st_size, found.st_blksize, found.st_blocks]
    return ids + sizes + [int(found.st_atime), int(found.st_mtime), int(found.st_ctime)]


def peek(about: Hashable, memory: int, length: int, address: int) -> bytes:
    """Memory of a process by a descriptor of its ``mem``, where a file is mapped.

    ``about``: that file.
    """
    (data,), _ = helper.HELPER.do(about, _pread, (length, address), (memory,))
    assert isinstance(data, bytes)
    return data


def _open_local(found: int) -> int:
    """Open what was found: here where that needs nobody's answer."""
    device = facts(found).device
    if mounts.is_local(device):
        return os.open(f"/proc/self/fd/{found}", _READ)
    _, descriptor = helper.HELPER.do(device, _open, (), (found,))
    return descriptor


def _cached(path: str, flags: int, root: int | None = None) -> int | None:
    """What a path leads to (O_PATH), where the kernel can tell without asking anybody."""
    found = _look(path, flags, root)
    return found if found >= 0 else None


def _look(path: str, flags: int, root: int | None) -> int:
    """The same; else the negative error number: it may know that there is no such file."""
    resolve = _RESOLVE_CACHED | (0 if root is None else _RESOLVE_IN_ROOT)
    # struct open_how: flags, mode, resolve.
    how = struct.pack("=QQQ", os.O_PATH | os.O_CLOEXEC | flags, 0, resolve)
    if "\0" in path:
        raise ValueError("embedded null byte")
    return _openat2()(_AT_FDCWD if root is None else root, os.fsencode(path), how)


# --- in the helper ---


def _path_of(value: helper.Value) -> bytes:
    assert isinstance(value, bytes)
    return value


@helper.job
def _locate(
    values: Sequence[helper.Value], descriptors: Sequence[int]
) -> tuple[list[helper.Value], int]:
    return [], os.open(_path_of(values[0]), os.O_PATH | os.O_CLOEXEC)


@helper.job
def _open(
    values: Sequence[helper.Value], descriptors: Sequence[int]
) -> tuple[list[helper.Value], int]:
    return [], os.open(f"/proc/self/fd/{descriptors[0]}", _READ)


@helper.job
def _readlink(
    values: Sequence[helper.Value], descriptors: Sequence[int]
) -> tuple[list[helper.Value], int]:
    return [os.readlink(_path_of(values[0]))], -1  # noqa: PTH115


@helper.job
def _stat(
    values: Sequence[helper.Value], descriptors: Sequence[int]
) -> tuple[list[helper.Value], int]:
    return [*_status_of(descriptors[0])], -1


@helper.job
def _pread(
    values: Sequence[helper.Value], descriptors: Sequence[int]
) -> tuple[list[helper.Value], int]:
    length, offset = values
    assert isinstance(length, int)
    assert isinstance(offset, int)
    return [os.pread(descriptors[0], length, offset)], -1
