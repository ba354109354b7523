"""``dprobe attach``: put probes into a running process, for a while."""

from __future__ import annotations

import math
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dprobe.commands import options
from dprobe.commands import pids as processes
from dprobe.lib.connection import Connection
from dprobe.lib.programs import Choice, load_programs
from dprobe.lib.waker import LONGEST, StopRequest, Waker
from dprobe.private import running_or_private
from dprobed.durations import text

if TYPE_CHECKING:
    from dprobe.lib.script.source import Script
    from dprobe.lib.session import Session
    from dprobe.view.output import Output

#: Seconds for which the daemon is waited for when the time is over.
_LATE = 5.0
#: How often is looked whether a process still stands, in seconds.
_LOOK = 0.5


@click.command(
    "attach",
    cls=processes.PidsCommand,
    epilog="""\b
examples:
  dprobe attach -p redis-server commands.rpn
  dprobe attach -p $(pidof nginx) --for 10s --json alloc.rpn
  dprobe attach -p 1234 - < alloc.rpn
  dprobe attach -e 'malloc { @ = hist(arg0); }' -p redis-server
  dprobe attach slow.bt 10 --exe nginx   # a script with $1; later ones, too
  dprobe attach -e 'kprobe:vfs_read { @[comm, kstack(3)] = count(); }'
""",
)
@options.script
@options.selecting
@options.inserting
@options.missing
@options.format_
@options.output("standard output")
@options.private
@processes.option("The processes: numbers, or a name that they have.")
@click.option(
    "--exe",
    metavar="GLOB",
    help="With a script: what executes it (a path, or without / a base name), later ones too.",
)
@click.argument("programs", nargs=-1, type=options.program_file)
@click.pass_obj
def attach_command(
    socket: Path | None,
    expression: str | None,
    unsafe: bool,
    pids: tuple[int, ...],
    exe: str | None,
    programs: tuple[str, ...],
    choice: Choice,
    no_opcode_check: bool,
    follow_forks: bool,
    missing: str,
    form: str,
    path: str | None,
    private: bool,
) -> int:
    """Put the programs' probes into processes, and show what they report.

    Ends at Ctrl-C, after the time given by --for, with the processes (with -f: and all their
    children that were followed), or when every probe is disabled or removed; the processes go on
    without probes. Status 2: none of the probes has a place where it could fire. The summary goes
    to standard error, with --json to where the records go. A whole number among PROGRAMs is a
    process, too.

    A script (.bt, or -e) prints to standard output as bpftrace does, and ends by its `exit` as
    well; its maps are printed at the end. One whose probes are in the kernel names no process; it
    needs root's dprobed and the module dprobes.

    A place that is not there, in the executable or a library of a process, is refused before any is
    touched. A probe for another module waits until that is mapped.
    """
    script = options.script_of(expression, programs)
    if script is None:
        pids, programs = processes.split(programs, pids)
    if exe is not None and (script is None or pids):
        raise click.UsageError(
            "--exe is for scripts, and goes without -p; programs: `dprobe insert --exe`",
            click.get_current_context(),
        )
    if not pids and exe is None and (script is None or not _is_of_kernel(script)):
        raise click.UsageError("say which processes, by -p", click.get_current_context())
    if script is not None:
        # Imported where there is one: what it needs, programs do without.
        from dprobe.commands.scripts import ScriptOptions, attach_script
        from dprobed.wire import messages

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
        selection = messages.Selection(exe=exe) if exe is not None else None
        return attach_script(socket, script, pids, how, selection)
    if not programs:
        raise click.UsageError("name at least one PROGRAM", click.get_current_context())
    return _attach(
        socket,
        programs,
        pids,
        choice,
        check_opcode=not no_opcode_check,
        follow_forks=follow_forks,
        missing=missing,
        output=(form, path),
        private=private,
    )


def _is_of_kernel(script: Script) -> bool:
    from dprobe.commands.scripts import is_of_kernel

    return is_of_kernel(script)


def _attach(
    socket: Path | None,
    programs: tuple[str, ...],
    pids: tuple[int, ...],
    choice: Choice,
    *,
    check_opcode: bool,
    follow_forks: bool,
    missing: str,
    output: tuple[str, str | None],
    private: bool,
) -> int:
    """Put programs in, show what they report, and take them out; the exit status.

    ``output``: the format, and the file; None: standard output.
    """
    stop = StopRequest()
    with running_or_private(socket, options.complain, alone=private) as daemon:
        # Imported late, and assembled here: a private daemon starts in the meantime.
        from dprobe.lib.checking import check
        from dprobe.lib.facilities import untaken
        from dprobe.lib.session import Session, standing
        from dprobe.lib.stopped import stopped
        from dprobe.view.output import Output, complain

        loaded = load_programs(programs, choice)
        shown = Output(*output, 1, summary=2, live=True)
        connection = daemon.connect()
        session = Session(
            connection, *pids, follow_forks=follow_forks, on_record=shown.record, say=complain
        )
        for line in stopped(pids):
            complain(line)
        for pid in pids:
            check(connection, pid, loaded, missing)
        uploads = [each.upload for each in loaded]
        count = session.insert(uploads, launch=False, check_opcode=check_opcode)
        for line in untaken(connection, loaded):
            complain(line)
        with Waker(stop.handlers()) as waker:
            _announce(count, pids, choice.seconds, connection)
            _show(session, connection, shown, waker, stop, choice.seconds)
            if session.spent and not session.over and not session.timed:
                complain(f"no probe is {'there that could fire' if session.vain else 'left'}")
            failed = session.ended is not None and session.ended.how == "failed"
            stood = standing(connection, session)
            shown.summary(session.detach())
            for pid in stood:
                complain(f"process {pid} stood at a probe: it goes on")
            shown.close()
        if session.ended is not None and failed:
            complain(session.ended.reason)
        connection.close()
    if stop.signal in (signal.SIGTERM, signal.SIGHUP):
        return 128 + stop.signal
    return 2 if session.vain else shown.status or int(failed or session.cut_short)


def _show(
    session: Session,
    connection: Connection,
    shown: Output,
    waker: Waker,
    stop: StopRequest,
    seconds: float | None,
) -> None:
    """Show what is reported until the end of the session, or what ends it first."""
    from dprobe.lib.session import standing

    # The daemon takes them out in time; where it does not, it is asked, and may be silent.
    deadline = math.inf if seconds is None else seconds + _LATE
    deadline += time.monotonic()
    while not (session.over or stop.signal or shown.broken):
        left = deadline - time.monotonic()
        # What stands at a probe would not do so any longer.
        waits = session.spent and not session.timed and bool(standing(connection, session))
        if left <= 0 or (session.spent and not waits):
            break
        left = min(left, session.doubts.next_look - time.monotonic())
        if waker.wait(connection, max(0.0, min(left, _LOOK if waits else LONGEST))):
            session.receive()
            shown.flush()
        session.look()


def _announce(
    count: int, pids: tuple[int, ...], duration: float | None, connection: Connection
) -> None:
    """Say what is in where, and until when."""
    from dprobe.view.output import note

    until = "Ctrl-C" if duration is None else f"{text(duration)} are over"
    probes = "1 probe" if count == 1 else f"{count} probes"
    where = f"process{'es' * (len(pids) > 1)} {', '.join(map(str, pids))}"
    note(f"{probes} in {where}, until {until}, through {connection.through}")
