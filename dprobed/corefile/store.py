"""The folder of cores: its limits, names, listing and removal.

Each core has a JSON file beside it, of the same name. A core that is being written has a name of
its own (``.NAME.part``) and is locked; it gets its final name when it is whole. One that nobody
has locked was left by a writer that died, and goes when the next core is begun. Cores are begun one
at a time, whoever does it (``ledger``), so that limits hold for all who dump there together. The
folder is opened once and then used by its descriptor: what is put in its place meanwhile is not.

Limits come from the environment (``docs/dump.md``), so that a daemon, a private one and the client
find the same.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import fnmatch
import os
import pwd
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import msgspec

from dprobed.corefile import ledger

_ROOTS: Final = Path("/var/lib/dprobed/dumps")
_PART: Final = ".part"
SUFFIXES: Final = (".core", ".core.zst")
#: Bytes of a JSON file that are read.
_MOST_ABOUT: Final = 16 << 20
#: With less on the disk no core is begun.
_LEAST_FREE: Final = 64 << 10

#: States of what is in the folder.
WHOLE: Final = "whole"
WRITING: Final = "being written"
UNFINISHED: Final = "unfinished"


class StoreError(Exception):
    """A core cannot be stored, or removed; one line. ``cause``: why, in a few words."""

    def __init__(self, text: str, cause: str = "") -> None:
        super().__init__(text)
        self.cause: Final = cause or text


class StoreLimits(msgspec.Struct, frozen=True):
    """The limits in force: cores and bytes in the folder, dumps of one probe in an hour.

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
    # Absolute: it is asked about by a process of ours that is in another folder.
    folder = Path(environ.get("DPROBED_DUMPS") or default_folder(environ)).absolute()
    zstd = bool(values.pop("zstd", 0))
    return StoreLimits(folder, **values, zstd=zstd)


def default_folder(environ: Mapping[str, str] = os.environ) -> Path:
    """The default folder for the cores of this user."""
    uid = os.geteuid()
    if uid == 0:
        return _ROOTS
    try:
        home = pwd.getpwuid(uid).pw_dir
    except KeyError:
        home = environ.get("HOME", "/nonexistent")
    # Root's daemon dumps for others too, and what its own environment says is root's.
    state = Path(environ.get("XDG_STATE_HOME", ""))
    if not (state.is_absolute() and environ.get("HOME") == home):
        state = Path(home) / ".local/state"
    return state / "dprobed/dumps"


def folders(environ: Mapping[str, str] = os.environ) -> list[Path]:
    """Where cores of this user can be: those of a daemon of his own, and those of root's.

    Root's daemon knows of no XDG_STATE_HOME of his. Raises StoreError.
    """
    own = limits(environ).folder
    if environ.get("DPROBED_DUMPS"):
        return [own]
    return list(dict.fromkeys([own, default_folder({"HOME": environ.get("HOME", "")})]))


class Core(msgspec.Struct, frozen=True):
    """One core in the folder; ``bytes`` on disk; ``about`` is what its JSON file says.

    ``state``: ``whole``, ``being written``, or ``unfinished``: left by a writer that died.
    """

    name: str
    path: Path
    bytes: int
    about: dict[str, Any]
    state: str = WHOLE


# --- the folder ---


