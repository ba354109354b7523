"""Scripts in ``run`` and ``attach``: the language of bpftrace, in place of programs.

Imported only where there is a script: what it needs, other commands do without.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final, Protocol

import msgspec

from dprobe.commands import options
from dprobe.commands.launched import LaunchedCommand
from dprobe.lib import loader, mapped
from dprobe.lib.checking import check
from dprobe.lib.connection import Connection
from dprobe.lib.errors import UserError
from dprobe.lib.launch import (
    Launched,
    find_command,
    original_environment,
    take_signals,
    take_timers,
)
from dprobe.lib.mapped import File
from dprobe.lib.programs import Choice, Loaded
from dprobe.lib.reading import silence
from dprobe.lib.script.deployed import Deployed
from dprobe.lib.script.kernel import InKernel
from dprobe.lib.script.names import ProcessNames
from dprobe.lib.script.processes import SessionProcesses
from dprobe.lib.script.runner import Runner
from dprobe.lib.script.source import Script, compiled, loaded, watching
from dprobe.lib.script.world import FileWorld
from dprobe.lib.session import Session
from dprobe.lib.stopped import stopped
from dprobe.lib.summary import Summary
from dprobe.lib.waker import LONGEST, StopRequest, Waker
from dprobe.private import PrivateDaemon, running_or_private
from dprobe.view.output import complain, note
from dprobe.view.script.output import ScriptOutput
from dprobed.binary.errors import LocationError
from dprobed.policy.links import real
from dprobed.proc import procfs
from dprobed.proc.helper import SilentError
from dprobed.program.bt.bundle import Bundle
from dprobed.wire import messages

#: What is special in a glob (policies.md).
_GLOB: Final = frozenset("*?[]{}\\")
#: Places in the kernel, as they are written.
_KERNEL: Final = re.compile(r"\b(k|kr|t|rt|kprobe|kretprobe|tracepoint|rawtracepoint):")
#: No process in particular.
_ALL: Final = messages.Selection()


class ScriptOptions(msgspec.Struct, frozen=True):
    """How a script is run, whatever it is. ``missing``: what to do about a place that is not there
    (``refuse`` or ``warn``); ``bare``, ``mode``, ``warnings``: as ``ScriptOutput`` has them;
    ``quiet``: nothing is said of what is in where; ``announce``: how many probes are in is printed;
    ``notify``: a line for standard error then; ``dry``: end when the probes are in. ``what`` and
    ``until``: for the line that says what is in. ``dated``, ``most_logs``: as ``ScriptOutput``."""

    choice: Choice
    check_opcode: bool = True
    follow_forks: bool = False
    missing: str = "refuse"
    form: str = "text"
    path: str | None = None
    private: bool = False
    unsafe: bool = False
    bare: bool = True
    mode: str = "line"
    warnings: bool = True
    quiet: bool = False
    announce: bool = True
    notify: str = ""
    dry: bool = False
    what: str = ""
    until: str = "Ctrl-C"
    dated: bool = False
    most_logs: int = 0


class ScriptCores(Protocol):
    """What is done with the cores that hits have written, where they are for more than the user.

    ``enough``: no more are wanted, and the script ends.
    """

    @property
    def enough(self) -> bool:
        """Whether the script ends."""

    def begin(self) -> None:
        """The programs are about to go in."""

    def told(self, notice: messages.Notice) -> None:
        """A core was written, or was not."""

    def texts(self) -> list[str]:
        """What is to be printed by now."""


class Show:
    """A script at work, as who waits for things drives it (``launched.Shower``)."""

    def __init__(
        self, bundle: Bundle, output: ScriptOutput, cores: ScriptCores | None = None
    ) -> None:
        self.output: Final = output
        self.cores: Final = cores
        self.runner: Final = Runner(bundle, output, ProcessNames(), complain, _comm)
        #: It ends when the probes are in.
        self.dry = False

    @property
    def next_time(self) -> float | None:
        """When something is due without anything coming, by the monotonic clock."""
        return self.runner.next_time

    @property
    def ended(self) -> bool:
        """Whether the script ended itself, or nobody reads what it prints."""
        done = self.output.broken or self.output.has_all_logs
        done = done or (self.cores is not None and self.cores.enough)
        return self.runner.status is not None or done or self.dry

    def flush(self) -> None:
        """Do what has come and what is due, and write what it printed."""
        self.runner.drain()
        for text in self.cores.texts() if self.cores is not None else ():
            self.output.plain(text)
        self.output.flush()

    def attached(self, how: ScriptOptions) -> None:
        """The programs are in: say so, and begin."""
        self.output.attached(self.runner.probes, said=how.announce)
        self.output.flush()
        if how.notify:
            print(how.notify, file=sys.stderr, flush=True)
        if how.dry:
            self.dry = True
            return
        self.runner.start()
        self.flush()

    def summary(self, summary: Summary) -> None:
        """The programs are out: end."""
        if self.dry:
            return
        for probe in summary.probes:
            if probe.reason and probe.state not in ("active", "removed", "disabled"):
                complain(f"{probe.program} {probe.place}: {probe.state}: {probe.reason}")
        self.runner.end(sum(probe.dropped for probe in summary.probes))
        self.flush()

    def close(self) -> None:
        """Write the rest."""
        self.output.close()


def _comm(pid: int) -> str:
    return procfs.comm(pid).decode(errors="replace")


def output_for(bundle: Bundle, how: ScriptOptions, descriptor: int) -> ScriptOutput:
    """Where a script's output goes."""
    cat = bundle.config.get("max_cat_bytes")
    return ScriptOutput(
        how.form,
        how.path,
        descriptor,
        bare=how.bare,
        mode=how.mode,
        warnings=how.warnings,
        dated=how.dated,
        most_logs=how.most_logs,
        **({"cat_bytes": cat} if isinstance(cat, int) else {}),
    )


