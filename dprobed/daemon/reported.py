"""What tracers report of targets and probes: held against what they said before, and in words."""

from __future__ import annotations

from typing import Final

import msgspec

from dprobed.wire import protocol
from dprobed.wire.counters import Counters

#: The end of a target from which the tracer detached after an internal error.
DEFECT: Final = "internal error in the tracer; detached from the process (see the log)"
#: States of a probe about whose source there is nothing to say.
WORKING: Final = frozenset(
    {
        protocol.State.PENDING,
        protocol.State.ACTIVE,
        protocol.State.DISABLED,
        protocol.State.REMOVED,
        protocol.State.THROTTLED,
    }
)
#: States of a probe of which one would think that it may fire, though its process has ended.
MAY_FIRE: Final = frozenset(
    {protocol.State.PENDING, protocol.State.ACTIVE, protocol.State.THROTTLED}
)


def describe_end(ended: protocol.Ended) -> str:
    """How a target ended, in a few words."""
    if ended.how == "failed":
        return DEFECT
    if ended.how == "exited":
        return f"exited with status {ended.status}"
    if ended.how == "killed":
        return f"killed by signal {ended.status}"
    return ended.how


def not_below(before: Counters, statuses: list[protocol.ProbeStatus]) -> list[protocol.ProbeStatus]:
    """The statuses, with counters that fell below ``before`` raised to it (in the first one)."""
    lacking = Counters.of(*statuses).lacking(before)
    if not lacking or not statuses:
        return statuses
    first, *others = statuses
    whole = {name: getattr(first, name) + count for name, count in lacking.items()}
    return [msgspec.structs.replace(first, **whole), *others]