@contextmanager
def opened(folder: Path) -> Iterator[int]:
    """A descriptor of the folder, which is a folder of ours alone; raises StoreError, OSError."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ENOTDIR, errno.ELOOP):
            raise StoreError(_not_ours(folder)) from None
        raise
    try:
        status = os.fstat(descriptor)
        if status.st_uid != os.geteuid():
            raise StoreError(_not_ours(folder))
        if status.st_mode & 0o022:
            raise StoreError(f"{folder} can be written to by others; run: chmod go-w {folder}")
        yield descriptor
    finally:
        os.close(descriptor)


def _not_ours(folder: Path) -> str:
    if folder.is_symlink():
        return f"{folder} is a link, not a folder; name the folder itself, by DPROBED_DUMPS"
    return f"{folder} is not a folder of user {os.geteuid()}"


def failed(folder: Path, error: OSError) -> StoreError:
    """What an OSError of something in the folder means."""
    reason = error.strerror or str(error)
    return StoreError(f"no core in {folder}: {reason}", reason[:1].lower() + reason[1:])


def name_of(path: Path | str) -> str:
    """The name of a core without its suffix; empty: the file is no core."""
    name = Path(path).name
    for suffix in SUFFIXES:
        if name.endswith(suffix) and not name.startswith("."):
            return name.removesuffix(suffix)
    return ""


def _part_of(name: str) -> str:
    """The name of the core whose draft a file is; empty: it is none."""
    if not (name.startswith(".") and name.endswith(_PART)):
        return ""
    return name.removeprefix(".").removesuffix(_PART)


def _is_locked(folder: int, name: str) -> bool:
    """Whether a draft has a writer."""
    try:
        descriptor = os.open(
            name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder
        )
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False


class _Found(msgspec.Struct, frozen=True):
    """A core or draft in the folder."""

    file: str
    name: str
    state: str
    bytes: int
    time: int


def _contents(folder: int) -> list[_Found]:
    """What is in the folder, the oldest first; raises OSError."""
    found = []
    for file in os.listdir(folder):
        part = _part_of(file)
        name = part or name_of(file)
        if not name:
            continue
        try:
            status = os.stat(file, dir_fd=folder, follow_symlinks=False)
        except FileNotFoundError:
            continue
        state = WHOLE
        if part:
            state = WRITING if _is_locked(folder, file) else UNFINISHED
        found.append(_Found(file, name, state, status.st_blocks * 512, status.st_mtime_ns))
    return sorted(found, key=lambda each: (each.time, each.file))


def cores(folder: Path) -> list[Core]:
    """The cores of a folder, also those not whole, the oldest first; raises StoreError."""
    try:
        with opened(folder) as descriptor:
            return [_core(folder, descriptor, each) for each in _contents(descriptor)]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise StoreError(f"{folder}: {error.strerror}") from None


def _core(folder: Path, descriptor: int, found: _Found) -> Core:
    about: dict[str, Any] = {}
    if found.state == WHOLE:
        with contextlib.suppress(OSError, msgspec.MsgspecError):
            about = msgspec.json.decode(
                _read(descriptor, f"{found.name}.json"), type=dict[str, Any]
            )
    return Core(found.name, folder / found.file, found.bytes, about, found.state)


def _read(folder: int, name: str) -> bytes:
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with os.fdopen(os.open(name, flags, dir_fd=folder), "rb") as file:
        return file.read(_MOST_ABOUT)


# --- removal ---


def chosen(found: Sequence[Core], patterns: Iterable[str]) -> list[Core]:
    """The cores that names, paths or patterns mean, each once; raises StoreError for one that
    means none."""
    wanted: dict[Path, Core] = {}
    for pattern in patterns:
        meant = [core for core in found if _means(pattern, core)]
        if not meant:
            raise StoreError(f"there is no core {pattern}; `dprobe dumps` lists them")
        wanted |= {core.path: core for core in meant}
    return [core for core in found if core.path in wanted]


def _means(pattern: str, core: Core) -> bool:
    names = (core.name, core.path.name, str(core.path))
    return pattern in names or any(fnmatch.fnmatchcase(name, pattern) for name in names)


def remove(folder: Path, wanted: Iterable[Core]) -> list[Core]:
    """Remove cores of a folder with their JSON files; those that were still there.

    Raises StoreError.

    One that is being written stays: its writer would not notice.
    """
    removed: list[Core] = []
    wanted = [core for core in wanted if core.path.parent == folder]
    if not wanted:
        return removed
    try:
        with opened(folder) as descriptor, ledger.locked(descriptor):
            for core in wanted:
                if core.state != WHOLE and _is_locked(descriptor, core.path.name):
                    continue
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(core.path.name, dir_fd=descriptor)
                    removed.append(core)
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(f"{core.name}.json", dir_fd=descriptor)
    except OSError as error:
        raise StoreError(f"{folder}: {error.strerror}") from None
    return removed


# --- a new core ---


def look(limit: StoreLimits, probe: str = "") -> None:
    """Raise StoreError where no dump would be begun now; ``probe``: of which one, if of one.

    It changes nothing. Whether it may be begun is decided by ``begin``.
    """
    try:
        with opened(limit.folder) as descriptor:
            _check(limit, descriptor, probe)
    except FileNotFoundError:
        _check_counts(limit, [], 0, is_counted=bool(probe))  # The first core makes it.
    except OSError as error:
        raise failed(limit.folder, error) from None


def begin(limit: StoreLimits, comm: bytes, pid: int, suffix: str, probe: str = "") -> Draft:
    """Begin a core of a process, and count it; raises StoreError and OSError."""
    limit.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with opened(limit.folder) as descriptor, ledger.locked(descriptor) as book:
        _tidy(descriptor)
        _check(limit, descriptor, probe)
        draft = Draft(limit, os.dup(descriptor), _new_name(descriptor, comm, pid), suffix)
        try:
            draft.entry = ledger.note(book, probe) if probe else None
        except OSError:
            draft.discard()
            raise
        return draft


def _check(limit: StoreLimits, folder: int, probe: str) -> None:
    have = [each.bytes for each in _contents(folder) if each.state != UNFINISHED]
    begun = len(ledger.ages(folder, probe)) if probe else 0
    _check_counts(limit, have, begun, is_counted=bool(probe))
    disk = os.fstatvfs(folder)
    if disk.f_bavail * disk.f_frsize < _LEAST_FREE:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _check_counts(limit: StoreLimits, have: list[int], begun: int, *, is_counted: bool) -> None:
    """``have``: the size of each core; ``begun``: dumps of the probe in the last hour."""
    used = sum(have)
    if len(have) >= limit.count:
        raise StoreError(
            f"{limit.folder} has {len(have)} {'core' if len(have) == 1 else 'cores'} "
            f"(limit {limit.count}); `dprobe dumps remove` makes room",
            f"limit of {limit.count} cores",
        )
    if used >= limit.bytes:
        raise StoreError(
            f"the cores in {limit.folder} have {used} bytes (limit {limit.bytes}); "
            "`dprobe dumps remove` makes room",
            f"limit of {limit.bytes} bytes",
        )
    if is_counted and begun >= limit.hourly:
        raise StoreError(
            f"this probe had {begun} dumps in the last hour, and {limit.hourly} are its limit "
            "(DPROBED_DUMPS_HOURLY)",
            f"limit of {limit.hourly} an hour",
        )


def tidy(folder: Path) -> None:
    """Remove what writers left that died; raises OSError and StoreError."""
    with opened(folder) as descriptor, ledger.locked(descriptor):
        _tidy(descriptor)


def _tidy(folder: int) -> None:
    for name in os.listdir(folder):
        if _part_of(name) and not _is_locked(folder, name):
            # Its JSON file is there before a core has its name.
            for left in (name, f"{_part_of(name)}.json"):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(left, dir_fd=folder)


class Draft:
    """A core that is being written; ``discard`` removes it unless it was published."""

    def __init__(self, limit: StoreLimits, folder: int, name: str, suffix: str) -> None:
        """``folder``: a descriptor, which is closed in the end. Raises OSError."""
        self._limit: Final = limit
        self._folder: Final = folder
        self._name: Final = name
        self._part: Final = f".{name}{_PART}"
        #: What counts it, as long as it has not failed.
        self.entry: ledger.Entry | None = None
        self.path: Final = limit.folder / f"{name}{suffix}"
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            self.fd: Final = os.open(self._part, flags, 0o600, dir_fd=folder)
        except OSError:
            os.close(folder)
            raise
        try:
            fcntl.flock(self.fd, fcntl.LOCK_EX)
        except OSError:  # A file system may have no locks.
            self.discard()
            raise

    def check(self) -> None:
        """Raise StoreError when there is more on disk than all cores together may have."""
        others = sum(
            each.bytes
            for each in _contents(self._folder)
            if each.state != UNFINISHED and each.file != self._part
        )
        room = self._limit.bytes - others
        if os.fstat(self.fd).st_blocks * 512 > room:
            raise StoreError(
                f"the core is larger than the {max(room, 0)} bytes that are left of the quota; "
                "`dprobe dumps remove` makes room",
                f"limit of {self._limit.bytes} bytes",
            )

    def publish(self, about: dict[str, Any]) -> None:
        """Give it its final name, its JSON file first; raises OSError."""
        beside = f"{self._name}.json"
        text = msgspec.json.format(msgspec.json.encode(about), indent=2) + b"\n"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        written = os.open(beside, flags, 0o600, dir_fd=self._folder)
        try:
            with os.fdopen(written, "wb") as file:
                file.write(text)
            os.rename(self._part, self.path.name, src_dir_fd=self._folder, dst_dir_fd=self._folder)
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(beside, dir_fd=self._folder)
            raise
        self.entry = None

    def discard(self) -> None:
        """Close it, and remove it if it was not published; then it does not count, either."""
        with contextlib.suppress(OSError):
            os.unlink(self._part, dir_fd=self._folder)
        if self.entry is not None:
            with contextlib.suppress(OSError), ledger.locked(self._folder) as book:
                ledger.withdraw(book, self.entry)
        os.close(self.fd)
        os.close(self._folder)


def _new_name(folder: int, comm: bytes, pid: int) -> str:
    """An unused name for a core: command, process and time."""
    text = "".join(
        letter if letter.isascii() and (letter.isalnum() or letter in "-_+") else "_"
        for letter in comm.decode(errors="replace")
    )
    stem = f"{text}.{pid}.{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}"
    there = set(os.listdir(folder))
    name, number = stem, 1
    while not there.isdisjoint(
        [f".{name}{_PART}", f"{name}.json", *(f"{name}{suffix}" for suffix in SUFFIXES)]
    ):
        number += 1
        name = f"{stem}.{number}"
    return name
