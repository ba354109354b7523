"""Places in the kernel: what ``offset`` or ``address`` means there, and what is wrong with one."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from dprobed.arch.x86_64.debug_registers import is_length_valid
from dprobed.kernel import abi
from dprobed.proc import kernel_symbols
from dprobed.program.keywords import HOOK, TRACEPOINT
from dprobed.program.model import Header, ProbeDefinition
from dprobed.wire.engines import UPROBE, WATCH
from dprobed.wire.protocol import State

_SYMBOLS: Final = kernel_symbols.PATH
_MODULES: Final = Path("/sys/module")
_HOOKS: Final = Path("/proc/dprobes/hooks")

_NUMBER: Final = r"(?:0[xX][0-9a-fA-F]+|0|[1-9]\d*)"
_CODE: Final = re.compile(rf"([A-Za-z_][\w.$]*)(?:\+({_NUMBER}))?", re.ASCII)
_DATA: Final = re.compile(
    rf"(?:({_NUMBER})|([A-Za-z_][\w.$]*)([+-]{_NUMBER})?)(?::({_NUMBER}))?", re.ASCII
)
#: MODULE_NAME_LEN, include/linux/moduleparam.h.
_MODULE: Final = re.compile(r"[\w-]{1,55}", re.ASCII)
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
    errno.EUSERS: (State.EXCLUDED, "the hook takes one exit only, and has one"),
    errno.ENODEV: (
        State.FAILED,
        "the module that had it was removed, or its hook: insert the program again",
    ),
}


#: The same of places in files.
_FILE_ERRORS: Final = {
    errno.EADDRNOTAVAIL: (
        State.EXCLUDED,
        "the kernel places no breakpoint there: it cannot do the instruction out of its place, or "
        "not in this file",
    ),
}


class PlacingError(Exception):
    """A probe cannot be placed; ``state``: what it is then."""

    def __init__(self, reason: str, state: State = State.INVALID_OFFSET) -> None:
        super().__init__(reason)
        self.state: Final = state


#: Name → module, or "" for the kernel itself → the addresses of its symbols of that name.
Known = Mapping[str, Mapping[str, Sequence[int]]]


def look_up(names: Iterable[str]) -> Known:
    """All symbols of these names. The kernel may hide the addresses: then all of them are 0."""
    found: dict[str, dict[str, list[int]]] = {name: {} for name in names}
    if found:
        for each in kernel_symbols.symbols(_SYMBOLS):
            if each.name in found:
                found[each.name].setdefault(each.module, []).append(each.address)
    return found


def named(probes: Iterable[ProbeDefinition]) -> Iterator[str]:
    """The symbols in the places of probes."""
    for probe in probes:
        if probe.watchpoint is None:
            code = _CODE.fullmatch(probe.offset or "")
            yield from [code[1]] if code else []
        else:
            data = _DATA.fullmatch(probe.address or "")
            yield from [data[2]] if data and data[2] else []


def pushed(name: str, header: Header, known: Known) -> int:
    """The address that a program pushes: of its module's symbol, else of the kernel's, else of any
    module's; raises PlacingError."""
    own = known[name].get(module_name(header))
    return _only(name, own or _of_kernel(name, known), "the kernel")


def _of_kernel(name: str, known: Known) -> Sequence[int]:
    """The kernel's own symbols of a name, or else those of modules."""
    of = known[name]
    return of.get("") or [address for each in of.values() for address in each]


def _only(name: str, found: Sequence[int], where: str) -> int:
    if not found:
        raise PlacingError(f"{where} has no symbol `{name}`")
    if len(found) > 1:
        raise PlacingError(f"{where} has {len(found)} symbols `{name}`: write the address of one")
    if not found[0]:
        raise PlacingError(_HIDDEN, State.FAILED)
    return found[0]


def module_name(header: Header) -> str:
    """The kernel module that a program is for, as the kernel calls it; empty: the kernel itself."""
    return header.name.replace("-", "_") if header.modtype == "kmod" else ""


def is_module_name(header: Header) -> bool:
    """Whether a kernel module can be called as a program's, if that is for one."""
    return header.modtype != "kmod" or _MODULE.fullmatch(header.name) is not None


def place_of(probe: ProbeDefinition) -> str:
    """Where a probe is, as it is written."""
    return probe.offset or probe.address or ""


def engine_of(probe: ProbeDefinition, *, in_file: bool = False) -> str:
    """Which engine serves it; ``in_file``: in what processes map."""
    if in_file:
        return UPROBE
    if probe.watchpoint is not None:
        return WATCH
    for before in (TRACEPOINT, HOOK):
        if place_of(probe).startswith(before):
            return before.removesuffix(":")
    return "kretprobe" if probe.returns else "kprobe"