def warn(bundle: Bundle, how: ScriptOptions) -> None:
    """Say what the compiler warns of."""
    for line in bundle.warnings if how.warnings else ():
        complain(line)


# -- run --------------------------------------------------------------------------------------


def run_script(
    socket: Path | None,
    script: Script,
    argv: list[str],
    how: ScriptOptions,
    *,
    of_bpftrace: bool = False,
) -> int:
    """Start a command with a script's probes in it; the exit status is the command's own.

    ``of_bpftrace``: as bpftrace has it: output goes to standard output, which the command has too,
    the command ends with the script, and the exit status is the script's.
    """
    timers = take_timers()
    environment = original_environment()
    descriptor = 1 if of_bpftrace else 2
    with running_or_private(socket, options.complain, alone=how.private) as daemon:
        command = find_command(argv[0], environment)
        files = list(loader.files_of_command(command, environment).files)
        launched = Launched(command, argv, environment, take_signals(), timers, daemon.pid)
        launched.keep_nothing(stdout=descriptor != 1 and how.path != "-")
        connection: Connection | None = None
        try:
            bundle = compiled(
                script, FileWorld(lambda: files), child=launched.pid, unsafe=how.unsafe
            )
            programs = loaded(bundle, script, how.choice, _executable(files, command))
            _refuse_kernel(script, programs)
            if how.missing == "refuse":
                _refuse_missing(programs, files)
            warn(bundle, how)
            show = Show(bundle, output_for(bundle, how, descriptor))
            if not how.dry:
                show.runner.begin()
            connection = daemon.connect()
            session = Session(
                connection,
                *([launched.pid] if programs else ()),
                follow_forks=how.follow_forks,
                on_record=show.runner.record,
                say=complain,
            )
            if programs:
                session.insert(
                    [each.upload for each in programs], launch=True, check_opcode=how.check_opcode
                )
                watches = partial(watching, bundle, script, how.choice, _executable(files, command))
                show.runner.work_in(SessionProcesses(connection, session, complain, watches))
            show.attached(how)
        except BaseException:
            launched.close_gate()
            if connection is not None:
                connection.close()
            os.waitpid(launched.pid, 0)
            raise
        work = LaunchedCommand(
            launched, connection, session, show, ends_with_session=of_bpftrace, handlers=_own(show)
        )
        status = work.run()
        if not session.detached:
            show.summary(session.detach())
        show.close()
    if show.output.broken:
        return show.output.status
    return (show.runner.status or 0) if of_bpftrace else status


def _refuse_kernel(script: Script, programs: list[Loaded]) -> None:
    """Raise UserError for probes that no process has."""
    if _in_kernel(programs):
        raise UserError(
            f"{script.file}: probes in the kernel are not those of a command: `dprobe attach` puts "
            "them in"
        )


def _own(show: Show) -> dict[signal.Signals, Callable[[], None]]:
    """What signals do that the script has blocks for."""
    return {
        signal.Signals[name]: lambda name=name: show.runner.signalled(name)  # type: ignore[misc]
        for name in show.runner.signals()
    }


