"""``dprobe dump`` and ``dprobe dumps`` on the command line."""

from __future__ import annotations

from pathlib import Path

import click

from dprobe.commands import options


@click.command(
    "dump",
    epilog="""\b
examples:
  dprobe dump $(pidof redis-server)
  gdb /usr/bin/redis-server "$(dprobe dump 1234)"
""",
)
@click.option("--zstd", is_flag=True, help="Compress the core, with the command `zstd`.")
@options.json
@click.argument("pid", type=options.pid_type)
@click.pass_obj
def dump_command(socket: Path | None, pid: int, zstd: bool, json: bool) -> None:
    """Write a core of process PID, which goes on meanwhile, and print where it is."""
    from dprobe.lib import dumps

    dumps.dump(socket, pid, zstd=zstd, json=json)


@click.group(
    "dumps",
    invoke_without_command=True,
    epilog="""\b
examples:
  dprobe dumps
  dprobe dumps remove redis-server.1234.20240131T101500Z
  dprobe dumps remove --all
""",
)
@options.json
@click.pass_context
def dumps_command(ctx: click.Context, json: bool) -> None:
    """List your cores; `dprobe dumps remove` removes them."""
    if ctx.invoked_subcommand is not None:
        return
    from dprobe.lib import dumps

    dumps.show_cores(json=json)


@dumps_command.command("remove")
@click.option("--all", "everything", is_flag=True, help="All of your cores.")
@options.json
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.pass_context
def _remove_command(
    ctx: click.Context, names: tuple[str, ...], everything: bool, json: bool
) -> None:
    """Remove cores, by the names that `dprobe dumps` shows."""
    if everything == bool(names):
        raise click.UsageError("say which cores, or --all", ctx)
    from dprobe.lib import dumps

    dumps.remove(names, json=json)
