"""The cache on disk: symbol tables, sorted once, and answers from debug information.

A cache file ``BUILD-ID.symbols`` or ``BUILD-ID.NAME`` holds

    magic 8, digest 16, crc32 u32 of what follows, then a packed table (``symbols``), or the answer

The digest of a table is of the symbol sections themselves (with those of the separate debug file),
that of an answer of the question and of what identifies the unchanged files: what is in the cache
was surely made from them. So a file with another file's build-id, or debug symbols installed later,
never get the wrong table. A cache file that is damaged, of another version or
not ours is made again; a folder that cannot be written is done without.

The folder is bounded in bytes and files, whatever files there are to be asked about: what was used
longest ago is removed for what comes, also what a killed process has left half written.
"""

from __future__ import annotations

import contextlib
import os
import stat
import zlib
from hashlib import blake2b
from pathlib import Path
from typing import Final

from dprobed.binary.elf import ElfFile
from dprobed.binary.symbols import RawSymbols, SymbolTable, pack

_MAGIC: Final = b"DPCACHE\1"
_HEADER_SIZE: Final = 8 + 16 + 4
#: Fewer symbols than this are sorted faster than a cache file is checked.
_WORTHWHILE: Final = 500
#: Bytes and files that the folder has at most; a table of that size is not kept.
MOST_BYTES: Final = 512 << 20
MOST_FILES: Final = 1000


def packed(elf: ElfFile, tables: list[tuple[RawSymbols, int]]) -> SymbolTable:
    """The sorted symbols of these tables: from the cache, else sorted and stored there."""
    if elf.build_id is None or sum(len(table.symbols) for table, _ in tables) < 24 * _WORTHWHILE:
        return pack(tables)
    digest = _digest(tables)
    name = f"{elf.build_id}.symbols"
    data = load(name, digest)
    if data is not None:
        with contextlib.suppress(ValueError):
            return SymbolTable(data)
    table = pack(tables)
    store(name, digest, table.data)
    return table


def _digest(tables: list[tuple[RawSymbols, int]]) -> bytes:
    state = blake2b(digest_size=16)
    for table, shift in tables:
        names = repr(sorted(table.version_names.items())).encode()
        for part in (table.symbols, table.strings, table.versions, names):
            state.update(len(part).to_bytes(8, "little"))
            state.update(part)
        state.update(shift.to_bytes(16, "little", signed=True))
    return state.digest()


def folder() -> Path:
    """Where cache files are kept for the user that we run as.

    After a change of user the environment is still the former user's: a folder that it names
    is used only if it is ours (see ``_ours``).
    """
    if os.geteuid() == 0:
        return Path("/var/cache/dprobed")
    base = os.environ.get("XDG_CACHE_HOME", "")
    if base.startswith("/"):
        return Path(base, "dprobed")
    return Path(os.path.expanduser("~"), ".cache", "dprobed")  # noqa: PTH111 (never raises)


def _ours(status: os.stat_result) -> bool:
    return status.st_uid == os.geteuid() and not status.st_mode & 0o022


def load(name: str, digest: bytes) -> bytes | None:
    """What is kept under a name; None where there is nothing that has this digest."""
    path = folder() / name
    try:
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        # By its name: a folder that is opened by its number stays open where `open` refuses it.
        with open(path, "rb", buffering=0, opener=lambda name, _: os.open(name, flags)) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode) or not _ours(status):
                return None
            header = file.read(_HEADER_SIZE)
            if header[:24] != _MAGIC + digest:
                return None
            data = file.read()
            os.utime(file.fileno())
        if zlib.crc32(data).to_bytes(4, "little") != header[24:]:
            return None
        return data
    except (OSError, ValueError):
        return None


def store(name: str, digest: bytes, data: bytes) -> None:
    """Keep something under a name, where that is possible."""
    path = folder() / name
    temporary = path.with_suffix(f".{os.getpid()}")
    size = _HEADER_SIZE + len(data)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not _ours(path.parent.stat()) or size > MOST_BYTES:
            return
        _make_room(path, size)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        fd = os.open(temporary, flags, 0o600)
        try:
            with open(fd, "wb", buffering=0) as file:
                whole = _MAGIC + digest + zlib.crc32(data).to_bytes(4, "little") + data
                written = file.write(whole)
            if written == len(whole):
                temporary.replace(path)
                return
        except OSError:
            pass
        temporary.unlink()
    except OSError:
        return  # the cache only saves time


def _make_room(wanted: Path, size: int) -> None:
    """Remove what was used longest ago, until a file of this size fits in; raises OSError."""
    found = []
    for entry in os.scandir(wanted.parent):
        status = entry.stat(follow_symlinks=False)
        if entry.path != str(wanted) and not stat.S_ISDIR(status.st_mode):
            found.append((status.st_mtime_ns, status.st_size, entry.path))
    count, total = len(found) + 1, sum(each[1] for each in found) + size
    for _, its_size, path in sorted(found):
        if count <= MOST_FILES and total <= MOST_BYTES:
            break
        with contextlib.suppress(FileNotFoundError):  # another resolver was quicker
            os.unlink(path)  # noqa: PTH108
        count, total = count - 1, total - its_size
