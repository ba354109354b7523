"""Which probes the inline engine can serve where."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

from dprobed.arch.x86_64 import features
from dprobed.arch.x86_64.placeable import LONGEST, calls, unserved
from dprobed.arch.x86_64.relocation import RelocationError, instruction_length
from dprobed.engine.errors import SpaceError
from dprobed.engine.inline.breakpoints import NativeSites
from dprobed.engine.inline.executor import InlineExecutor
from dprobed.engine.inline.placing import Placer
from dprobed.engine.interface import Location, Plan, Refusal
from dprobed.engine.probe import Probe
from dprobed.proc import procfs
from dprobed.program.exec.native.abi import Needs
from dprobed.tracee.ptrace import Gone
from dprobed.wire.engines import SIGNAL
from dprobed.wire.protocol import State

#: What a hit costs by a jump, with a short program; and is charged to budgets.
COST_NS: Final = 15
#: The same by a breakpoint, as long as a tracer is there.
STOP_COST_NS: Final = 13_000
FILTERED: Final = "it makes system calls, and the target has a seccomp filter"


def makes_calls(probe: Probe) -> bool:
    """Whether a probe's program makes system calls in the target."""
    native = probe.native
    return isinstance(native, InlineExecutor) and native.makes_calls(probe.definition)


def offered(
    probe: Probe, location: Location, engine: str, placer: Placer, breakpoints: NativeSites
) -> Plan | Refusal | None:
    """See Engine.offer: by a jump, or by a breakpoint where ``engine`` is that of these."""
    if location.kind:
        return None
    address, opcode = location.address, location.opcode
    if opcode:
        actual = placer.text(address, len(opcode))
        if actual != opcode:
            found = actual.hex(" ") or "nothing"
            return Refusal(State.MISMATCH, f"expected {opcode.hex(' ')}, found {found}")
    if engine == SIGNAL:
        reason, cost = why_no_breakpoint(probe, address, placer, breakpoints), STOP_COST_NS
    else:
        reason, cost = why_not(probe, address, placer, breakpoints.displaces), COST_NS
    if reason:
        return Refusal(State.FAILED, f"the {engine} engine cannot serve it: {reason}")
    return Plan(engine, probe, location, cost)


def why_not(
    probe: Probe, address: int, placer: Placer, is_displaced: Callable[[int, int], bool]
) -> str:
    """Why no jump to a probe's program can be at an address; empty: one can."""
    if reason := _why_not_native(probe, address, placer):
        return reason
    length = instruction_length(placer.text(address, LONGEST), address)
    # Of a punned jump the bytes behind are looked at when it is known which it needs.
    if is_displaced(address, length):
        return "another engine has a breakpoint there"
    owner = placer.space.owner_of(address, length)
    if owner not in (None, address):
        return f"the jump at {owner:#x} needs the bytes there as they are"
    return ""


def why_no_breakpoint(probe: Probe, address: int, placer: Placer, breakpoints: NativeSites) -> str:
    """Why no breakpoint that leads to a probe's program can be at an address; empty: one can."""
    if reason := _why_not_native(probe, address, placer):
        return reason
    if (owner := placer.space.owner_of(address, 1)) is not None:
        return f"the inline engine has a jump at {owner:#x}"
    return breakpoints.why_not()


def _why_not_native(probe: Probe, address: int, placer: Placer) -> str:
    """Why a probe's program cannot run in the target at an address, however a thread comes there;
    empty: it can."""
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
        instruction_length(text, address)
    except RelocationError as error:
        return error.reason
    if reason := unserved(text, address):
        return reason
    if calls(text, address) and _has_shadow_stack(placer):
        return "it is a call, and the target has a hardware shadow stack"
    try:
        return placer.why_unfit(address)
    except (SpaceError, Gone) as error:
        return str(error)


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
