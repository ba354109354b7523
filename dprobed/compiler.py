"""Has native programs compiled, in a process of its own.

LLVM takes 60 MB and 0.1 s to be imported, and ends its process where it finds a fault in itself:
nothing for a tracer, nor for the daemon. So a helper process does it, which is started at the first
program that is not known yet, has limits, is killed where it takes too long, and ends when nothing
was to be compiled for a while. It has the rights of who asks, and no file of a target's comes near
it: what it gives back is put into targets. What was compiled once is kept here.
"""

from __future__ import annotations

import errno
import importlib.util
import resource
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Final

import msgspec

from dprobed.proc.helper import Helper, SilentError, Value, job
from dprobed.program.exec.lowering import Unit
from dprobed.program.exec.native.abi import Blob
from dprobed.program.exec.native.refusals import why_not

#: Seconds for one unit; the longest that programs may be take one. And for the first one, for which
#: LLVM's 170 MB may have to come from a slow disk, or the machine is busy with what begins besides.
PATIENCE: Final = 3.0
FIRST_PATIENCE: Final = 10.0
#: Bytes of address space besides what it begins with.
_ADDRESS_SPACE: Final = 1 << 30
#: Units whose code, or why there is none, is kept; the one that was asked first goes first.
_MOST_KEPT: Final = 1024

_units: Final = msgspec.msgpack.Decoder(Unit)
_blobs: Final = msgspec.msgpack.Decoder(Blob)
_kept: Final[dict[Unit, Blob | str]] = {}

#: That of this process.
COMPILER: Final = Helper()


@cache
def is_there() -> bool:
    """Whether anything can be compiled: LLVM comes with an extra of the installation."""
    return importlib.util.find_spec("llvmlite") is not None


def compiled(unit: Unit) -> Blob | str:
    """The native code of a unit, or why there is none."""
    found = _kept.get(unit)
    if found is not None:
        return found
    refused = why_not(unit)
    if refused is not None:
        return str(refused)
    if not is_there():
        return "llvmlite is not installed, by which native code is made"
    try:
        found = _asked(unit)
    except TimeoutError as error:
        # The machine may have been busy. The helper does not try it again for a while.
        return f"it could not be compiled: {error.strerror}"
    while len(_kept) >= _MOST_KEPT:
        del _kept[next(iter(_kept))]
    _kept[unit] = found
    return found


def _asked(unit: Unit) -> Blob | str:
    """What the compiler says; raises TimeoutError where that takes too long."""
    patience = PATIENCE if COMPILER.is_started else FIRST_PATIENCE
    try:
        values, _ = COMPILER.do(unit, _compile, [msgspec.msgpack.encode(unit)], (), patience)
    except SilentError as error:
        if error.errno == errno.ETIMEDOUT:
            raise TimeoutError(error.errno, error.strerror) from None
        return f"it could not be compiled: {error.strerror}"
    (answer,) = values
    if not isinstance(answer, bytes):
        return f"it could not be compiled: {answer}"
    return _blobs.decode(answer)


@job
def _compile(values: Sequence[Value], descriptors: Sequence[int]) -> tuple[list[Value], int]:
    """In the helper: the blob of a unit, or what is said of it."""
    _limit()
    (asked,) = values
    assert isinstance(asked, bytes)
    try:
        from dprobed.program.exec.native.compiler import compile_unit

        return [msgspec.msgpack.encode(compile_unit(_units.decode(asked)))], -1
    except Exception as error:  # an internal error: the program runs by trap
        return [f"{type(error).__name__}: {error}"], -1


@cache
def _limit() -> None:
    """Set the limits of this process, from now on."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    room = pages * resource.getpagesize() + _ADDRESS_SPACE
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    if hard == resource.RLIM_INFINITY or room < hard:
        resource.setrlimit(resource.RLIMIT_AS, (room, hard))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
