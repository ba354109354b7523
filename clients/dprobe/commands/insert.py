"""``dprobe insert``: put programs into processes, to stay."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import click
import msgspec

from dprobe.commands import options
from dprobe.commands import pids as processes
from dprobe.commands.waiting import Waiting
from dprobe.lib.checking import MISSING_WARN, check
from dprobe.lib.connection import Connection
from dprobe.lib.ending import endings
from dprobe.lib.errors import UserError
from dprobe.lib.facilities import untaken
from dprobe.lib.programs import Choice, Loaded, load_programs
from dprobe.lib.reading import beginning, is_regular, silence
from dprobe.lib.slow import said_if_slow
from dprobe.lib.stopped import stopped
from dprobe.view import probes
from dprobe.view.output import complain, note
from dprobed.policy.glob import linked, translate
from dprobed.policy.links import real
from dprobed.printable import readable
from dprobed.proc.helper import SilentError
from dprobed.wire import messages
from dprobed.wire.engines import KERNEL

if TYPE_CHECKING:
    from dprobe.lib.script.source import Script

#: Seconds for which a deployment's first processes are waited for, to say what does not go well.
_FIRST: Final = 1.0
_POLL: Final = 0.05
_WHICH: Final = "say --pid, or which processes, or --all"
#: What is special in a glob (policies.md).
_GLOB: Final = frozenset("*?[]{}\\")


@click.command(
    "insert",
    cls=processes.PidsCommand,
    epilog="""\b
examples:
  dprobe insert alloc.rpn -p 1234            # one process
  dprobe insert alloc.rpn -p $(pidof nginx)  # some processes
  dprobe insert alloc.rpn --exe nginx        # each nginx, those to come too
  dprobe insert alloc.rpn --exe '/opt/**' --user www-data
  dprobe insert alloc.rpn --unit 'redis*.service' --limit 10
  dprobe insert alloc.rpn --all --replace    # instead of those that are in
  dprobe insert alloc.rpn -p 1234 --for 1h --max-hits 1000
  dprobe insert opens.rpn                    # its modtype is kernel: there
  dprobe insert connects.rpn --all --engine kernel
  dprobe insert -e 'uprobe:libc:malloc { @ = hist(arg0); }' --exe nginx
