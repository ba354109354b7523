"""The mappings of a process: the one parser of ``/proc/PID/maps`` (and the heads of ``smaps``).

``modules`` runs in the tracer while every thread of the target is stopped, and hits of others wait:
one regular expression reads the whole text, which is limited in length. psutil's ``memory_maps``
reads ``smaps``, for which the kernel walks all pages (5.1 ms here, these 0.7), without offset of
a mapping, device or inode.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from dprobed.proc import files, procfs

#: Most mapped files of a process that are examined.
_MOST: Final = 4096
_HEAD: Final = rb"^([0-9a-f]+)-([0-9a-f]+) (\S{4}) ([0-9a-f]+) (\S+) (\d+) *"
_LINE: Final = re.compile(_HEAD + rb"(.*)$", re.MULTILINE)
_FILE_LINE: Final = re.compile(_HEAD + rb"(/.*)$", re.MULTILINE)
_PERMS: Final = {
    f"{r}{w}{x}{s}".encode(): f"{r}{w}{x}{s}"
    for r in "r-"
    for w in "w-"
    for x in "x-"
    for s in "ps"
}
_EXECUTABLE: Final = frozenset(perms for perms in _PERMS if perms[2] == ord("x"))
DELETED: Final = b" (deleted)"


class MapsError(Exception):
    """The mappings of a process cannot be read; one line."""


class CrowdedError(MapsError):
    """A process has more mappings, or mapped files, than are examined."""


class Line(NamedTuple):
    """One mapping, its name as the kernel writes it: a path, ``[stack]``, or nothing."""

    start: int
    end: int
    perms: bytes
    offset: int
    device: bytes
    inode: int
    name: bytes


class Mapping(NamedTuple):
    """One mapping of a file; ``path`` without the mark of a deleted file."""

    start: int
    end: int
    perms: str
    offset: int
    dev: str
    inode: int
    path: str
    deleted: bool

    @property
    def executable(self) -> bool:
        """Whether code in it can run."""
        return self.perms[2] == "x"

    @property
    def shared(self) -> bool:
        """Whether what is written there is written into the file (MAP_SHARED)."""
        return self.perms[3] == "s"


class Module(NamedTuple):
    """One mapped file of process ``pid``; it may be mapped several times (dlmopen).

    ``key``: device and inode as the kernel prints them, which other files may have, too (below).
    ``born`` tells the process from others that have had its number (``procfs.Birth.start``).
    """

    pid: int
    born: int | None
    path: str
    key: tuple[str, int]
    mappings: tuple[Mapping, ...]

    @property
    def base(self) -> int:
        """The lowest address of the module."""
        return self.mappings[0].start

    @property
    def deleted(self) -> bool:
        """Whether the mapped file is no longer at ``path``."""
        return self.mappings[0].deleted


def lines(text: bytes) -> list[Line]:
    """All mappings, by address."""
    return [_line(found) for found in _LINE.findall(text)]


def _line(fields: tuple[bytes, ...]) -> Line:
    start, end, perms, offset, device, inode, name = fields
    return Line(int(start, 16), int(end, 16), perms, int(offset, 16), device, int(inode), name)


def at(tid: int, address: int) -> Line | None:
    """The mapping that contains an address, or None; raises OSError."""
    with open(f"/proc/{tid}/maps", "rb") as file:
        for text in file:
            found = _LINE.match(text)
            if found is not None and (line := _line(found.groups())).end > address:
                return line if line.start <= address else None
    return None


def detailed(smaps: bytes) -> Iterator[tuple[Line, bytes]]:
    """The mappings in ``/proc/PID/smaps``, each with the lines that describe it."""
    found = list(_LINE.finditer(smaps))
    ends = [each.start() for each in found[1:]] + [len(smaps)]
    for head, end in zip(found, ends, strict=True):
        yield _line(head.groups()), smaps[head.end() : end]


def _read(pid: int, most: int) -> bytes:
    try:
        return procfs.mappings(pid, most)
    except ProcessLookupError as error:
        raise MapsError(f"process {pid} is gone") from error
    except FileNotFoundError as error:
        raise MapsError(f"no process {pid}") from error
    except OSError as error:
        what = f"/proc/{pid}/maps: {error.strerror}"
        if error.errno == errno.EFBIG:
            raise CrowdedError(what) from error
        raise MapsError(f"{what}\nhint: the process must be one that you may trace") from error


def _path(pid: int, fields: tuple[bytes, ...]) -> tuple[str, bool]:
    """The path of a mapping, and whether the file is not there any more."""
    raw = fields[6]
    if b"\\012" in raw:  # a line's end, the only character that the kernel escapes; or these four
        raw = _exact(pid, fields) or raw.replace(b"\\012", b"\n")
    deleted = raw.endswith(DELETED) and not _is_there(raw, fields)
    if deleted:
        raw = raw.removesuffix(DELETED)
    # Paths go into messages, which are UTF-8. One that is not is opened by its mapping, or not at
    # all: a tracer that could not speak of it died of it, with all its targets. Not with `\xff` in
    # it, which may be the name of another file.
    return raw.decode(errors="replace"), deleted


def _exact(pid: int, fields: tuple[bytes, ...]) -> bytes:
    """The path of a mapping as it is; empty where that cannot be read."""
    name = f"/proc/{pid}/map_files/{int(fields[0], 16):x}-{int(fields[1], 16):x}"
    try:
        return os.fsencode(os.readlink(name))  # noqa: PTH115
    except OSError:
        return b""


def _is_there(path: bytes, fields: tuple[bytes, ...]) -> bool:
    """Whether a mapped file really has the name that looks like the mark of a deleted one.

    Whoever has it mapped has its name in the kernel's cache.
    """
    found = files.known_facts(os.fsdecode(path))
    return found is not None and found.inode == int(fields[5])


def _by_file(
    pid: int, groups: Iterable[list[tuple[bytes, ...]]]
) -> Iterator[list[tuple[bytes, ...]]]:
    """Take apart the mappings of several files that show the same device, inode and path.

    Only where one file would be mapped twice, which few are: that costs a look at each mapping.
    """
    for group in groups:
        offsets = [fields[3] for fields in group if fields[2] in _EXECUTABLE]
        if len(set(offsets)) == len(offsets):
            yield group
            continue
        files: dict[bytes, list[tuple[bytes, ...]]] = {}
        for fields in group:
            name = f"/proc/{pid}/map_files/{int(fields[0], 16):x}-{int(fields[1], 16):x}"
            files.setdefault(_opened(name), []).append(fields)
        yield from files.values()


def _opened(name: str) -> bytes:
    """What is opened by a name: its mount and inode; empty where that is not for us.

    The file's own status is not asked for: a file system (FUSE) may take long to answer.
    """
    try:
        descriptor = os.open(name, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        with open(f"/proc/self/fdinfo/{descriptor}", "rb") as file:
            return b"".join(line for line in file if line.startswith((b"mnt_id:", b"ino:")))
    finally:
        os.close(descriptor)


def modules(pid: int, *, most: int = procfs.MOST_OF_MAPS) -> list[Module]:
    """The files of which a process maps code, by address; raises MapsError.

    CrowdedError: there are more than are examined (the list has at ``most`` so many bytes).
    """
    # Two files may have one device and inode here: of btrfs the number of the whole file system is
    # printed, of overlayfs a layer's. Such have two paths, unless one is mounted over the other.
    groups: dict[tuple[bytes, ...], list[tuple[bytes, ...]]] = {}
    for fields in _FILE_LINE.findall(_read(pid, most)):
        group = groups.get(fields[4:7])
        if group is None:
            groups[fields[4:7]] = [fields]
        else:
            group.append(fields)
    born = procfs.start_time(pid)
    found = []
    for group in _by_file(pid, groups.values()):
        code = [fields for fields in group if fields[2] in _EXECUTABLE]
        if not code:
            continue
        device, inode = group[0][4:6]
        key = device.decode("ascii"), int(inode)
        path, deleted = _path(pid, group[0])
        mappings = tuple(
            [
                Mapping(
                    int(start, 16),
                    int(end, 16),
                    _PERMS.get(perms) or perms.decode("ascii"),
                    int(offset, 16),
                    *key,
                    path,
                    deleted,
                )
                for start, end, perms, offset, _, _, _ in group
            ]
        )
        found.append(Module(pid, born, path, key, mappings))
    if len(found) > _MOST:
        raise CrowdedError(f"process {pid} maps code of more than {_MOST} files")
    return found
