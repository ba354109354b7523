"""``dprobe run``: start a command with probes in it from its first instruction."""

from __future__ import annotations

import math
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import click

from dprobe.commands import options
from dprobe.lib.connection import Connection
from dprobe.lib.errors import DaemonGoneError, UserError
from dprobe.lib.launch import Launched, find_command, original_environment, take_signals
from dprobe.lib.private import running_or_private
from dprobe.lib.programs import Choice, Loaded, load_programs
from dprobe.lib.session import Session
from dprobe.lib.waker import Waker
from dprobe.view.output import Output, complain

#: Seconds that the daemon has to report the end of a command that has ended.
_LAST_WORDS: Final = 10.0


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
  dprobe run -D MIN=4096 --format json -o out.json alloc.rpn -- python3 job.py
  dprobe run -f opens.rpn -- make
""",
)
@options.selecting
@options.inserting
@options.missing
@options.format_
@options.output("standard error, so that COMMAND's output stays its own")
@click.argument("programs", nargs=-1, type=options.program_file)
@click.pass_context
def run_command(
    ctx: click.Context,
    programs: tuple[str, ...],
    choice: Choice,
    no_opcode_check: bool,
    follow_forks: bool,
    missing: str,
    form: str,
    path: str | None,
) -> int:
    """Start COMMAND with the programs' probes in it, and show what they report.

    Probes are in before COMMAND's first instruction, and in libraries as they are loaded. The exit
    status is COMMAND's own (128+n when signal n killed it). With -f it ends when the last of its
    children has ended, or at Ctrl-C after COMMAND's end.

    A place that is not there, in the executable or in a library that it loads at its start, is
    refused before COMMAND runs. A probe for another module waits until that is mapped.
    """
    socket, argv = ctx.obj
    if not programs:
        raise click.UsageError("name at least one PROGRAM before --", ctx)
    if not argv:
        raise click.UsageError("put -- and the COMMAND after the programs", ctx)
    ignored = take_signals()
    environment = original_environment()
    command = find_command(argv[0], environment)
    with running_or_private(socket) as connect:
        # Assembled while a private daemon starts.
        loaded = load_programs(programs, choice)
        if missing == "refuse":
            _refuse_missing(loaded, command, environment)
        uploads = [each.upload for each in loaded]
        output = Output(form, path, 2)
        connection = connect()
        launched = Launched(command, argv, environment, ignored, connection.pid)
        try:
            session = Session(
                connection,
                launched.pid,
                follow_forks=follow_forks,
                on_record=output.record,
                say=complain,
            )
            session.insert(uploads, launch=True, check_opcode=not no_opcode_check)
        except BaseException:
            launched.close_gate()
            connection.close()
            os.waitpid(launched.pid, 0)
            raise
        status = _Launch(launched, connection, session, output).run()
        if session.ended is not None:
            output.summary(session.detach())
        output.close()
    return status


def _refuse_missing(
    programs: Sequence[Loaded], command: str, environment: Mapping[bytes, bytes]
) -> None:
    """Raise UserError where a place cannot be in what the command will map."""
    # Imported late: a private daemon starts in the meantime.
    from dprobe.lib import loader, places

    try:
        places.refuse_missing(programs, loader.files_of_command(command, environment).files)
    except UserError as error:
        hint = "(`--missing warn` runs the command without such probes)"
        raise UserError(f"{error}\n{hint}") from None


class _Launch:
    """The command from its gate to its end: signals on to it, reports from the daemon."""

    def __init__(
        self, launched: Launched, connection: Connection, session: Session, output: Output
    ) -> None:
        self._launched = launched
        self._connection: Connection | None = connection
        self._session = session
        self._output = output
        self._status: int | None = None
        self._stopped = False

    def run(self) -> int:
        """Open the gate, and wait for the end of the command and of its reports."""
        # Keys at the terminal reach the command too, which decides what they do. Once it has
        # ended, Ctrl-C ends our waiting for its children.
        ignored = (signal.SIGQUIT, signal.SIGTSTP)
        before = {number: signal.signal(number, signal.SIG_IGN) for number in ignored}
        passed_on = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
        handlers = {number: self._passes_on(number) for number in passed_on}
        handlers[signal.SIGINT] = self._interrupted
        with Waker({**handlers, signal.SIGCHLD: lambda: None}) as waker:
            self._launched.open_gate()
            deadline: float | None = None
            while True:
                self._reap()
                if self._status is not None:
                    if self._session.over or self._stopped or self._connection is None:
                        break
                    if deadline is None or self._session.dumping:
                        deadline = time.monotonic() + _LAST_WORDS
                    if self._session.ended is not None:
                        deadline = math.inf  # for its children
                    elif time.monotonic() > deadline:
                        complain("the daemon does not report the end of the command")
                        break
                left = None if deadline in (None, math.inf) else deadline - time.monotonic()
                if waker.wait(self._connection, left):
                    self._receive()
        for number, handler in before.items():
            signal.signal(number, handler)
        assert self._status is not None
        return self._status

    def _passes_on(self, number: signal.Signals) -> Callable[[], None]:
        def pass_on() -> None:
            if self._status is None:
                os.kill(self._launched.pid, number)
            elif number in (signal.SIGTERM, signal.SIGHUP):
                self._stopped = True

        return pass_on

    def _interrupted(self) -> None:
        self._stopped = self._status is not None

    def _receive(self) -> None:
        try:
            self._session.receive()
        except DaemonGoneError as error:
            complain(f"{error}; the command goes on without probes")
            self._connection = None
        self._output.flush()
        ended = self._session.ended
        if ended is not None and ended.how in ("failed", "detached") and self._connection:
            why = ended.reason or "dprobed has detached from the command"
            complain(f"{why}; the command goes on without probes")
            self._connection = None

    def _reap(self) -> None:
        """Note the command's end; stop while it is stopped, for the shell's job control."""
        while self._status is None:
            pid, status = os.waitpid(self._launched.pid, os.WNOHANG | os.WUNTRACED)
            if pid == 0:
                return
            if os.WIFSTOPPED(status):
                os.kill(os.getpid(), signal.SIGSTOP)
                # Whoever let us go on means the command; it may have been told already.
                os.kill(self._launched.pid, signal.SIGCONT)
                continue
            code = os.waitstatus_to_exitcode(status)
            self._status = code if code >= 0 else 128 - code
