"""When programs that are in end by themselves, in words."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator

from dprobed.durations import text
from dprobed.wire import messages

#: Seconds from which on the time of the day alone would not say which day.
_DAY = 43_200


def endings(found: Iterable[messages.ProbeInfo | messages.DeploymentInfo]) -> Iterator[str]:
    """A line for each program that ends by itself: when, and who says so."""
    soonest: dict[tuple[int, str, str], float] = {}
    for each in found:
        if each.left_seconds is not None:
            key = each.number, each.program, each.end_rule
            soonest[key] = min(soonest.get(key, each.left_seconds), each.left_seconds)
    for (_, program, rule), left in soonest.items():
        form = "%H:%M:%S" if left < _DAY else "%Y-%m-%d %H:%M"
        # Years are not what a C library can count without end.
        moment = time.strftime(form, time.localtime(min(time.time() + left, 1e11)))
        by = f", by {rule}" if rule else ""
        yield f"{program} ends at {moment} (in {text(left)}{by})"
