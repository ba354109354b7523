"""``dprobe attach``: put probes into a running process, for a while."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path

import click

from dprobe.commands import options
from dprobe.lib.programs import Choice, load_programs
from dprobe.lib.waker import Waker
from dprobe.private import running_or_private

#: As long as `poll` can wait (milliseconds in 32 bits): 24 days.
_LONGEST_S = 2_000_000


@click.command(
    "attach",
    epilog="""\b
examples:
  dprobe attach $(pidof redis-server) commands.rpn
  dprobe attach --duration 10 --format json 1234 alloc.rpn
""",
)
@click.option(
    "--duration",
    type=options.Seconds(0, _LONGEST_S, min_open=True),
    metavar="S",
    help="Seconds to stay.",
)
@options.selecting
@options.inserting
@options.missing
@options.format_
@options.output("standard output")
@click.argument("pid", type=options.pid_type)
@click.argument("programs", nargs=-1, required=True, type=options.program_file)
@click.pass_obj
def attach_command(
    socket: Path | None,
    pid: int,
    programs: tuple[str, ...],
    choice: Choice,
    no_opcode_check: bool,
    follow_forks: bool,
    missing: str,
    duration: float | None,
    form: str,
    path: str | None,
) -> int:
    """Put the programs' probes into process PID, and show what they report.

    Ends at Ctrl-C, after the time given, with PID (with -f: and all its children that were
    followed), or when every probe is disabled or removed; the processes go on without probes.
    Status 2: none of the probes has a place where it could fire.

    A place that is not there, in the executable or a library of PID, is refused before the process
    is touched. A probe for another module waits until that is mapped.
    """
    with running_or_private(socket, options.complain) as daemon:
        # Imported late, and assembled here: a private daemon starts in the meantime.
        from dprobe.lib.checking import check
        from dprobe.lib.session import Session
        from dprobe.view.output import Output, complain

        loaded = load_programs(programs, choice)
        output = Output(form, path, 1)
        stop = _Stop()
        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        connection = daemon.connect()
        session = Session(
            connection,
            pid,
            follow_forks=follow_forks,
            on_record=output.record,
            say=complain,
        )
        check(connection, pid, loaded, missing)
        uploads = [each.upload for each in loaded]
        count = session.insert(uploads, launch=False, check_opcode=not no_opcode_check)
        deadline = None if duration is None else time.monotonic() + duration
        with Waker({number: stop.handler(number) for number in numbers}) as waker:
            until = "Ctrl-C" if duration is None else f"{duration:g} s are over"
            probes = "1 probe" if count == 1 else f"{count} probes"
            complain(f"{probes} in process {pid}, until {until}")
            while not (session.over or session.spent or stop.signal or output.broken):
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    break
                if waker.wait(connection, left):
                    session.receive()
                    output.flush()
            if session.spent and not session.over:
                complain(
                    "no probe is there that could fire" if session.vain else "no probe is left"
                )
            failed = session.ended is not None and session.ended.how == "failed"
            output.summary(session.detach())
            output.close()
        if session.ended is not None and failed:
            complain(session.ended.reason)
        connection.close()
    if stop.signal in (signal.SIGTERM, signal.SIGHUP):
        return 128 + stop.signal
    if session.vain:
        return 2
    return 1 if failed or output.broken else 0


class _Stop:
    """The first signal ends the session in good order, a second one at once."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None

    def handler(self, number: signal.Signals) -> Callable[[], None]:
        """The function for a signal."""

        def stop() -> None:
            if self.signal is not None:
                raise KeyboardInterrupt
            self.signal = number

        return stop
