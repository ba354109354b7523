"""The modules of a process: which files it maps, where, and which file that really is.

``modules`` runs in the tracer while every thread of the target is stopped, and hits of others wait:
one regular expression reads the whole of ``/proc/PID/maps``, and that has an end.
"""

from __future__ import annotations

import errno
import os
import re
import sys
from functools import lru_cache
from pathlib import Path
from typing import Final, NamedTuple

from dprobed.binary.elf import ElfFile, build_id_in_notes, open_fd, open_path
from dprobed.binary.errors import CrowdedError, LocationError
from dprobed.proc import procfs

_PAGE: Final = 4096
#: Files of a process that are opened to see what they are.
_MOST: Final = 4096
_FILE_LINE: Final = re.compile(
    rb"^([0-9a-f]+)-([0-9a-f]+) (\S+) ([0-9a-f]+) (\S+ \d+) +(/.*)$", re.MULTILINE
)
_PERMS: Final = {
    f"{r}{w}{x}{s}".encode(): f"{r}{w}{x}{s}"
    for r in "r-"
    for w in "w-"
    for x in "x-"
    for s in "ps"
}
_EXECUTABLE: Final = frozenset(perms for perms in _PERMS if perms[2] == ord("x"))
_DELETED: Final = " (deleted)"


class Mapping(NamedTuple):
    """One line of ``/proc/PID/maps``; ``path`` without the mark of a deleted file."""

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