""",
)
@processes.option("These processes, and no others: numbers, or a name that they have.")
@click.option(
    "--exe", metavar="GLOB", help="Processes that execute it: a path, or without / a base name."
)
@click.option("--user", metavar="USER", help="Processes of this user (name or number).")
@click.option("--unit", metavar="GLOB", help="Processes of this systemd unit.")
@click.option("--all", "everything", is_flag=True, help="Every process that maps the module.")
@click.option("--limit", type=options.pid_type, metavar="N", help="At most N processes at a time.")
@click.option("--merge", is_flag=True, help="Also where one of the same name is inserted.")
@click.option("--replace", is_flag=True, help="Remove the programs for the same module first.")
@options.expression
@options.selecting
@options.inserting
@options.missing
@options.json
@click.argument("programs", nargs=-1, type=options.program_file)
@click.pass_context
def insert_command(
    ctx: click.Context,
    pids: tuple[int, ...],
    exe: str | None,
    user: str | None,
    unit: str | None,
    everything: bool,
    limit: int | None,
    merge: bool,
    replace: bool,
    expression: str | None,
    programs: tuple[str, ...],
    choice: Choice,
    no_opcode_check: bool,
    follow_forks: bool,
    missing: str,
    json: bool,
) -> None:
    """Put programs into some processes, or all that match; they stay until `dprobe remove`, or
    for the time given by --for.

    With --pid they go into these processes, all of them, or are refused, at once. With --exe,
    --user and --unit (all that is given must hold) or --all they go into each such process that
    maps the program's module, now or later; --exe takes those as well that do not map it yet. A
    GLOB is like those of policies: *, ?, [a-z], [!a-z], {one,other}; in a path * stops at a slash,
    and ** does not.

    A name or path without wildcards means also what it leads to over links and on PATH (python3 is
    python3.11).

    A program with modtype = kernel or kmod goes into the kernel, as root; it needs the module
    dprobes. So does --all --engine kernel: the kernel itself then has the probes in the one file
    that the program's module is here, for every process that maps it, from its first instruction
    on; none is traced.

    Of a script (.bt, or -e) its maps stay: `dprobe maps` shows them. One that prints, or has blocks
    (BEGIN, interval), needs somebody who shows it: `dprobe attach`.

    A place that is not there, in a file that a process of --pid maps, in the one file that --exe
    names, or in the library of the program's `name` here, is refused before any process is touched.
    """
    selection = messages.Selection(exe=exe and _askable(exe), user=user, unit=unit)
    narrowed = (exe, user, unit) != (None, None, None)
    chosen = bool(pids) + narrowed + everything
    if merge and replace:
        raise click.UsageError("--merge and --replace exclude each other", ctx)
    if chosen > 1:
        raise click.UsageError(_WHICH, ctx)
    if limit is not None and pids:
        raise click.UsageError("--limit does not go with --pid", ctx)
    script = options.script_of(expression, programs)
    if script is None and not programs:
        raise click.UsageError("name at least one of PROGRAMS", ctx)
    loaded = load_programs(programs, choice) if script is None else _of_script(script, choice)
    kernel = _for_kernel(loaded)
    files = choice.engine == KERNEL and not kernel
    if not kernel and not chosen:
        raise click.UsageError(_WHICH, ctx)
    _check_kernel(ctx, kernel=kernel, files=files, chosen=chosen)
    if follow_forks and not pids:
        raise click.UsageError("--follow-forks goes with --pid; else children are followed", ctx)
    uploads = [each.upload for each in loaded]
    present: messages.Present = "merge" if merge else "replace" if replace else "refuse"
    how = _How(uploads, check_opcode=not no_opcode_check, present=present, json=json)
    with options.running(ctx.obj) as daemon:
        if kernel:
            _insert_into_kernel(daemon, how)
        elif files:
            _insert_into_files(daemon, how, loaded, missing)
        elif pids:
            for line in stopped(pids):
                complain(line)
            for pid in pids:
                check(daemon, pid, loaded, missing)
            _insert(daemon, pids, how, follow_forks=follow_forks)
        else:
            if missing == "refuse":
                _check_files(exe, loaded)
            made = _deploy(daemon, selection, limit, how)
            if exe is not None:
                _tell_of_first(daemon, made, exe, limit)
        for line in untaken(daemon, loaded):
            complain(line)


def _check_kernel(ctx: click.Context, *, kernel: bool, files: bool, chosen: int) -> None:
    """Raise UsageError for what does not go with programs that the kernel gets, for itself or
    (``files``) for what processes map."""
    narrower = ctx.params["limit"] is not None or ctx.params["follow_forks"]
    if files and narrower:
        raise click.UsageError("--engine kernel goes with --all alone: it traces no process", ctx)
    if kernel and (chosen or narrower):
        raise click.UsageError("a program for the kernel goes into no process: name none", ctx)


def _askable(exe: str) -> str:
    """A name that can be sent; raises UserError."""
    if (shown := readable(exe)) != exe:
        raise UserError(
            f"--exe {shown}: not UTF-8, and only such text can be asked for: `{shown}`, as it is "
            "shown, means it, and whatever is shown alike"
        )
    return exe


def _of_script(script: Script, choice: Choice) -> list[Loaded]:
    """The programs of a script that nobody shows; raises UserError."""
    # Imported where there is one: what it needs, programs do without.
    from dprobe.lib.script import source
    from dprobe.lib.script.world import FileWorld

    bundle = source.compiled(script, FileWorld(tuple))
    if bundle.blocks or bundle.actions:
        raise UserError(
            f"{script.file}: it prints, or has blocks, which somebody has to show: run it by "
            "`dprobe attach`; what is inserted only keeps maps"
        )
    return source.loaded(bundle, script, choice)


def _for_kernel(loaded: Sequence[Loaded]) -> bool:
    """Whether these programs go into the kernel; raises UserError where only some do."""
    kernel = [each for each in loaded if each.program.header.kernel]
    if kernel and len(kernel) < len(loaded):
        raise UserError(
            f"{kernel[0].upload.label} is for the kernel, and others are not: insert them "
            "separately"
        )
    return bool(kernel)


class _How(msgspec.Struct, frozen=True):
    """What is inserted, wherever it goes, and how what went where is shown."""

    programs: list[messages.Upload]
    check_opcode: bool
    present: messages.Present
    json: bool


def _check_files(exe: str | None, loaded: Sequence[Loaded]) -> None:
    """Raise UserError for places that are not where they are named: in the executable, and in the
    library or command of a program's `name` as this machine has it.

    A process may map another file of that name (a container): then `--missing warn` is the way.
    """
    names = ", ".join(dict.fromkeys(each.program.header.name for each in loaded))
    with said_if_slow(f"looking for the programs' places in {exe or names} (its symbols)…", note):
        _refuse_missing(exe, loaded)


def _refuse_missing(exe: str | None, loaded: Sequence[Loaded]) -> None:
    # Imported where they are needed: they read ELF files.
    from dprobe.lib import loader, mapped, places
    from dprobed.binary.errors import LocationError

    found = [] if exe is None or set(exe) & _GLOB else [_real(exe)]
    for each in loaded:
        with contextlib.suppress(UserError):
            found.append(loader.find_module(each.program.header.name))
    files = []
    for path in dict.fromkeys(found):
        with contextlib.suppress(LocationError):
            files.append(mapped.to_be_mapped(mapped.open_file(path)))
    try:
        places.refuse_missing(loaded, files)
    except UserError as error:
        raise UserError(f"{error}\n{MISSING_WARN}") from None


def _real(exe: str) -> str:
    """What a name leads to; raises UserError where nobody answers."""
    try:
        return real(exe)
    except SilentError:
        raise UserError(f"--exe {silence(exe)}") from None


def _executing(exe: str) -> int:
    """How many processes execute what is named."""
    patterns = [translate(exe, path=True)]
    with contextlib.suppress(SilentError):
        patterns += linked(exe, real).values()
    return sum(
        any(pattern.fullmatch(readable(path)) for pattern in patterns)
        for path in processes.executed()
    )


def _tell_of_first(
    daemon: Connection, made: Sequence[messages.DeploymentInfo], exe: str, limit: int | None
) -> None:
    """Say what does not go well with deployments in the processes that are there."""
    wanted = _executing(exe)
    if not wanted:
        _warn_of_executable(exe)
        return
    wanted = min(wanted, limit or wanted)
    deadline = time.monotonic() + _FIRST
    for each in made:
        while True:
            answer = daemon.request(
                lambda number, each=each: messages.Query(  # type: ignore[misc]
                    id=number, select=messages.Select(number=each.number)
                ),
                messages.Status,
            )
            known = sum(one.entered + sum(one.refused.values()) for one in answer.deployments)
            if known >= wanted or time.monotonic() > deadline:
                break
            time.sleep(_POLL)
        probes.explain_deployed(answer)


def _warn_of_executable(exe: str) -> None:
    """Say where a name without wildcards means no executable that a process could show."""
    if set(exe) & _GLOB:
        return
    path = _real(exe)
    if not path:
        complain(f"--exe {exe}: there is no such command or file here (yet)")
    elif not is_regular(path):
        complain(f"--exe {exe}: {path} is no file; write {path}/** for what is in it")
    else:
        with contextlib.suppress(OSError, IndexError):
            head = beginning(path)
            if head.startswith(b"#!"):
                interpreter = os.fsdecode(head[2:].split(b"\n")[0].split()[0])
                complain(
                    f"--exe {exe}: {path} is a script: its processes execute {interpreter}, and "
                    "are not selected by this"
                )


def _insert(daemon: Connection, pids: Sequence[int], how: _How, *, follow_forks: bool) -> None:
    """Put programs into processes: into all of them, or none."""
    for pid in pids:
        try:
            daemon.request(
                lambda number, pid=pid: messages.Attach(  # type: ignore[misc]
                    id=number, pid=pid, follow_forks=follow_forks
                ),
                messages.Attached,
            )
        except UserError as error:
            several = "; nothing was put into the others" if len(pids) > 1 else ""
            raise UserError(f"{error}{several}") from None
    with Waiting("what is put in stays: waiting to see what that is") as waiting:
        answer = daemon.request(
            lambda number: messages.Insert(
                id=number,
                pid=pids[0],
                also=list(pids[1:]),
                programs=how.programs,
                keep=True,
                check_opcode=how.check_opcode,
                present=how.present,
            ),
            messages.Inserted,
        )
        _show(answer.probes, how)
        if waiting.is_over:
            complain("interrupted when it was in; `dprobe remove` takes it out")


def _file_of(loaded: Loaded) -> str:
    """The file that a program's module is on this machine; raises UserError."""
    from dprobe.lib import loader, reading

    found = reading.real(loader.find_module(loaded.program.header.name))
    if not is_regular(found):
        raise UserError(f"{loaded.upload.label}: {found}: there is no such file")
    return found


