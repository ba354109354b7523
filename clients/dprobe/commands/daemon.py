"""The commands that talk to a running daemon, on the command line."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from dprobe.commands import options
from dprobe.commands.budget import chosen

if TYPE_CHECKING:
    from dprobed.wire.limits import Limits


@click.command(
    "insert",
    epilog="""\b
examples:
  dprobe insert alloc.rpn --pid 1234         # one process
  dprobe insert alloc.rpn --exe nginx        # each nginx, those to come too
  dprobe insert alloc.rpn --exe '/opt/**' --user www-data
  dprobe insert alloc.rpn --unit 'redis*.service' --limit 10
  dprobe insert alloc.rpn --all --replace    # instead of those for that module
""",
)
@click.option("--pid", type=options.pid_type, help="This process, and no other.")
@click.option(
    "--exe", metavar="GLOB", help="Processes that execute it: a path, or without / a base name."
)
@click.option("--user", metavar="USER", help="Processes of this user (name or number).")
@click.option("--unit", metavar="GLOB", help="Processes of this systemd unit.")
@click.option("--all", "everything", is_flag=True, help="Every process that maps the module.")
@click.option("--limit", type=options.pid_type, metavar="N", help="At most N processes at a time.")
@click.option("--merge", is_flag=True, help="Besides a program of the same name that is in.")
@click.option("--replace", is_flag=True, help="Take those for the same module out first.")
@options.selecting
@options.json
@click.argument("programs", nargs=-1, required=True, type=options.program_file)
@click.pass_context
def insert_command(
    ctx: click.Context,
    pid: int | None,
    exe: str | None,
    user: str | None,
    unit: str | None,
    everything: bool,
    limit: int | None,
    merge: bool,
    replace: bool,
    programs: tuple[str, ...],
    defines: tuple[str, ...],
    groups: tuple[int, ...],
    types: tuple[int, ...],
    no_opcode_check: bool,
    follow_forks: bool,
    budget: Limits | None,
    over: str | None,
    json: bool,
) -> None:
    """Put programs into a process, or into all that fit; they stay until `dprobe remove`.

    With --pid they go into that process, or are refused, at once. With --exe, --user and --unit
    (all that is given must hold) or --all they go into each such process that maps the program's
    module, now or later; --exe takes those as well that do not map it yet. A GLOB is like those of
    policies: *, ?, [a-z], [!a-z], {one,other}; in a path * stops at a slash, and ** does not.
    """
    narrowed = (exe, user, unit) != (None, None, None)
    if (pid is not None) + narrowed + everything != 1:
        raise click.UsageError("say --pid, or which processes, or --all", ctx)
    if merge and replace:
        raise click.UsageError("--merge and --replace exclude each other", ctx)
    if limit is not None and pid is not None:
        raise click.UsageError("--limit does not go with --pid", ctx)
    if follow_forks and pid is None:
        raise click.UsageError("--follow-forks goes with --pid; else children are followed", ctx)
    from dprobe.lib import manage
    from dprobe.lib.session import load_programs, parse_defines
    from dprobed.wire import messages

    uploads = load_programs(programs, parse_defines(defines), groups, types, chosen(budget, over))
    present: messages.Present = "merge" if merge else "replace" if replace else "refuse"
    with manage.connect(ctx.obj) as daemon:
        if pid is not None:
            manage.insert(
                daemon,
                uploads,
                pid,
                check_opcode=not no_opcode_check,
                present=present,
                follow_forks=follow_forks,
                json=json,
            )
        else:
            manage.deploy(
                daemon,
                uploads,
                messages.Selection(exe=exe, user=user, unit=unit),
                limit=limit,
                check_opcode=not no_opcode_check,
                present=present,
                json=json,
            )


@click.command(
    "remove",
    epilog="""\b
examples:
  dprobe remove 3                  # by the number of `dprobe programs`
  dprobe remove alloc opens        # by name
  dprobe remove --module libc.so.6 --pid 1234
  dprobe remove --all
""",
)
@click.option("--module", metavar="NAME", help="Programs for this module.")
@click.option("--id", "program_id", type=int, metavar="N", help="Programs with this header `id`.")
@options.pid_option
@click.option("--all", "everything", is_flag=True, help="All programs, of every process.")
@options.json
@click.argument("programs", nargs=-1)
@click.pass_context
def remove_command(
    ctx: click.Context,
    programs: tuple[str, ...],
    module: str | None,
    program_id: int | None,
    pid: int | None,
    everything: bool,
    json: bool,
) -> None:
    """Take programs out, and show their last counters."""
    narrowed = bool(programs) or (module, program_id, pid) != (None, None, None)
    if everything == narrowed:
        raise click.UsageError("say which programs, or --all", ctx)
    from dprobe.lib import manage

    selects = [
        manage.selection(program, module=module, program_id=program_id, pid=pid)
        for program in programs or (None,)
    ]
    with manage.connect(ctx.obj) as daemon:
        manage.remove(daemon, selects, json=json)


@click.command(
    "query",
    epilog="""\b
examples:
  dprobe query
  dprobe query -x --pid 1234 --json