def attachment(probe: ProbeDefinition, number: int, header: Header, known: Known) -> abi.Attach:
    """The request that places a probe; ``known``: what the names in its place mean.

    Raises PlacingError.
    """
    if probe.watchpoint is None:
        return _code(probe, number, header, known)
    return _data(probe, number, header, known)


def _code(probe: ProbeDefinition, number: int, header: Header, known: Known) -> abi.Attach:
    place = probe.offset or ""
    if place.startswith(TRACEPOINT) and header.modtype == "kmod":
        raise PlacingError("tracepoints of modules cannot be placed, only the kernel's own")
    for before, kind in ((TRACEPOINT, abi.Kind.TRACEPOINT), (HOOK, abi.Kind.HOOK)):
        if place.startswith(before):
            return _by_name(place, before, abi.Attach(probe=number, kind=kind))
    found = _CODE.fullmatch(probe.offset or "")
    if found is None:
        raise PlacingError(
            f"{probe.offset or probe.address}: write the place as `function` or `function+N`"
        )
    module, name = module_name(header), found[1]
    there = known[name].get(module, ()) if module else _of_kernel(name, known)
    # The kernel would take one of them, and not say which.
    if len(there) > 1:
        where = f"the module {module}" if module else "the kernel"
        raise PlacingError(f"{where} has {len(there)} symbols `{name}`: none can be told from them")
    offset = int(found[2] or "0", 0)
    if offset >= 1 << 32:
        raise PlacingError("no function is that long")
    kind = abi.Kind.LEAVE if probe.returns else abi.Kind.CODE
    made = abi.Attach(probe=number, kind=kind, offset=offset)
    return _with_name(made, f"{module}:{name}" if module else name)


def _with_name(made: abi.Attach, name: str) -> abi.Attach:
    data = name.encode()
    if len(data) >= abi.Attach.symbol.size:
        raise PlacingError("the name is too long")
    made.symbol = (type(made.symbol))(*data)
    return made


def _by_name(place: str, before: str, made: abi.Attach) -> abi.Attach:
    name = place.removeprefix(before)
    if not name.isidentifier():
        raise PlacingError(f"{place}: write the place as `{before}name`")
    return _with_name(made, name)


def _data(probe: ProbeDefinition, number: int, header: Header, known: Known) -> abi.Attach:
    text, kind = probe.address or "", probe.watchpoint or ""
    if kind not in _KINDS:
        raise PlacingError("the kernel has no watchpoints on I/O ports", State.FAILED)
    found = _DATA.fullmatch(text)
    if found is None:
        raise PlacingError(f"{text}: write the place as `symbol:length` or `symbol+N:length`")
    if not found[4] and kind != "x":
        raise PlacingError(f"{text}: {_WATCHED}", State.WATCHPOINT_LENGTH)
    address = int(found[1], 0) if found[1] else _at_symbol(found[2], found[3], header, known)
    length = int(found[4] or "1", 0)
    if not is_length_valid(kind, address, length):
        raise PlacingError(f"{length} bytes at {text}: {_WATCHED}", State.WATCHPOINT_LENGTH)
    if not kernel_symbols.FIRST <= address < 1 << 64:
        raise PlacingError(
            f"{text}: not an address of the kernel (of per-CPU data each processor has its own)"
        )
    return abi.Attach(probe=number, kind=_KINDS[kind], address=address, length=length)


def _at_symbol(name: str, addend: str | None, header: Header, known: Known) -> int:
    module = module_name(header)
    if not module:
        return _only(name, _of_kernel(name, known), "the kernel") + int(addend or "0", 0)
    # Another's data of that name is not meant.
    found = known[name].get(module, ())
    if not found and not (_MODULES / module).exists():
        raise PlacingError(
            f"the module {module} is not loaded: a watchpoint on its data can be inserted when it "
            "is",
            State.FAILED,
        )
    return _only(name, found, f"the module {module}") + int(addend or "0", 0)


def placing_error(code: int, probe: ProbeDefinition, header: Header) -> PlacingError:
    """Why a probe could not be placed, of the number that the module gives."""
    if not header.kernel:
        state, reason = _FILE_ERRORS.get(code, (State.FAILED, os.strerror(code)))
        return PlacingError(reason, state)
    state, reason = _ERRORS.get(code, (State.FAILED, os.strerror(code)))
    place = place_of(probe)
    if code == errno.ENOENT and place.startswith(TRACEPOINT):
        return PlacingError("the kernel has no tracepoint of that name")
    if code == errno.ENOENT and place.startswith(HOOK):
        return PlacingError(f"no module has declared a hook of that name ({_HOOKS} lists them)")
    module = module_name(header)
    if code == errno.ENOENT and module:
        reason = f"the module {module} has no function of that name"
        folder = _MODULES / module
        # What is part of the kernel itself has no state of its own.
        if folder.exists() and not (folder / "initstate").exists():
            reason = f"{module} is part of the kernel itself: write `modtype = kernel`"
    return PlacingError(reason, state)