class Module(NamedTuple):
    """One mapped file of process ``pid``; it may be mapped several times (dlmopen).

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


def _read(pid: int, most: int) -> bytes:
    try:
        return procfs.mappings(pid, most)
    except ProcessLookupError as error:
        raise LocationError(f"process {pid} is gone") from error
    except FileNotFoundError as error:
        raise LocationError(f"no process {pid}") from error
    except OSError as error:
        what = f"/proc/{pid}/maps: {error.strerror}"
        if error.errno == errno.EFBIG:
            raise CrowdedError(what) from error
        raise LocationError(what, "the process must be one that you may trace") from error


def _path(raw: bytes) -> tuple[str, bool]:
    # Paths go into messages, which are UTF-8. One that is not is opened by its mapping, or not at
    # all: a tracer that could not speak of it died of it, with all its targets.
    path = raw.decode(errors="backslashreplace")
    if "\\012" in path:  # the only character that the kernel escapes here
        path = path.replace("\\012", "\n")
    if path.endswith(_DELETED):
        return path.removesuffix(_DELETED), True
    return path, False


def modules(pid: int, *, however_many: bool = False) -> list[Module]:
    """The files of which a process maps code, by address; raises LocationError.

    CrowdedError: they are more than are looked through, unless that is asked for.
    """
    groups: dict[bytes, list[tuple[bytes, ...]]] = {}
    most = sys.maxsize if however_many else procfs.MOST_OF_MAPS
    for fields in _FILE_LINE.findall(_read(pid, most)):
        group = groups.get(fields[4])  # device and inode
        if group is None:
            groups[fields[4]] = [fields]
        else:
            group.append(fields)
    born = procfs.start_time(pid)
    found = []
    for file, group in groups.items():
        if not any(fields[2] in _EXECUTABLE for fields in group):
            continue
        device, _, inode = file.decode("ascii").partition(" ")
        number = int(inode)
        path, deleted = _path(group[0][5])
        mappings = tuple(
            [
                Mapping(
                    int(start, 16),
                    int(end, 16),
                    _PERMS.get(perms) or perms.decode("ascii"),
                    int(offset, 16),
                    device,
                    number,
                    path,
                    deleted,
                )
                for start, end, perms, offset, _, _ in group
            ]
        )
        found.append(Module(pid, born, path, (device, number), mappings))
    if len(found) > _MOST and not however_many:
        raise CrowdedError(f"process {pid} maps code of more than {_MOST} files")
    return found


def open_module(pid: int, module: Module) -> ElfFile:
    """The file that is mapped, even if another one has its path now.

    Through ``/proc/PID/map_files``, which opens the mapped inode itself (needs CAP_SYS_ADMIN or
    CAP_CHECKPOINT_RESTORE in the first user namespace). Without that right: the file of that path
    in the process's own file system, if its build-id is the one in the process's memory. Raises
    LocationError, also where that file was replaced.
    """
    mapping = next((m for m in module.mappings if m.executable), module.mappings[0])
    root = _root_of(pid)
    name = f"/proc/{pid}/map_files/{mapping.start:x}-{mapping.end:x}"
    try:
        fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return _open_by_path(pid, module, root)
    return open_fd(fd, module.path, root)


def _root_of(pid: int) -> str:
    """What to put before paths of the process: nothing if it has the same mounts as we.

    The kernel writes paths in ``maps`` as the reader sees them, also those of a process under
    ``chroot``; but in another mount namespace from that namespace's own root on.
    """
    try:
        if Path(f"/proc/{pid}/ns/mnt").samefile("/proc/self/ns/mnt"):
            return ""
    except OSError:
        pass
    return f"/proc/{pid}/root"


def _open_by_path(pid: int, module: Module, root: str) -> ElfFile:
    replaced = LocationError(
        f"{module.path}: the file was replaced or deleted since process {pid} mapped it",
        "run as root, who can read the mapped file, or start the program again",
    )
    if module.deleted:
        raise replaced
    elf = open_path(module.path, root)
    inside = _memory_build_id(pid, module, elf)
    if inside is not None or elf.build_id is not None:
        if inside != elf.build_id:
            raise replaced
        return elf
    device = os.makedev(*(int(part, 16) for part in module.key[0].split(":")))
    if (device, module.key[1]) != elf.identity[:2]:
        raise LocationError(
            f"{module.path}: without a build-id nobody can tell whether it is the file that "
            f"process {pid} maps",
            "run as root, or link the program with -Wl,--build-id",
        )
    return elf


def _memory_build_id(pid: int, module: Module, elf: ElfFile) -> str | None:
    """The build-id in the memory of the process, read where the mapped file's own headers say."""
    first = next((m for m in module.mappings if m.offset == 0), None)
    if first is None:
        return None
    try:
        fd = os.open(f"/proc/{pid}/mem", os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise LocationError(f"/proc/{pid}/mem: {error.strerror}") from error
    try:
        head = os.pread(fd, _PAGE, first.start)
        return _build_id_of_image(fd, head, first.start)
    except (OSError, OverflowError) as error:
        raise LocationError(f"process {pid}: cannot read its memory: {error}") from error
    finally:
        os.close(fd)


def _build_id_of_image(fd: int, head: bytes, start: int) -> str | None:
    phoff = int.from_bytes(head[32:40], "little")
    count = int.from_bytes(head[56:58], "little")
    for number in range(min(count, 64)):
        header = head[phoff + number * 56 : phoff + number * 56 + 56]
        if len(header) == 56 and header[:4] == b"\x04\0\0\0":  # PT_NOTE
            # By file offset: notes lie in the first segment, which is mapped at ``start``.
            offset = int.from_bytes(header[8:16], "little")
            size = int.from_bytes(header[32:40], "little")
            found = build_id_in_notes(os.pread(fd, min(size, 1 << 16), start + offset))
            if found:
                return found
    return None


def matches(module: Module, elf: ElfFile | None, name: str) -> bool:
    """Whether a program's ``name`` means this module: path, base name, soname or build-id.

    Paths may lead over symbolic links; a path that is not absolute matches the end of the module's.
    Without ``elf`` only paths and base names are compared.
    """
    path = module.path
    if "\0" in name:
        return False
    if "/" in name:
        if not name.startswith("/"):
            return path.endswith("/" + os.path.normpath(name))
        return path == name or _real_of(module.pid, module.born, name) == path
    folder, _, base = path.rpartition("/")
    if name == base:
        return True
    if elf is not None and (name == elf.soname or name.lower() == elf.build_id):
        return True
    # python3 is python3.11, libz.so is libz.so.1.2.13: a link beside the module itself.
    return _link_target(module.pid, module.born, f"{folder}/{name}") == path


# Remembered, for this one process: the engine asks for every probe of a program and every module.
@lru_cache(maxsize=4096)
def _real_of(pid: int, born: int | None, path: str) -> str:
    return _real(_root_of(pid), path)


@lru_cache(maxsize=4096)
def _link_target(pid: int, born: int | None, path: str) -> str | None:
    """What a symbolic link leads to in the end; ``None`` if ``path`` is none."""
    root = _root_of(pid)
    return _real(root, path) if Path(root + path).is_symlink() else None


def _real(root: str, path: str) -> str:
    """``path`` without symbolic links, as a process sees it whose ``/`` is ``root``."""
    if not root:
        return os.path.realpath(path)
    done = ""
    left = [part for part in reversed(path.split("/")) if part not in ("", ".")]
    links = 0
    while left:
        part = left.pop()
        if part == "..":
            done = done.rpartition("/")[0]
            continue
        try:
            target = str(Path(f"{root}{done}/{part}").readlink())
        except OSError:
            done += "/" + part
            continue
        links += 1
        if links > 40:  # as the kernel's own limit
            return path
        if target.startswith("/"):
            done = ""
        left += [item for item in reversed(target.split("/")) if item not in ("", ".")]
    return done


def address_of(module: Module, elf: ElfFile, file_offset: int) -> list[int]:
    """The addresses at which the process has this byte of the file as code."""
    segment = elf.code_segment(file_offset)
    if segment is None:
        return []
    vaddr = file_offset - segment.offset + segment.vaddr
    return [
        vaddr + bias
        for bias in biases(module, elf)
        if _is_mapped(module, vaddr + bias, file_offset)
    ]


def data_address_of(module: Module, elf: ElfFile, vaddr: int) -> list[int]:
    """The addresses of what the file has at ``vaddr``; also .bss, which no file mapping covers."""
    return [vaddr + bias for bias in biases(module, elf)]


def biases(module: Module, elf: ElfFile) -> list[int]:
    """What the process adds to the addresses in the file: one number for each time it is loaded."""
    if not elf.relocated:
        return [0]
    code = [segment for segment in elf.segments if segment.executable]
    found: dict[int, int] = {}
    for mapping in module.mappings:
        if not mapping.executable:
            continue
        for segment in code:
            if segment.offset & -_PAGE <= mapping.offset < segment.offset + segment.file_size:
                bias = mapping.start - (segment.vaddr + mapping.offset - segment.offset)
                if not bias % _PAGE and bias not in found:
                    found[bias] = sum(
                        _is_mapped(module, each.vaddr + bias, each.offset) for each in code
                    )
    # Segments may share a page of the file, so that a mapping fits several of them: only what
    # explains most of the mappings is where the file was loaded.
    most = max(found.values(), default=0)
    return [bias for bias, fitting in found.items() if fitting == most]


def _is_mapped(module: Module, address: int, file_offset: int) -> bool:
    """Whether this byte of the file is at this address as code."""
    return any(
        mapping.start <= address < mapping.end
        and mapping.executable
        and address - mapping.start == file_offset - mapping.offset
        for mapping in module.mappings
    )
