"""The kernel's symbols, of ``/proc/kallsyms``: those of its modules, too.

Addresses are shown to those who may see them (CAP_SYSLOG, ``/proc/sys/kernel/kptr_restrict``); for
everybody else all of them are 0. That is for the kernel to say: what is read here is shown to
nobody but who runs this process.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

PATH: Final = Path("/proc/kallsyms")
#: Below are addresses of processes, and offsets of data of which each processor has its own.
FIRST: Final = 1 << 63

#: From which one on frames of stacks are counted.
FIRST_SYMBOL: Final = "_text"

#: How the data of a tracepoint is called.
_TRACEPOINT: Final = "__tracepoint_"
_CODE: Final = frozenset("tTwW")
_DATA: Final = frozenset("bBdDrRgGsSvV")


class KernelSymbol(NamedTuple):
    """A symbol; ``letter``: what it is, as in nm(1); ``module``: which has it, or empty."""

    address: int
    letter: str
    name: str
    module: str

    @property
    def kind(self) -> str:
        """``code``, ``data``, ``tracepoint``, or empty: nothing that a probe could be at."""
        if 0 < self.address < FIRST:
            return ""
        if self.name.startswith(_TRACEPOINT) and not self.module:
            return "tracepoint"
        return "code" if self.letter in _CODE else "data" if self.letter in _DATA else ""

    @property
    def place(self) -> str:
        """How a probe there is written."""
        if self.kind == "tracepoint":
            return f"tracepoint:{self.name.removeprefix(_TRACEPOINT)}"
        return self.name


def symbols(path: Path = PATH) -> Iterator[KernelSymbol]:
    """All of them; takes a tenth of a second. Raises OSError."""
    with path.open() as lines:
        for line in lines:
            address, letter, name, *module = line.split()
            yield KernelSymbol(int(address, 16), letter, name, module[0][1:-1] if module else "")


def begin(path: Path = PATH) -> int:
    """Where the kernel's code begins; 0 for those to whom that is not shown."""
    try:
        return next((each.address for each in symbols(path) if each.name == FIRST_SYMBOL), 0)
    except OSError:
        return 0
