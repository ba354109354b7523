"""``dprobe debug``: processes held for a debugger, and gdb on one of them."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import Any, Final

import click

from dprobe.commands import options
from dprobe.commands import pids as processes
from dprobe.lib.errors import UserError
from dprobe.view.tables import Listing, show
from dprobed.wire import messages

_LISTING = Listing(
    "debugger",
    (
        ("pid", "pid"),
        ("command", "comm"),
        ("state", "state"),
        ("threads", "threads"),
        ("for, s", "seconds"),
        ("expired", "expired"),
        ("socket", "socket"),
    ),
)
#: Nothing in it is syntax for gdb.
_PLAIN: Final = re.compile(r"/[\w./+:@-]+", re.ASCII)


def _state(found: messages.DebuggerInfo) -> str:
    if found.attached:
        return "debugged"
    return "held" if found.held else "runs"


def _row(target: messages.TargetInfo, found: messages.DebuggerInfo) -> dict[str, Any]:
    return {
        "pid": target.pid,
        "comm": target.comm,
        "state": _state(found),
        "threads": found.held,
        "seconds": int(found.seconds),
        "expired": found.expired,
        "socket": found.socket,
    }


def _debugged(targets: list[messages.TargetInfo]) -> list[dict[str, Any]]:
    """A row for each process to which a debugger was ever invited."""
    return [
        _row(target, target.debugger)
        for target in targets
        if target.debugger is not None and target.debugger.socket
    ]


def gdb_command(pid: int, socket: str, more: tuple[str, ...] = ()) -> list[str]:
    """The command line of gdb on a held process; raises UserError."""
    # The tracer chose the path, and runs as somebody else perhaps: for gdb `| command` is a place
    # to connect to.
    if not _PLAIN.fullmatch(socket):
        raise UserError(f"process {pid}: its debugger's socket has an odd name: {socket!r}")
    command = ["gdb", "-q"]
    try:
        if Path(f"/proc/{pid}/root").samefile("/"):
            # gdb reads programs and libraries itself, instead of asking the tracer for each.
            command += ["-iex", "set sysroot /"]
    except OSError:
        pass
    return [*command, "-ex", f"target remote {socket}", *more]


def _chosen(rows: list[dict[str, Any]], pids: tuple[int, ...]) -> dict[str, Any]:
    """The one of these processes for which a debugger is wanted; raises UserError."""
    found = [row for row in rows if row["pid"] in pids]
    # Of several with one name it is the one that waits.
    waiting = [row for row in found if row["state"] == "held"] or found
    if len(waiting) > 1:
        several = ", ".join(str(row["pid"]) for row in waiting)
        raise UserError(f"several of them are held for a debugger: {several}; name one")
    if not waiting:
        what = f"process {pids[0]} is not" if len(pids) == 1 else "none of these processes is"
        raise UserError(f"{what} held for a debugger; `dprobe debug` lists those")
    if waiting[0]["state"] == "debugged":
        raise UserError(f"process {waiting[0]['pid']} has a debugger already")
    return waiting[0]


@click.command(
    "debug",
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
    epilog="""\b
examples:
  dprobe debug                       # what is held
  dprobe debug 1234                  # gdb on process 1234
  dprobe debug nginx                 # on the one of that name that is held
  dprobe debug 1234 -batch -ex bt    # the rest is for gdb
""",
)
@options.listing(_LISTING)
@click.argument("pids", type=processes.Processes(), required=False, metavar="[PID|NAME]")
@click.argument("gdb", nargs=-1, type=click.UNPROCESSED)
@click.pass_obj
def debug_command(
    socket: Path | None,
    pids: tuple[int, ...] | None,
    gdb: tuple[str, ...],
    json: bool,
    only: tuple[str, ...],
) -> None:
    """List the processes held because a program ended with `exit debugger`, or start gdb on one, by
    its number or name.

    Probes stay in, and work, while gdb is attached. When gdb detaches or ends, the process goes on.
    """
    select = messages.Select(pid=pids[0] if pids is not None and len(pids) == 1 else None)
    with options.running(socket) as daemon:
        answer = daemon.request(
            lambda number: messages.Query(id=number, select=select), messages.Status
        )
    rows = _debugged(answer.targets)
    if pids is None:
        if not json:
            for row in rows:
                row["threads"] = " ".join(map(str, row["threads"]))
        show(rows, _LISTING, json=json, empty="no process is held for a debugger", only=only)
        return
    row = _chosen(rows, pids)
    if shutil.which("gdb") is None:
        raise UserError("gdb is not installed; run: apt-get install gdb")
    os.execvp("gdb", gdb_command(row["pid"], row["socket"], gdb))
