"""``dprobe dumps``: list and remove cores, gdb on one. The folder is the user's own: no daemon is
needed."""

from __future__ import annotations

from typing import Any

import click

from dprobe.commands import complete, options
from dprobe.commands.group import CommandGroup
from dprobe.lib.errors import UserError
from dprobe.view.output import complain
from dprobe.view.tables import Listing, show
from dprobed.corefile import asked, store

_LISTING = Listing(
    "core",
    (
        ("core", "name"),
        ("pid", "pid"),
        ("command", "command"),
        ("probe", "probe"),
        ("threads", "threads"),
        ("bytes", "bytes"),
        ("state", "state"),
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
  dprobe dumps gdb redis-server.1234.20240131T101500Z
  dprobe dumps remove redis-server.1234.20240131T101500Z
  dprobe dumps remove 'redis-server.*'
  dprobe dumps remove --all
""",
)
@options.listing(_LISTING)
@click.pass_context
def dumps_command(ctx: click.Context, json: bool, only: tuple[str, ...]) -> None:
    """List your cores; `dprobe dumps remove` removes them, `dprobe dumps gdb` opens one.

    One that a killed writer left is `unfinished`; it goes when the next one is begun.
    """
    if ctx.invoked_subcommand is not None:
        return
    try:
        found = _cores()
    except store.StoreError as error:
        raise UserError(str(error)) from None
    show([_row(core) for core in found], _LISTING, json=json, empty=_none(), only=only)
    if not json and not only:
        for folder in dict.fromkeys(core.path.parent for core in found):
            complain(f"these are in {folder}")


def _cores() -> list[store.Core]:
    return [core for folder in store.folders() for core in asked.cores(folder)]


def _none() -> str:
    return f"there are no cores in {' or '.join(map(str, store.folders()))}"


@dumps_command.command(
    "remove",
    epilog="\b\nexamples:\n  dprobe dumps remove 'nginx.*'\n  dprobe dumps remove --all\n",
)
@click.option("--all", "everything", is_flag=True, help="All of your cores.")
@options.json
@click.argument("names", nargs=-1, metavar="[NAME]...", shell_complete=complete.cores)
@click.pass_context
def _remove_command(
    ctx: click.Context, names: tuple[str, ...], everything: bool, json: bool
) -> None:
    """Remove cores, and list what was removed.

    NAME is what `dprobe dumps` shows, a path, or a pattern with `*`, `?` and `[…]`. Where one of
    them means no core, none is removed. Removed ones count for the limit of an hour as before.
    """
    if everything == bool(names):
        raise click.UsageError("say which cores, or --all", ctx)
    try:
        found = _cores()
        wanted = store.chosen(found, names) if names else found
        removed = [core for folder in store.folders() for core in asked.remove(folder, wanted)]
    except store.StoreError as error:
        raise UserError(str(error)) from None
    for core in wanted:
        if core.state == store.WRITING and core not in removed:
            complain(f"{core.path} is being written, and stays")
    if names and not removed:
        raise UserError("none of these cores was removed")
    rows = [_row(core) for core in removed]
    show(rows, _LISTING, json=json, empty=_none())


@dumps_command.command(
    "gdb",
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
    epilog="""\b
examples:
  dprobe dumps gdb redis-server.1234.20240131T101500Z
  dprobe dumps gdb 'redis-server.*' -batch -ex 'thread apply all bt'
""",
)
@click.argument("name", metavar="NAME", shell_complete=complete.cores)
@click.argument("gdb", nargs=-1, type=click.UNPROCESSED)
def _gdb_command(name: str, gdb: tuple[str, ...]) -> None:
    """Open gdb on a core, with the program and the libraries that its process had.

    Of several that a pattern means, the newest. What follows NAME is for gdb.
    """
    from dprobe.commands.dumps_gdb import open_core

    try:
        wanted = store.chosen(_cores(), [name])
        whole = [core for core in wanted if core.state == store.WHOLE]
    except store.StoreError as error:
        raise UserError(str(error)) from None
    if not whole:
        raise UserError(f"{wanted[-1].path}: it is {wanted[-1].state}")
    open_core(whole[-1], gdb)


def _named(name: str) -> dict[str, Any]:
    """What the name of a core says, which is all that there is of an unfinished one."""
    command, _, rest = name.partition(".")
    pid = rest.partition(".")[0]
    return {"command": command, "pid": int(pid)} if pid.isdecimal() else {}


def _row(core: store.Core) -> dict[str, Any]:
    about = _named(core.name) | core.about
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
        "state": "" if core.state == store.WHOLE else core.state,
        "pause_ns": about.get("pause_ns", 0),
        "how": about.get("how", "?"),
        "time": about.get("time", 0),
    }
