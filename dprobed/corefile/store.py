"""The folder of cores: its limits, names, listing and removal.

Each core has a JSON file beside it, of the same name. A core that is being written has a name of
its own (``.NAME.part``) and is locked; it gets its final name when it is whole. One that nobody
has locked was left by a writer that died, and goes when the next core is begun.

Limits come from the environment (``docs/dump.md``), so that a daemon, a private one and the client
find the same.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pwd
import stat
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

_ROOTS: Final = Path("/var/lib/dprobed/dumps")
_PART: Final = ".part"
SUFFIXES: Final = (".core", ".core.zst")


class StoreError(Exception):
    """A core cannot be stored, or removed; one line."""


class StoreLimits(msgspec.Struct, frozen=True):
    """The limits in force: cores and bytes in the folder, cores of one probe in an hour.

    ``zstd``: compress. ``stopped``: seconds that a process may stand still for its dump where it
    cannot be copied.
    """

    folder: Path
    count: int = 32
    bytes: int = 16 << 30
    hourly: int = 5
    stopped: int = 60
    zstd: bool = False

    def shown(self) -> dict[str, Any]:
        """As the JSON file has it."""
        return msgspec.structs.asdict(self) | {"folder": str(self.folder)}


def limits(environ: Mapping[str, str] = os.environ) -> StoreLimits:
    """The limits in force for this user; raises StoreError for an invalid value."""
    values: dict[str, int] = {}
    for name in ("count", "bytes", "hourly", "stopped", "zstd"):
        text = environ.get(f"DPROBED_DUMPS_{name.upper()}", "")
        if text:
            if not text.isdecimal():
                raise StoreError(f"DPROBED_DUMPS_{name.upper()}={text} is not a number")
            values[name] = int(text)
    folder = Path(environ.get("DPROBED_DUMPS") or default_folder())
    zstd = bool(values.pop("zstd", 0))
    return StoreLimits(folder, **values, zstd=zstd)


def default_folder() -> Path:
    """The default folder for the cores of this user."""
    uid = os.geteuid()
    if uid == 0:
        return _ROOTS
    try:
        home = pwd.getpwuid(uid).pw_dir
    except KeyError:
        home = os.environ.get("HOME", "/nonexistent")
    return Path(home) / ".local/state/dprobed/dumps"


class Core(msgspec.Struct, frozen=True):
    """One core in the folder; ``bytes`` on disk; ``about`` is what its JSON file says."""

    name: str
    path: Path
    bytes: int
    about: dict[str, Any]


def cores(folder: Path) -> list[Core]:
    """The cores of a folder, the oldest first; raises StoreError."""
    found = []
    try:
        entries = sorted(folder.iterdir())
    except FileNotFoundError:
        return []
    except OSError as error:
        raise StoreError(f"{folder}: {error.strerror}") from None
    for path in entries:
        name = name_of(path)
        if not name or path.name.startswith("."):
            continue
        try:
            status = path.lstat()
        except FileNotFoundError:
            continue
        about: dict[str, Any] = {}
        with contextlib.suppress(OSError, msgspec.MsgspecError):
            about = msgspec.json.decode((folder / f"{name}.json").read_bytes(), type=dict[str, Any])
        found.append((status.st_mtime_ns, Core(name, path, status.st_blocks * 512, about)))
    return [core for _, core in sorted(found, key=lambda each: each[0])]


def name_of(path: Path) -> str:
    """The name of a core without its suffix; empty: the file is no core."""
    for suffix in SUFFIXES:
        if path.name.endswith(suffix):
            return path.name.removesuffix(suffix)
    return ""


def remove(folder: Path, name: str) -> Core:
    """Remove a core, by its name or number of process, with its JSON file; raises StoreError."""
    for core in cores(folder):
        if name in (core.name, core.path.name, str(core.path)):
            try:
                core.path.unlink()
                (folder / f"{core.name}.json").unlink(missing_ok=True)
            except OSError as error:
                raise StoreError(f"{core.path}: {error.strerror}") from None
            return core
    raise StoreError(f"there is no core {name} in {folder}; `dprobe dumps` lists them")


def admit(limit: StoreLimits) -> int:
    """How many bytes a new core may have; raises StoreError when none is allowed."""
    _prepare(limit.folder)
    have = cores(limit.folder)
    used = sum(core.bytes for core in have)
    if len(have) >= limit.count:
        raise StoreError(
            f"{limit.folder} has {len(have)} {'core' if len(have) == 1 else 'cores'} "
            f"(limit {limit.count}); `dprobe dumps remove` makes room"
        )
    if used >= limit.bytes:
        raise StoreError(
            f"the cores in {limit.folder} have {used} bytes (limit {limit.bytes}); "
            "`dprobe dumps remove` makes room"
        )
    return limit.bytes - used


def _prepare(folder: Path) -> None:
    """Make the folder, check that it is ours alone, and remove what dead writers left."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.lstat()
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
            raise StoreError(f"{folder} is not a folder of user {os.geteuid()}")
        if status.st_mode & 0o022:
            raise StoreError(f"{folder} can be written to by others; run: chmod go-w {folder}")
        tidy(folder)
    except OSError as error:
        raise StoreError(f"{folder}: {error.strerror}") from None


def tidy(folder: Path) -> None:
    """Remove what writers left that died; raises OSError."""
    for path in folder.glob(f".*{_PART}"):
        with path.open("rb") as file, contextlib.suppress(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink(missing_ok=True)


class Draft:
    """A core that is being written; ``discard`` removes it unless it was published."""

    def __init__(self, folder: Path, name: str, suffix: str) -> None:
        """Raises OSError."""
        self._folder: Final = folder
        self._name: Final = name
        self.path: Final = folder / f"{name}{suffix}"
        self._part: Final = folder / f".{name}{_PART}"
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        self.fd: Final = os.open(self._part, flags, 0o600)
        try:
            fcntl.flock(self.fd, fcntl.LOCK_EX)
        except OSError:  # A file system may have no locks.
            self.discard()
            raise

    def publish(self, about: dict[str, Any]) -> None:
        """Give it its final name, its JSON file first; raises OSError."""
        beside = self._folder / f"{self._name}.json"
        text = msgspec.json.format(msgspec.json.encode(about), indent=2) + b"\n"
        opened = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(opened, "wb") as file:
                file.write(text)
            self._part.rename(self.path)
        except OSError:
            beside.unlink(missing_ok=True)
            raise

    def discard(self) -> None:
        """Close it, and remove it if it was not published."""
        with contextlib.suppress(OSError):
            self._part.unlink(missing_ok=True)
        os.close(self.fd)


def new_name(folder: Path, comm: bytes, pid: int) -> str:
    """An unused name for a core: command, process and time."""
    text = "".join(
        letter if letter.isascii() and (letter.isalnum() or letter in "-_+") else "_"
        for letter in comm.decode(errors="replace")
    )
    stem = f"{text}.{pid}.{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}"
    name, number = stem, 1
    while any((folder / f"{name}{suffix}").exists() for suffix in (*SUFFIXES, ".json")):
        number += 1
        name = f"{stem}.{number}"
    return name
