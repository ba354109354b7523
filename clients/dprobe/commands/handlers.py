"""``dprobe handlers``: who gets the reports of programs that end with ``exit FACILITY``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click
import msgspec

from dprobe.commands import complete, options
from dprobe.commands.group import CommandGroup
from dprobe.view.tables import Listing, show
from dprobed.wire import messages

_LISTING = Listing(
    "handler",
    (
        ("facility", "facility"),
        ("no", "number"),
        ("handler", "handler"),
        ("owner", "owner"),
        ("order", "order"),
        ("armed", "armed"),
        ("reports", "reports"),
        ("waiting", "waiting"),
        ("timeouts", "timeouts"),
        ("drops", "drops"),
        ("failures", "failures"),
    ),
    messages.HandlerInfo.__struct_fields__,
)


def _show(
    handlers: Sequence[messages.HandlerInfo], *, json: bool, only: Sequence[str] = ()
) -> None:
    rows = [msgspec.to_builtins(handler) for handler in handlers]
    if not json:
        for row in rows:
            row["armed"] = row["armed"] if row["alive"] else "dead"
    show(rows, _LISTING, json=json, empty="no handler is registered", only=only)


def _switch(
    socket: Path | None, kind: type[messages.Arm | messages.Disarm], names: tuple[str, ...]
) -> list[messages.HandlerInfo]:
    with options.running(socket) as daemon:
        answer = daemon.request(
            lambda number: kind(id=number, names=list(names)), messages.HandlerListing
        )
    return [handler for handler in answer.handlers if handler.handler in names]


@click.group(
    "handlers",
    cls=CommandGroup,
    invoke_without_command=True,
    epilog="""\b
examples:
  dprobe handlers
  dprobe handlers disarm mailer pager     # both, or neither
""",
)
@options.listing(_LISTING)
@click.pass_context
def handlers_command(ctx: click.Context, json: bool, only: tuple[str, ...]) -> None:
    """Show the handlers of each facility, in the order in which they get its reports.

    An armed handler gets the reports of programs that end with `exit FACILITY`. `timeouts` counts
    reports that it did not answer in time, `drops` reports that it had no room for (`dprobe query
    -x` shows of which probes they were), `failures` how often it died.
    """
    if ctx.invoked_subcommand is not None:
        return
    with options.running(ctx.obj) as daemon:
        answer = daemon.request(
            lambda number: messages.Handlers(id=number), messages.HandlerListing
        )
    _show(answer.handlers, json=json, only=only)


@handlers_command.command("arm", epilog="\b\nexample:\n  dprobe handlers arm mailer pager\n")
@options.json
@click.argument("names", nargs=-1, required=True, shell_complete=complete.handlers)
@click.pass_obj
def arm_command(socket: Path | None, names: tuple[str, ...], json: bool) -> None:
    """Let handlers get reports from now on: all that are named, or none."""
    _show(_switch(socket, messages.Arm, names), json=json)


@handlers_command.command("disarm", epilog="\b\nexample:\n  dprobe handlers disarm mailer\n")
@options.json
@click.argument("names", nargs=-1, required=True, shell_complete=complete.handlers)
@click.pass_obj
def disarm_command(socket: Path | None, names: tuple[str, ...], json: bool) -> None:
    """Let handlers get no further reports: all that are named, or none."""
    _show(_switch(socket, messages.Disarm, names), json=json)
