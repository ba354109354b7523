"""``dprobe run`` and ``dprobe attach`` on the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from dprobe.commands import options
from dprobe.commands.budget import chosen


class _RunCommand(click.Command):
    """Cuts the command off at the first ``--``, so that its own options and ``--`` stay its own."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if "--" in args:
            cut = args.index("--")
            args, ctx.obj = args[:cut], (ctx.obj, args[cut + 1 :])
        else:
            ctx.obj = (ctx.obj, [])
        return super().parse_args(ctx, args)

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        return ["[OPTIONS]", "PROGRAM...", "--", "COMMAND", "[ARG...]"]


@click.command(
    "run",
    cls=_RunCommand,
    epilog="""\b
examples:
  dprobe run alloc.rpn -- sort /etc/services
  dprobe run -D MIN=4096 --format json -o out.json alloc.rpn opens.rpn -- python3 job.py
  dprobe run -f opens.rpn -- make
""",
)
@options.selecting
@options.format_
@options.output("standard error, so that COMMAND's output stays its own")
@click.argument("programs", nargs=-1, type=options.program_file)
@click.pass_context
def run_command(ctx: click.Context, /, programs: tuple[str, ...], **given: Any) -> int:
    """Start COMMAND with the programs' probes in it, and show what they report.

    Probes are in before COMMAND's first instruction, and in libraries as they are loaded. The exit
    status is COMMAND's own (128+n when signal n killed it). With -f it ends when the last of its
    children has ended, or at Ctrl-C after COMMAND's end.
    """
    socket, argv = ctx.obj
    if not programs:
        raise click.UsageError("name at least one PROGRAM before --", ctx)
    if not argv:
        raise click.UsageError("put -- and the COMMAND after the programs", ctx)
    from dprobe.lib.run import run

    return run(programs, argv, socket=socket, **_session_options(given))


@click.command(
    "attach",
    epilog="""\b
examples:
  dprobe attach $(pidof redis-server) commands.rpn
  dprobe attach --duration 10 --format json 1234 alloc.rpn
""",
)
@click.option(
    "--duration", type=click.FloatRange(0, min_open=True), metavar="S", help="Seconds to stay."
)
@options.selecting
@options.format_
@options.output("standard output")
@click.argument("pid", type=options.pid_type)
@click.argument("programs", nargs=-1, required=True, type=options.program_file)
@click.pass_obj
def attach_command(
    socket: Path | None,
    /,
    pid: int,
    programs: tuple[str, ...],
    duration: float | None,
    **given: Any,
) -> int:
    """Put the programs' probes into process PID, and show what they report.

    Ends at Ctrl-C, after the time given, with PID (with -f: and all its children that were
    followed), or when every probe is disabled or removed; the processes go on without probes.
    Status 2: none of the probes has a place where it could fire.
    """
    from dprobe.lib.attach import attach

    return attach(pid, programs, socket=socket, duration=duration, **_session_options(given))


def _session_options(given: dict[str, Any]) -> dict[str, Any]:
    from dprobe.lib.session import parse_defines

    return {
        "defines": parse_defines(given["defines"]),
        "groups": given["groups"],
        "types": given["types"],
        "check_opcode": not given["no_opcode_check"],
        "form": given["form"],
        "path": given["path"],
        "follow_forks": given["follow_forks"],
        "budget": chosen(given["budget"], given["over"]),
    }