def _executable(files: list[File], command: str) -> str:
    """The file that will be executed: a script's interpreter, where it is one."""
    return files[0].module.path if files else os.path.realpath(command)


def _refuse_missing(programs: list[Loaded], files: list[File]) -> None:
    """Raise UserError for places that are in no file that the targets map, nor in the module that
    is named, if that is here."""
    # Imported where it is needed: it reads ELF files.
    from dprobe.lib import places

    known = list(files)
    for each in programs:
        name = each.program.header.name
        if not any(file.named(name) for file in known):
            with contextlib.suppress(LocationError, OSError):
                known.append(mapped.to_be_mapped(mapped.open_file(name)))
    places.refuse_missing(programs, known)


# -- attach -----------------------------------------------------------------------------------


def attach_script(
    socket: Path | None,
    script: Script,
    pids: tuple[int, ...],
    how: ScriptOptions,
    selection: messages.Selection | None = None,
    cores: ScriptCores | None = None,
) -> int:
    """Put a script's probes into running processes; the exit status is what it says.

    Without ``pids`` into every one that is selected, those to come too. ``cores``: what is done
    with those that hits in ``pids`` have written.
    """
    stop = StopRequest()
    with running_or_private(socket, options.complain, alone=how.private) as daemon:
        files = _files_of(pids, selection)
        bundle = compiled(script, FileWorld(lambda: files), unsafe=how.unsafe)
        programs = loaded(bundle, script, how.choice, _executable(files, ""))
        in_kernel = _in_kernel(programs)
        if in_kernel and (pids or (selection or _ALL) != _ALL):
            raise UserError(
                f"{script.file}: probes in the kernel are in no process: name none, and write a "
                f"condition, as /pid == {pids[0] if pids else 1234}/"
            )
        if bundle.watches and not pids:
            raise UserError("watchpoint:FUNCTION+argN is for processes that are named: say -p")
        if in_kernel and isinstance(daemon, PrivateDaemon):
            raise UserError(
                f"{script.file}: probes in the kernel need root's dprobed, which does not run: "
                "start it: dprobed &"
            )
        warn(bundle, how)
        show = Show(bundle, output_for(bundle, how, 1), cores)
        if not how.dry:
            show.runner.begin()
        connection = daemon.connect()
        if not programs:
            _alone(connection, pids, how, show, stop)
        elif in_kernel:
            _everywhere_in_kernel(connection, programs, how, show, stop)
        elif pids:
            watches = partial(watching, bundle, script, how.choice, _executable(files, ""))
            _attached(connection, programs, pids, how, show, stop, watches)
        else:
            _everywhere(connection, programs, selection or messages.Selection(), how, show, stop)
        show.close()
        connection.close()
    if show.output.broken:
        return show.output.status
    if stop.signal in (signal.SIGTERM, signal.SIGHUP) and not how.quiet:
        return 128 + stop.signal
    return show.runner.status or 0


def _files_of(pids: tuple[int, ...], selection: messages.Selection | None) -> list[File]:
    """What the targets map, as far as that is known: of an executable that is to come, too."""
    if pids:
        return [file for pid in pids for file in mapped.files_of_process(pid)]
    exe = selection.exe if selection is not None else None
    if exe is None or set(exe) & _GLOB:
        return []
    try:
        path = real(exe)
    except SilentError:
        raise UserError(f"--exe {silence(exe)}") from None
    if not path:
        return []
    return list(loader.files_of_command(path, dict(os.environb)).files)


def _alone(
    connection: Connection, pids: tuple[int, ...], how: ScriptOptions, show: Show, stop: StopRequest
) -> None:
    """A script that has only blocks: it ends with the processes, too."""
    show.attached(how)
    watch(connection, show, stop, lambda: not all(map(_goes_on, pids)), poll=bool(pids))
    if not show.dry:
        show.runner.end()


def _goes_on(pid: int) -> bool:
    status = procfs.status(pid)
    return status is not None and status.state not in "ZX"