""",
)
@click.option("-x", "extended", is_flag=True, help="All columns, and the processes.")
@options.pid_option
@options.json
@click.argument("program", required=False)
@click.pass_obj
def query_command(
    socket: Path | None, program: str | None, extended: bool, pid: int | None, json: bool
) -> None:
    """Show probes: of one program (number or name), of one process, or all."""
    from dprobe.lib import manage

    with manage.connect(socket) as daemon:
        manage.query(daemon, manage.selection(program, pid=pid), extended=extended, json=json)


#: Terminals on which nothing can be drawn.
_DUMB = ("", "dumb", "unknown")


@click.command(
    "top",
    epilog="""\b
keys:
  h hits/s   t hits   o overhead   p pid   n name     sort by it
  tab        probes or processes
  space      pause, go on
  up down    choose a line; d removes it (y: yes)
  q          quit
\b
examples:
  dprobe top
  dprobe top --once --interval 5
  dprobe top --json | jq .rate
""",
)
@click.option(
    "--interval",
    type=click.FloatRange(0.1, 3600),
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    help="From one look to the next.",
)
@click.option(
    "--once",
    is_flag=True,
    help="One look, as plain text; so it is in a pipe, or on a dumb terminal, anyway.",
)
@options.json
@click.pass_obj
def top_command(socket: Path | None, interval: float, once: bool, json: bool) -> None:
    """Watch probes and processes by hits and overhead.

    Overhead is the share of the time for which threads of the process stood for probes.
    """
    import math
    import os
    import sys

    from dprobe.lib import manage
    from dprobe.view import top

    if math.isnan(interval):
        raise click.UsageError("--interval is a number of seconds", click.get_current_context())
    live = sys.stdin.isatty() and sys.stdout.isatty() and os.environ.get("TERM", "") not in _DUMB
    with manage.connect(socket) as daemon:
        if once or json or not live:
            top.once(daemon, interval, json=json)
        else:
            top.run(daemon, interval)


@click.command(
    "programs",
    epilog="""\b
example:
  dprobe programs --json
""",
)
@options.pid_option
@options.json
@click.pass_obj
def programs_command(socket: Path | None, pid: int | None, json: bool) -> None:
    """List the programs that are in, with their numbers."""
    from dprobe.lib import manage

    with manage.connect(socket) as daemon:
        manage.programs(daemon, manage.selection(None, pid=pid), json=json)


@click.command(
    "vars",
    epilog="""\b
examples:
  dprobe vars 3              # all local variables of program 3
  dprobe vars alloc 0-7      # eight of them, by the program's name
  dprobe vars 3 --pid 1234   # of program 3 in one of several processes
  dprobe vars --global 1234  # the global variables in process 1234
""",
)
@click.option("--global", "globals_", type=options.pid_type, metavar="PID", help="Globals of PID.")
@options.pid_option
@click.option("--reset", is_flag=True, help="Set those shown to 0.")
@options.json
@click.argument("what", nargs=-1, metavar="[PROGRAM] [FIRST[-LAST]]")
@click.pass_context
def vars_command(
    ctx: click.Context,
    what: tuple[str, ...],
    globals_: int | None,
    pid: int | None,
    reset: bool,
    json: bool,
) -> None:
    """Show the local variables of a program, or the global ones of a process."""
    wanted = 1 if globals_ is None else 0
    if not wanted <= len(what) <= wanted + 1 or (globals_ is not None and pid is not None):
        raise click.UsageError("name one program, or a process with --global", ctx)
    from dprobe.lib import manage

    program = what[0] if globals_ is None else None
    indices = what[wanted] if len(what) > wanted else None
    with manage.connect(ctx.obj) as daemon:
        manage.variables(daemon, program, globals_ or pid, indices, reset=reset, json=json)


@click.command(
    "log",
    epilog="""\b
examples:
  dprobe log --format json
  dprobe log -f
""",
)
@click.option("-f", "follow", is_flag=True, help="Go on with new records, until Ctrl-C.")
@options.format_
@click.option("--json", is_flag=True, help="The same as --format json.")
@options.output("standard output")
@click.pass_obj
def log_command(socket: Path | None, follow: bool, form: str, json: bool, path: str | None) -> int:
    """Show the records that the daemon keeps (the last 2 MiB of them)."""
    from dprobe.lib import manage

    with manage.connect(socket) as daemon:
        return manage.log(daemon, follow=follow, form="json" if json else form, path=path)


@click.command(
    "resume",
    epilog="""\b
examples:
  dprobe resume              # all that are held
  dprobe resume 1234 1240    # thread 1240 of process 1234
""",
)
@options.json
@click.argument("pid", type=options.pid_type, required=False)
@click.argument("tid", type=options.pid_type, required=False)
@click.pass_obj
def resume_command(socket: Path | None, pid: int | None, tid: int | None, json: bool) -> None:
    """Let threads go on that `suspend` of a program holds, and processes held for a debugger."""
    from dprobe.lib import manage

    with manage.connect(socket) as daemon:
        manage.resume(daemon, pid, tid, json=json)
