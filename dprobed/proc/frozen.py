"""Whether a process is frozen with its cgroup (a paused container): it executes nothing until it is
thawed, and does not show that in its state where the cgroup is one of version 2.

The files that say so are the kernel's own, and answer at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

#: Where the hierarchy of version 2 may be, and that of the freezer of version 1.
_UNIFIED: Final = (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/unified"))
_FREEZER: Final = Path("/sys/fs/cgroup/freezer")


def is_frozen(pid: int) -> bool:
    """Whether it is, as far as can be told from here."""
    return any(_says(path, word) for path, word in _files(pid))


def _files(pid: int) -> Iterator[tuple[Path, str]]:
    """The files that may say so, and what they say then."""
    for line in _read(Path(f"/proc/{pid}/cgroup")).splitlines():
        number, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        if ".." in group.split("/"):
            continue  # In no group that can be seen from here.
        inside = group.lstrip("/")
        if number == "0":
            yield from ((root / inside / "cgroup.events", "frozen 1") for root in _UNIFIED)
        elif "freezer" in controllers.split(","):
            yield _FREEZER / inside / "freezer.state", "FROZEN"


def _says(path: Path, word: str) -> bool:
    return word in _read(path).splitlines()


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
