"""Which programs run in the target itself, and how one that cannot stay there comes to the tracer.

All probes of a program that have variables or maps in common are run by one side: the tracer's
arithmetic on what the target's threads count at the same time would lose some of it. And a probe is
by one side at all of its places, since each side counts its hits by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Final

from dprobed.compiler import is_there
from dprobed.engine.probe import Probe
from dprobed.program.exec.python import PythonExecutor
from dprobed.tracer.inserted import Chosen, Inserted
from dprobed.wire.engines import AUTO, NATIVE, TRAP
from dprobed.wire.protocol import State

#: Why nothing is native where there is no compiler.
NO_COMPILER: Final = "llvmlite is not installed, by which native code is made"


def chosen(python: PythonExecutor, asked: str) -> Chosen:
    """What runs a program for which this engine is asked."""
    if asked == TRAP:
        return Chosen(python, (TRAP,))
    if asked == AUTO and not is_there():
        return Chosen(python, (TRAP,), NO_COMPILER)
    # Here: its import takes a tenth of a tracer's start, and few programs need it.
    from dprobed.engine.inline.executor import InlineExecutor

    native = InlineExecutor(python)
    if asked != AUTO:
        return Chosen(native, (asked,))
    if reason := native.why_not_all():
        return Chosen(python, (TRAP,), reason)
    return Chosen(native, NATIVE)


def probes_of(inserted: Inserted) -> list[Probe]:
    """Its probes, which have no place yet."""
    program = inserted.program
    is_native = inserted.engines != (TRAP,)
    found = [
        Probe(
            inserted.number,
            probe,
            inserted.executor.entry(probe.index),
            program.header.name,
            alters=program.alters(probe),
            max_hits=inserted.max_hits or 0,
            entry_part=inserted.executor.entry_part(probe.index),
            native=inserted.executor if is_native and not probe.watchpoint else None,
        )
        for probe in program.probes
    ]
    for each in found:
        each.slower = "" if each.definition.watchpoint else inserted.slower
    return found


def to_be_run_here(inserted: Inserted, unserved: dict[Probe, str]) -> list[Probe]:
    """The probes of a program that the tracer is to run from now on, since it has to run these,
    each for a reason: all those that have something in common with them."""
    header = inserted.program.header
    if not (header.vars or header.map):
        moved = list(unserved)
    else:
        moved = [each for each in inserted.probes if each.native is not None]
    first, why = next(iter(unserved.items()))
    for each in moved:
        each.slower = unserved.get(each, f"{first.definition.offset or first.place}: {why}")
        each.native = None
        if not each.over:
            each.set(State.PENDING)
    return moved


def hand_back(inserted: Inserted, quiet: Callable[[], AbstractContextManager[bool]]) -> None:
    """None of its probes is in the target any more: the tracer goes on with what they counted."""
    from dprobed.engine.inline.executor import InlineExecutor

    native = inserted.executor
    if isinstance(native, InlineExecutor) and all(each.native is None for each in inserted.probes):
        with quiet():
            inserted.executor = native.handed_back()


def by_program(
    programs: Iterable[Inserted], unserved: dict[Probe, str]
) -> dict[int, dict[Probe, str]]:
    """What no engine serves that runs code in the target, of programs that may fall back."""
    found: dict[int, dict[Probe, str]] = {}
    for inserted in programs:
        its = {each: unserved[each] for each in inserted.probes if each in unserved}
        if its and inserted.may_fall_back:
            found[inserted.number] = its
    return found
