"""Places of scripts in the kernel: ``kprobe:f``, ``kprobe:f+0x10``, ``kprobe:MODULE:f``,
``kretprobe:f``, ``rawtracepoint:NAME``, ``tracepoint:CATEGORY:NAME``.

What fires there is in a module in brackets, as no file is called: ``[kernel]``, or ``[nf_tables]``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, Final

from dprobed.program.bt.state import Firing
from dprobed.program.bt.world import World
from dprobed.program.keywords import TRACEPOINT

#: The kernel itself, as bpftrace writes it, too.
KERNEL: Final = "[kernel]"
_OWN: Final = ("", "kernel", "vmlinux")
KINDS: Final = ("kprobe", "kretprobe", "rawtracepoint", "tracepoint")
#: What bpftrace has as tracepoints of system calls: they are none of the kernel's own.
_CALLS: Final = "syscalls"

_PLACE: Final = re.compile(r"([A-Za-z_][\w.]*)(\+(?:0[xX][0-9a-fA-F]+|[0-9]+))?", re.ASCII)
_WILD: Final = frozenset("*?[")

#: What fires, and the keywords of the probe's definition.
Found = tuple[Firing, dict[str, Any]]


class KernelPlaceError(Exception):
    """What is wrong with a place, and what to do."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint: Final = hint


def header_of(module: str) -> dict[str, str] | None:
    """What the header of a program says of it that is for what fires in ``module``; None: that is
    not in the kernel."""
    if not module.startswith("["):
        return None
    name = module[1:-1]
    return {"name": name, "modtype": "kernel" if module == KERNEL else "kmod"}


def kernel_targets(world: World, kind: str, text: str, parts: Sequence[str]) -> Iterator[Found]:
    """All that a place stands for whose ``parts`` stand behind ``kind``; raises
    KernelPlaceError."""
    if kind in ("kprobe", "kretprobe"):
        yield from _functions(world, kind, text, parts)
        return
    yield _tracepoint(kind, text, parts)


def _functions(world: World, kind: str, text: str, parts: Sequence[str]) -> Iterator[Found]:
    owner = "" if len(parts) == 1 else parts[0]
    module = KERNEL if owner in _OWN else f"[{owner}]"
    written = parts[-1]
    if len(parts) > 2 or not written or _WILD & set(owner):
        raise KernelPlaceError(f"`{text}` is no place in the kernel", f"write {kind}:FUNCTION")
    names: Sequence[str] = [written]
    if _WILD & set(written):
        names = world.functions(module, written, False)
        if not names:
            raise KernelPlaceError(f"no function of the kernel is like `{written}`")
    returns = kind == "kretprobe"
    for each in names:
        found = _PLACE.fullmatch(each)
        if found is None or (returns and found[2]):
            raise KernelPlaceError(f"`{text}` is no function", f"write {kind}:FUNCTION")
        name = f"{kind}:{each}" if module == KERNEL else f"{kind}:{owner}:{each}"
        keywords = {"offset": each}
        if returns:
            keywords["at"] = "return"
        yield (
            Firing(
                name,
                kind,
                entry=not found[2] and not returns,
                returns=returns,
                module=module,
                function="" if found[2] else each,
            ),
            keywords,
        )


def _tracepoint(kind: str, text: str, parts: Sequence[str]) -> Found:
    name = parts[-1]
    if not name or _WILD & set(name) or len(parts) > 2:
        raise KernelPlaceError(f"`{text}` is no tracepoint", f"write {kind}:NAME")
    if kind == "tracepoint" and parts[0] == _CALLS:
        call = name.removeprefix("sys_enter_").removeprefix("sys_exit_")
        way = "kretprobe" if name.startswith("sys_exit_") else "kprobe"
        raise KernelPlaceError(
            f"`{text}` is made of another tracepoint, which is not there yet",
            f"write {way}:__x64_sys_{call}",
        )
    firing = Firing(f"{kind}:{':'.join(parts)}", kind, entry=True, module=KERNEL)
    return firing, {"offset": f"{TRACEPOINT}{name}"}