def _insert_into_files(
    daemon: Connection, how: _How, loaded: Sequence[Loaded], missing: str
) -> None:
    """Have the kernel place programs in the files that they are for: all of them, or none."""
    if missing == "refuse":
        _check_files(None, loaded)
    _insert_into_kernel(daemon, how, [_file_of(each) for each in loaded])


def _insert_into_kernel(daemon: Connection, how: _How, files: Sequence[str] = ()) -> None:
    """Put programs into the kernel: all of them, or none. ``files``: where it is to place each that
    is for processes."""
    answer = daemon.request(
        lambda number: messages.InsertKernel(
            id=number,
            programs=how.programs,
            keep=True,
            check_opcode=how.check_opcode,
            present=how.present,
            files=list(files),
        ),
        messages.Inserted,
    )
    _show(answer.probes, how)


def _show(inserted: Sequence[messages.ProbeInfo], how: _How) -> None:
    """What is in now, and until when."""
    probes.show_probes(inserted, json=how.json)
    probes.explain_probes(inserted)
    for line in endings(inserted):
        note(line)


def _deploy(
    daemon: Connection, selection: messages.Selection, limit: int | None, how: _How
) -> list[messages.DeploymentInfo]:
    """Put programs into all processes that match."""
    answer = daemon.request(
        lambda number: messages.Deploy(
            id=number,
            programs=how.programs,
            selection=selection,
            limit=limit,
            keep=True,
            check_opcode=how.check_opcode,
            present=how.present,
        ),
        messages.Deployed,
    )
    probes.show_deployments(answer.deployments, json=how.json)
    for line in endings(answer.deployments):
        note(line)
    if not how.json:
        note("they are being inserted; `dprobe query` shows where they are")
    return answer.deployments
