"""Which probes the inline engine can serve where."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

from dprobed.arch.x86_64 import features
from dprobed.arch.x86_64.function_exits import Exit, ExitsError
from dprobed.arch.x86_64.placeable import LONGEST, calls, unserved
from dprobed.arch.x86_64.relocation import RelocationError, instruction_length
from dprobed.engine.errors import SpaceError
from dprobed.engine.inline.breakpoints import NativeSites
from dprobed.engine.inline.executor import InlineExecutor
from dprobed.engine.inline.placing import BREAKPOINT, Placer
from dprobed.engine.inline.room import GO
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
    if opcode := location.opcode:
        actual = placer.text(location.address, len(opcode))
        if actual != opcode:
            found = actual.hex(" ") or "nothing"
            return Refusal(State.MISMATCH, f"expected {opcode.hex(' ')}, found {found}")
    if engine == SIGNAL:
        reason, cost = why_no_breakpoint(probe, location, placer, breakpoints), STOP_COST_NS
    else:
        reason, cost = why_not(probe, location, placer, breakpoints.displaces), COST_NS
    if reason:
        return Refusal(State.FAILED, f"the {engine} engine cannot serve it: {reason}")
    return Plan(engine, probe, location, cost)


def why_not(
    probe: Probe, location: Location, placer: Placer, is_displaced: Callable[[int, int], bool]
) -> str:
    """Why no jump to a probe's program can be at a location; empty: one can."""

    def why_no_jump(address: int) -> str:
        length = instruction_length(placer.text(address, LONGEST), address)
        # Of a punned jump the bytes behind are looked at when it is known which it needs.
        if is_displaced(address, length):
            return BREAKPOINT
        owner = placer.space.owner_of(address, length)
        if owner not in (None, address):
            return f"the jump at {owner:#x} needs the bytes there as they are"
        return ""

    return _why_not_native(probe, location, placer, why_no_jump)


def why_no_breakpoint(
    probe: Probe, location: Location, placer: Placer, breakpoints: NativeSites
) -> str:
    """Why no breakpoint that leads to a probe's program can be at a location; empty: one can."""

    def why_no_site(address: int) -> str:
        owner = placer.space.owner_of(address, 1)
        return "" if owner is None else f"the inline engine has a jump at {owner:#x}"

    return _why_not_native(probe, location, placer, why_no_site) or breakpoints.why_not()


def _why_not_native(
    probe: Probe, location: Location, placer: Placer, why_no_site: Callable[[int], str]
) -> str:
    """Why a probe's program cannot run in the target at a location; empty: it can.

    ``why_no_site``: why a thread cannot be led to it from an address.
    """
    if location.goroutine:
        return GO
    native = probe.native
    if not isinstance(native, InlineExecutor):
        return "its program was not inserted for it"
    parts = native.native(probe.definition)
    if isinstance(parts, str):
        return parts
    if makes_calls(probe) and is_filtered(placer):
        return FILTERED
    if any(each.blob.needs & (Needs.UID | Needs.GID) for each in parts) and _is_elsewhere(placer):
        return "it asks for the user, and the target is in another user namespace"
    for number in parts[0].arguments:
        if location.arguments[number].is_vector:
            return f"its argument a,{number} is in a floating point register"
    exits: tuple[Exit, ...] = ()
    if probe.definition.returns:
        if not features.HAS_FS_BASE:
            return "calls are followed by an instruction of newer processors (rdfsbase)"
        try:
            exits = placer.exits_of(location)
        except ExitsError as error:
            return str(error)
    for address in (location.address, *(each.address for each in exits)):
        if reason := _why_not_there(address, placer) or why_no_site(address):
            where = "" if address == location.address else f"it returns at {address:#x}: "
            return f"{where}{reason}"
    return ""


def _why_not_there(address: int, placer: Placer) -> str:
    """Why no thread can be led away from an address."""
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
