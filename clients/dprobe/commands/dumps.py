"""``dprobe dumps``: list and remove cores. The folder is the user's own: no daemon is needed."""

from __future__ import annotations

from typing import Any

import click

from dprobe.commands import complete, options
from dprobe.commands.group import CommandGroup
from dprobe.lib.errors import UserError
from dprobe.view.tables import Listing, show
from dprobed.corefile import store

_LISTING = Listing(
    "core",
    (
        ("core", "name"),
        ("pid", "pid"),
        ("command", "command"),
        ("probe", "probe"),
        ("threads", "threads"),
        ("bytes", "bytes"),
    ),
    ("path", "pause_ns", "how", "time"),
)


@click.group(
    "dumps",
    cls=CommandGroup,
    invoke_without_command=True,
    epilog="""\b
examples:
  dprobe dumps
  dprobe dumps remove redis-server.1234.20240131T101500Z
  dprobe dumps remove --all
""",
)
@options.listing(_LISTING)
@click.pass_context
def dumps_command(ctx: click.Context, json: bool, only: tuple[str, ...]) -> None:
    """List your cores; `dprobe dumps remove` removes them."""
    if ctx.invoked_subcommand is not None:
        return
    try:
        folder = store.limits().folder
        rows = [_row(core) for core in store.cores(folder)]
    except store.StoreError as error:
        raise UserError(str(error)) from None
    show(rows, _LISTING, json=json, empty=f"there are no cores in {folder}", only=only)


@dumps_command.command("remove", epilog="\b\nexample:\n  dprobe dumps remove --all\n")
@click.option("--all", "everything", is_flag=True, help="All of your cores.")
@options.json
@click.argument("names", nargs=-1, metavar="[NAME]...", shell_complete=complete.cores)
@click.pass_context
def _remove_command(
    ctx: click.Context, names: tuple[str, ...], everything: bool, json: bool
) -> None:
    """Remove cores, by the names that `dprobe dumps` shows."""
    if everything == bool(names):
        raise click.UsageError("say which cores, or --all", ctx)
    try:
        folder = store.limits().folder
        chosen = names or [core.name for core in store.cores(folder)]
        rows = [_row(store.remove(folder, name)) for name in chosen]
    except store.StoreError as error:
        raise UserError(str(error)) from None
    show(rows, _LISTING, json=json, empty=f"there are no cores in {folder}")


def _row(core: store.Core) -> dict[str, Any]:
    about = core.about
    probe = about.get("probe") or {}
    place = f"{probe.get('program', '?')} {probe.get('place', '?')}" if probe else ""
    return {
        "name": core.name,
        "path": str(core.path),
        "pid": about.get("pid", 0),
        "command": about.get("command", "?"),
        "probe": place,
        "threads": len(about.get("threads", ())),
        "bytes": core.bytes,
        "pause_ns": about.get("pause_ns", 0),
        "how": about.get("how", "?"),
        "time": about.get("time", 0),
    }