def _attached(
    connection: Connection,
    programs: list[Loaded],
    pids: tuple[int, ...],
    how: ScriptOptions,
    show: Show,
    stop: StopRequest,
    watches: Callable[[int, int], messages.Upload],
) -> None:
    """In these processes. ``watches``: as ``SessionProcesses`` has it."""
    session = Session(
        connection,
        *pids,
        follow_forks=how.follow_forks,
        on_record=show.runner.record,
        say=complain,
    )
    if show.cores is not None:
        show.cores.begin()
        session.on_core = show.cores.told
    for line in stopped(pids):
        complain(line)
    for pid in pids:
        check(connection, pid, programs, how.missing)
    session.insert([each.upload for each in programs], launch=False, check_opcode=how.check_opcode)
    show.runner.work_in(SessionProcesses(connection, session, complain, watches))
    if not how.quiet:
        where = f"process{'es' * (len(pids) > 1)} {', '.join(map(str, pids))}"
        what = f"{how.what} " if how.what else ""
        note(f"{what}in {where}, until {how.until}, through {connection.through}")
    show.attached(how)
    watch(connection, show, stop, lambda: session.over or session.spent)
    show.summary(session.detach())


def is_of_kernel(script: Script) -> bool:
    """Whether a script's probes are in the kernel: it is for no process. Where something is wrong
    with it, what it seems to be."""
    if script.bundle is None and not _KERNEL.search(script.text):
        return False
    try:
        bundle = compiled(script, FileWorld(tuple), unsafe=True)
        return bool(bundle.programs) and _in_kernel(loaded(bundle, script, Choice()))
    except UserError:
        return True


def _in_kernel(programs: list[Loaded]) -> bool:
    """Whether they go into the kernel; raises UserError where only some do."""
    kernel = [each for each in programs if each.program.header.kernel]
    if kernel and len(kernel) < len(programs):
        raise UserError(
            f"{kernel[0].upload.label}: some probes are in the kernel and some in processes; "
            "write a script for each"
        )
    return bool(kernel)


def _everywhere_in_kernel(
    connection: Connection,
    programs: list[Loaded],
    how: ScriptOptions,
    show: Show,
    stop: StopRequest,
) -> None:
    """In the kernel."""
    inside = InKernel(connection, show.runner.record, complain)
    inside.insert([each.upload for each in programs], check_opcode=how.check_opcode)
    show.runner.work_in(inside)
    if not how.quiet:
        note(f"in the kernel, until Ctrl-C, through {connection.through}")
    _until_the_end(inside, connection, how, show, stop)


def _everywhere(
    connection: Connection,
    programs: list[Loaded],
    selection: messages.Selection,
    how: ScriptOptions,
    show: Show,
    stop: StopRequest,
) -> None:
    """In every process that is selected and maps the modules, now or later."""
    if how.missing == "refuse":
        _refuse_missing(programs, [])
    deployed = Deployed(connection, show.runner.record, complain)
    deployed.deploy([each.upload for each in programs], selection, check_opcode=how.check_opcode)
    show.runner.work_in(deployed)
    if not how.quiet:
        modules = ", ".join(dict.fromkeys(each.program.header.name for each in programs))
        note(f"in what maps {modules}, until Ctrl-C, through {connection.through}")
    _until_the_end(deployed, connection, how, show, stop)


def _until_the_end(
    deployed: Deployed, connection: Connection, how: ScriptOptions, show: Show, stop: StopRequest
) -> None:
    """Show what comes, until the script or the user ends it; then take the programs out."""
    show.attached(how)
    watch(connection, show, stop, lambda: False)
    lost, gaps = deployed.take_out()
    for line in gaps if how.warnings else ():
        complain(line)
    if not show.dry:
        show.runner.end(lost)


def watch(
    connection: Connection,
    show: Show,
    stop: StopRequest,
    over: Callable[[], bool],
    *,
    poll: bool = False,
) -> None:
    """Show what comes until the script ends, a signal asks for its end, or all is over.

    ``poll``: nothing comes when it is over.
    """
    handlers = stop.handlers() | _own(show)
    with Waker(handlers) as waker:
        while not (show.ended or stop.signal or over()):
            left: float = LONGEST
            if poll:
                left = 1.0
            if show.next_time is not None:
                left = max(0.0, min(left, show.next_time - time.monotonic()))
            if waker.wait(connection, left):
                connection.receive()
            show.flush()


def show_compiled(script: Script) -> int:
    """Show the programs that a script becomes, as source of the original language."""
    from dprobed.program import bytecode
    from dprobed.program.disassembler import disassemble

    bundle = compiled(script, FileWorld(tuple), unsafe=True)
    for program in bundle.programs:
        print(f"// {', '.join(program.probes)}")
        print(disassemble(bytecode.decode(program.code, script.file)))
    if bundle.code:
        print(f"// {', '.join(block.name or block.kind for block in bundle.blocks)}")
        print(disassemble(bytecode.decode(bundle.code, script.file)))
    return 0
