"""``dprobe run``: start a command with probes in it from its first instruction."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import click

from dprobe.commands import options
from dprobe.lib import loader, places
from dprobe.lib.errors import UserError
from dprobe.lib.launch import (
    Launched,
    find_command,
    original_environment,
    take_signals,
    take_timers,
)
from dprobe.lib.programs import Choice, Loaded, load_programs
from dprobe.lib.session import Session
from dprobe.private import running_or_private


class _RunCommand(click.Command):
    """Splits at the first ``--``: the options of COMMAND, and a further ``--``, are COMMAND's."""

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
  dprobe run -D MIN=4096 --json -o out.json alloc.rpn -- python3 job.py
  dprobe run -f opens.rpn -- make
  dprobe run -e 'uprobe:libc:malloc { @ = hist(arg0); }' -- ls
  dprobe run slow.bt 10 -- ./server        # a script, with $1
""",
)
@options.script
@options.selecting
@options.inserting
@options.missing
@options.format_
@options.output("standard error, so that COMMAND's output stays its own")
@options.private
@click.argument("programs", nargs=-1, type=options.program_file)
@click.pass_context
def run_command(
    ctx: click.Context,
    expression: str | None,
    unsafe: bool,
    programs: tuple[str, ...],
    choice: Choice,
    no_opcode_check: bool,
    follow_forks: bool,
    missing: str,
    form: str,
    path: str | None,
    private: bool,
) -> int:
    """Start COMMAND with the programs' probes in it, and show what they report.

    Probes are in before COMMAND's first instruction, and in libraries as they are loaded. The exit
    status is COMMAND's own (128+n when signal n killed it). With -f it ends when the last of its
    children has ended, or at Ctrl-C after COMMAND's end.

    A script (.bt, or -e) prints as bpftrace does, to standard error; where it ends by `exit`, the
    command goes on without probes.

    A place that is not there, in the executable or in a library that it loads at its start, is
    refused before COMMAND runs. A probe for another module waits until that is mapped.
    """
    socket, argv = ctx.obj
    script = options.script_of(expression, programs)
    if not programs and script is None:
        raise click.UsageError("name at least one PROGRAM before --", ctx)
    if not argv:
        raise click.UsageError("put -- and the COMMAND after the programs", ctx)
    if script is not None:
        # Imported where there is one: what it needs, programs do without.
        from dprobe.commands.scripts import ScriptOptions, run_script

        how = ScriptOptions(
            choice,
            check_opcode=not no_opcode_check,
            follow_forks=follow_forks,
            missing=missing,
            form=form,
            path=path,
            private=private,
            unsafe=unsafe,
        )
        return run_script(socket, script, argv, how)
    return _run(
        socket,
        programs,
        argv,
        choice,
        check_opcode=not no_opcode_check,
        follow_forks=follow_forks,
        missing=missing,
        output=(form, path),
        private=private,
    )


def _run(
    socket: Path | None,
    programs: tuple[str, ...],
    argv: list[str],
    choice: Choice,
    *,
    check_opcode: bool,
    follow_forks: bool,
    missing: str,
    output: tuple[str, str | None],
    private: bool,
) -> int:
    """Start a command with probes in it, and show what they report; the exit status.

    ``output``: the format, and the file; None: standard error.
    """
    timers = take_timers()
    environment = original_environment()
    with running_or_private(socket, options.complain, alone=private) as daemon:
        command = find_command(argv[0], environment)
        # Imported here, and assembled: a private daemon does the same for itself meanwhile.
        from dprobe.commands.launched import LaunchedCommand
        from dprobe.lib.facilities import untaken
        from dprobe.view.output import Output, complain, note

        loaded = load_programs(programs, choice)
        _look_for_places(loaded, command, environment, refuse=missing == "refuse")
        uploads = [each.upload for each in loaded]
        shown = Output(*output, 2, live=True)
        launched = Launched(command, argv, environment, take_signals(), timers, daemon.pid)
        launched.keep_nothing(stdout=output[1] != "-")
        connection = None
        try:
            connection = daemon.connect()
            if not connection.private:
                note(f"through {connection.through}")
            session = Session(
                connection,
                launched.pid,
                follow_forks=follow_forks,
                on_record=shown.record,
                say=complain,
            )
            session.insert(uploads, launch=True, check_opcode=check_opcode)
            for line in untaken(connection, loaded):
                complain(line)
        except BaseException:
            launched.close_gate()
            if connection is not None:
                connection.close()
            os.waitpid(launched.pid, 0)
            raise
        status = LaunchedCommand(launched, connection, session, shown).run()
        if session.ended is not None or session.timed:
            shown.summary(session.detach())
        shown.close()
    return status


def _look_for_places(
    programs: Sequence[Loaded], command: str, environment: Mapping[bytes, bytes], *, refuse: bool
) -> None:
    """Look for the places in what the command will map, and say which probes may never fire.

    ``refuse``: raise UserError where a place cannot be there.
    """
    from dprobe.lib import doubts

    mapped = loader.files_of_command(command, environment)
    if refuse:
        try:
            places.refuse_missing(programs, mapped.files)
        except UserError as error:
            hint = "(`--missing warn` runs the command without such probes)"
            raise UserError(f"{error}\n{hint}") from None
    for line in doubts.of_command(programs, mapped):
        options.complain(line)
