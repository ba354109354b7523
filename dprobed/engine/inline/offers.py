"""Which probes the inline engine can serve where."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

from dprobed.arch.x86_64 import features
from dprobed.arch.x86_64.placeable import LONGEST, calls, unserved
from dprobed.arch.x86_64.relocation import RelocationError, instruction_length
from dprobed.engine.errors import SpaceError
from dprobed.engine.inline.executor import InlineExecutor
from dprobed.engine.inline.placing import BREAKPOINT, Placer
from dprobed.engine.probe import Probe
from dprobed.proc import procfs
from dprobed.program.exec.native.abi import SYSTEM_CALLS, Needs
from dprobed.tracee.ptrace import Gone

FILTERED: Final = "it makes system calls, and the target has a seccomp filter"


def makes_calls(probe: Probe) -> bool:
    """Whether a probe's program makes system calls in the target."""
    native = probe.native
    if not isinstance(native, InlineExecutor):
        return False
    code = native.native(probe.definition)
    return not isinstance(code, str) and bool(code.needs & (SYSTEM_CALLS | Needs.TID))


def why_not(
    probe: Probe, address: int, placer: Placer, is_displaced: Callable[[int, int], bool]
) -> str:
    """Why no jump to a probe's program can be at an address; empty: one can."""
    native = probe.native
    if not isinstance(native, InlineExecutor):
        return "its program was not inserted for it"
    if probe.definition.returns:
        return "it is at the return of a function"
    code = native.native(probe.definition)
    if isinstance(code, str):
        return code
    if makes_calls(probe) and is_filtered(placer):
        return FILTERED
    if code.needs & (Needs.UID | Needs.GID) and _is_elsewhere(placer):
        return "it asks for the user, and the target is in another user namespace"
    text = placer.text(address, LONGEST)
    try:
        length = instruction_length(text, address)
    except RelocationError as error:
        return error.reason
    if reason := unserved(text, address):
        return reason
    if calls(text, address) and _has_shadow_stack(placer):
        return "it is a call, and the target has a hardware shadow stack"
    try:
        if reason := placer.why_unfit(address):
            return reason
    except (SpaceError, Gone) as error:
        return str(error)
    # Of a punned jump the bytes behind are looked at when it is known which it needs.
    if is_displaced(address, length):
        return BREAKPOINT
    owner = placer.space.owner_of(address, length)
    if owner not in (None, address):
        return f"the jump at {owner:#x} needs the bytes there as they are"
    return ""


def is_filtered(placer: Placer) -> bool:
    """Whether the target has a filter of system calls, as far as that can be seen."""
    found = procfs.status(placer.space.tgid)
    return found is None or found.seccomp != 0


def _is_elsewhere(placer: Placer) -> bool:
    try:
        theirs = Path(f"/proc/{placer.space.tgid}/ns/user").stat()
        ours = Path("/proc/self/ns/user").stat()
    except OSError:
        return True
    return theirs.st_ino != ours.st_ino


def _has_shadow_stack(placer: Placer) -> bool:
    found = procfs.status(placer.space.tgid)
    return found is not None and found.shadow_stack


def why_no_records() -> str:
    """Why no records can be made in a target; empty: they can."""
    if not features.HAS_FS_BASE:
        return "records need an instruction of newer processors and kernels (rdfsbase)"
    if not features.HAS_CLOCK:
        return "records need a time stamp counter that goes on steadily, and rdtscp"
    return ""
