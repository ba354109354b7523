"""Programs of return probes, and what they have counted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dprobed.record.log import decode_log
from dprobed.wire.protocol import ProbeStatus
from tests.integration.harness import Target, TracerProcess, counting

#: By engine, how programs are built. A jump needs five bytes, or what is behind to lead somewhere:
#: so each function begins with four more.
FLAGS = {
    "trap": ["-O2"],
    "inline": ["-O2", "-fcf-protection=full", "-falign-functions=16"],
    "signal": ["-O2"],
}


def returning(module: Path, *functions: str, body: str = "abort") -> str:
    """A program with a probe at the return of each function."""
    return counting(module, *functions, body=f"at = return\n{body}")


def counts(probes: list[ProbeStatus]) -> list[tuple[int, int]]:
    """Of each probe, the returns and the calls that were unwound; nothing was missed."""
    for each in probes:
        assert (each.missed, each.dropped, each.ran) == (0, 0, each.hits), each
    return [(each.hits, each.unwound) for each in probes]


def at_end(target: Target, tracer: TracerProcess, number: int) -> list[tuple[int, int]]:
    """Let the target end, unharmed; the counts of a program then."""
    target.finish()
    probes = tracer.wait().probes
    return counts([each for each in probes if each.program == number])


def logged(tracer: TracerProcess, minor: int) -> list[list[int]]:
    """The words of each record with this minor number."""
    found = []
    for record in tracer.records:
        if record.minor == minor:
            items: list[Any] = decode_log(record.log, record.raw)
            found.append([word for item in items for word in item["words"]])
    return found
