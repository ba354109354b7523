"""``dprobe status``: how the running daemon is."""

from __future__ import annotations

import os
import pwd
from collections.abc import Iterator, Mapping
from pathlib import Path

import click
import msgspec

from dprobe.commands import options
from dprobe.lib.connection import Connection
from dprobe.lib.health import Health, health
from dprobe.lib.summary import not_counted
from dprobe.view import tables
from dprobed.printable import LAYOUT, printable

_UNITS = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))
#: Problems and throttled probes that are listed; JSON has all of them.
_LISTED = 20


@click.command(
    "status",
    epilog="""\b
examples:
  dprobe status
  dprobe status --json
""",
)
@options.json
@click.pass_obj
def status_command(socket: Path | None, json: bool) -> None:
    """Show the daemon, what it has, what was lost, and what is throttled and why.

    An ordinary user is shown what is the user's own. `dprobe query` shows each probe, `dprobe top`
    the same live.
    """
    with options.running(socket) as daemon:
        found = health(daemon, _place(daemon))
    if json:
        print(tables.encoded("health", msgspec.to_builtins(found)))
        return
    rows = [{"what": what, "is": text} for what, text in _rows(found)]
    width = max(len(row["what"]) for row in rows)
    for row in rows:
        said = printable(f"{row['what']:{width}}  {row['is']}", LAYOUT)
        print(tables.between_words(said, tables.width_of(1), width + 2))


def _place(daemon: Connection) -> str:
    return os.fsdecode(daemon.path) if daemon.path is not None else ""


def _rows(found: Health) -> Iterator[tuple[str, str]]:
    up = "" if found.uptime is None else f", up {lasting(found.uptime)}"
    yield "daemon", f"dprobed {found.version}, process {found.pid} of {_user(found.uid)}{up}"
    yield "socket", found.socket
    yield "targets", f"{found.targets}{_by(found.backends)}"
    yield "programs", f"{found.programs}, {found.deployments} of them deployed"
    yield "probes", f"{sum(found.probes.values())}{_by(found.probes)}{_by(found.engines)}"
    yield "hits", str(found.hits)
    use = f"{found.cpu_seconds:.1f} s of CPU, {found.memory / 1e6:.0f} MB"
    yield "processes", f"1 daemon, {found.tracers} tracers, {found.resolvers} resolvers: {use}"
    yield "handlers", f"{found.handlers} armed"
    for pid in found.standing[:_LISTED]:
        yield "held", f"process {pid} stands at a probe; `dprobe query -p {pid}` says until when"
    yield from _more("held", len(found.standing))
    for pid in found.stopped[:_LISTED]:
        yield "stopped", f"process {pid} is stopped, or frozen: nothing fires in it"
    yield from _more("stopped", len(found.stopped))
    losses = {name: n for name, n in msgspec.structs.asdict(found.losses).items() if n}
    told = (f"{count} {name.replace('_', ' ')}" for name, count in losses.items())
    yield "losses", ", ".join(told) or "none"
    for each in found.throttled[:_LISTED]:
        where = f"{each.program} {each.place} in process {each.pid}"
        share = not_counted(each.asleep_ns, each.present_ns)
        yield "throttled", "; ".join(filter(None, (f"{where}: {each.reason}", share)))
    yield from _more("throttled", len(found.throttled))
    for problem in found.problems[:_LISTED]:
        yield "problem", problem
    yield from _more("problem", len(found.problems))


def _more(what: str, count: int) -> Iterator[tuple[str, str]]:
    if count > _LISTED:
        yield what, f"and {count - _LISTED} more"


def _by(counts: Mapping[str, int]) -> str:
    """Numbers by name, in brackets; empty where there are none."""
    return f" ({', '.join(f'{count} {name}' for name, count in counts.items())})" if counts else ""


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"


def lasting(seconds: float) -> str:
    """A duration in its two largest units."""
    left = int(seconds)
    parts: list[str] = []
    for name, size in _UNITS:
        number, left = divmod(left, size)
        if number or (parts and name != "s") or (name == "s" and not parts):
            parts.append(f"{number} {name}")
        if len(parts) == 2:
            break
    return " ".join(parts)
