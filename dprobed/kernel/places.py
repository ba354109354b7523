"""Places in the kernel: what ``offset`` or ``address`` of a probe means, and the kernel's symbols."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

from dprobed.arch.x86_64.debug_registers import is_length_valid
from dprobed.kernel import abi
from dprobed.program.model import Header, ProbeDefinition
from dprobed.wire.protocol import State

_SYMBOLS: Final = Path("/proc/kallsyms")
_MODULES: Final = Path("/sys/module")
#: Below are addresses of processes, and offsets of per-CPU data.
_KERNEL: Final = 1 << 63

_NUMBER: Final = r"(?:0[xX][0-9a-fA-F]+|0|[1-9]\d*)"
_CODE: Final = re.compile(rf"([A-Za-z_][\w.$]*)(?:\+({_NUMBER}))?", re.ASCII)
_DATA: Final = re.compile(
    rf"(?:({_NUMBER})|([A-Za-z_][\w.$]*)([+-]{_NUMBER})?)(?::({_NUMBER}))?", re.ASCII
)
_KINDS: Final = {"x": abi.Kind.WATCH_X, "w": abi.Kind.WATCH_W, "rw": abi.Kind.WATCH_RW}

_WATCHED: Final = (
    "a watchpoint has 1, 2, 4 or 8 bytes (x: 1), aligned to its length; write it as symbol:length"
)
_HIDDEN: Final = (
    "the kernel hides its addresses from dprobed: it needs the capability CAP_SYSLOG, and "
    "/proc/sys/kernel/kptr_restrict has to be below 2"
)
#: Errors of placing a probe → its state, and why.
_ERRORS: Final = {
    errno.ENOENT: (State.INVALID_OFFSET, "the kernel has no function of that name"),
    errno.EILSEQ: (State.INVALID_OFFSET, "no instruction begins there"),
    errno.EADDRNOTAVAIL: (
        State.EXCLUDED,
        "the kernel allows no probe there: the code is what serves a probe itself (NOKPROBE, "
        "noinstr), or is rewritten while the kernel runs",
    ),
    errno.EACCES: (State.EXCLUDED, "that is in the module dprobes itself, which serves the probe"),
    errno.ENOSPC: (
        State.NO_DEBUG_REGISTER,
        "the four debug registers of a processor are in use",
    ),
    errno.ENODEV: (State.FAILED, "the module that had it was removed: insert the program again"),
}


class PlacingError(Exception):
    """A probe cannot be placed; ``state``: what it is then."""

    def __init__(self, reason: str, state: State = State.INVALID_OFFSET) -> None:
        super().__init__(reason)
        self.state: Final = state


class HiddenError(Exception):
    """The kernel shows its symbols without their addresses."""

    def __init__(self) -> None:
        super().__init__(_HIDDEN)


class Symbol(NamedTuple):
    """A symbol of the kernel; ``module``: which one has it, or empty. ``kind``: as nm(1) has it."""

    address: int
    kind: str
    name: str
    module: str


def symbols(path: Path = _SYMBOLS) -> Iterator[Symbol]:
    """All of them; takes a tenth of a second."""
    with path.open() as lines:
        for line in lines:
            address, kind, name, *module = line.split()
            yield Symbol(int(address, 16), kind, name, module[0][1:-1] if module else "")


def addresses(names: Iterable[str], header: Header) -> dict[str, list[int]]:
    """Of each of these names its addresses: in the module of a program, else in the kernel itself,
    else in any module. Raises HiddenError."""
    wanted = frozenset(names)
    found: dict[str, dict[str, list[int]]] = {name: {} for name in wanted}
    if wanted:
        for each in symbols(_SYMBOLS):
            if each.name in wanted:
                found[each.name].setdefault(each.module, []).append(each.address)
    own = module_name(header)
    result = {}
    for name, of in found.items():
        every = [address for each in of.values() for address in each]
        if every and not any(every):
            raise HiddenError
        result[name] = of.get(own) or of.get("") or every
    return result


def module_name(header: Header) -> str:
    """The kernel module that a program is for, as the kernel calls it; empty: the kernel itself."""
    return header.name.replace("-", "_") if header.modtype == "kmod" else ""


def attachment(probe: ProbeDefinition, number: int, header: Header) -> abi.Attach:
    """The request that places a probe; raises PlacingError."""
    if probe.watchpoint is None:
        return _code(probe, number, header)
    return _data(probe, number, header)


def _code(probe: ProbeDefinition, number: int, header: Header) -> abi.Attach:
    found = _CODE.fullmatch(probe.offset or "")
    if found is None:
        place = probe.offset or probe.address
        raise PlacingError(f"{place}: write the place as `function` or `function+N`")
    module = module_name(header)
    symbol = f"{module}:{found[1]}" if module else found[1]
    data = symbol.encode()
    if len(data) >= abi.Attach.symbol.size:
        raise PlacingError("the name of the function is too long")
    offset = int(found[2] or "0", 0)
    if offset >= 1 << 32:
        raise PlacingError("no function is that long")
    made = abi.Attach(probe=number, kind=abi.Kind.CODE, offset=offset)
    made.symbol = (type(made.symbol))(*data)
    return made


def _data(probe: ProbeDefinition, number: int, header: Header) -> abi.Attach:
    text, kind = probe.address or "", probe.watchpoint or ""
    if kind not in _KINDS:
        raise PlacingError("the kernel has no watchpoints on I/O ports", State.FAILED)
    found = _DATA.fullmatch(text)
    if found is None:
        raise PlacingError(f"{text}: write the place as `symbol:length` or `symbol+N:length`")
    address = int(found[1], 0) if found[1] else _address(found[2], found[3], header)
    if not found[4] and kind != "x":
        raise PlacingError(f"{text}: {_WATCHED}", State.WATCHPOINT_LENGTH)
    length = int(found[4] or "1", 0)
    if not is_length_valid(kind, address, length):
        raise PlacingError(f"{length} bytes at {text}: {_WATCHED}", State.WATCHPOINT_LENGTH)
    if not _KERNEL <= address < 1 << 64:
        raise PlacingError(
            f"{text}: not an address of the kernel (of per-CPU data each processor has its own)"
        )
    return abi.Attach(probe=number, kind=_KINDS[kind], address=address, length=length)


def _address(name: str, addend: str | None, header: Header) -> int:
    try:
        found = addresses([name], header)[name]
    except HiddenError as error:
        raise PlacingError(str(error), State.FAILED) from None
    if not found:
        module = module_name(header)
        if module and not (_MODULES / module).exists():
            raise PlacingError(
                f"the module {module} is not loaded: a watchpoint on its data can be inserted when "
                "it is",
                State.FAILED,
            )
        raise PlacingError(f"the kernel has no symbol `{name}`")
    if len(found) > 1:
        raise PlacingError(f"there are {len(found)} symbols `{name}`: write the address of one")
    return found[0] + int(addend or "0", 0)


def placing_error(code: int, header: Header) -> PlacingError:
    """Why a probe could not be placed, of the number that the module gives."""
    state, reason = _ERRORS.get(code, (State.FAILED, os.strerror(code)))
    module = module_name(header)
    if code == errno.ENOENT and module:
        reason = f"the module {module} has no function of that name"
        folder = _MODULES / module
        # What is part of the kernel itself has no state of its own.
        if folder.exists() and not (folder / "initstate").exists():
            reason = f"{module} is part of the kernel itself: write `modtype = kernel`"
    return PlacingError(reason, state)
