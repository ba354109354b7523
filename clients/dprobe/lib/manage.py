"""What is asked of a running daemon: insert, remove, query, programs, vars, log, resume."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from dprobe.lib.connection import Connection
from dprobe.lib.errors import NoDaemonError, UserError
from dprobe.view.output import Output, complain
from dprobe.view.tables import show
from dprobed.wire import messages

_PROBE_COLUMNS = (
    ("pid", "pid"),
    ("program", "program"),
    ("no", "number"),
    ("place", "place"),
    ("state", "state"),
    ("hits", "hits"),
    ("missed", "missed"),
    ("dropped", "dropped"),
)
_PROBE_COLUMNS_EXTENDED = (
    ("pid", "pid"),
    ("program", "program"),
    ("no", "number"),
    ("major", "major"),
    ("minor", "minor"),
    ("group", "group"),
    ("module", "module"),
    ("place", "place"),
    ("state", "state"),
    ("hits", "hits"),
    ("ran", "ran"),
    ("missed", "missed"),
    ("dropped", "dropped"),
    ("faulted", "faulted"),
    ("passed over", "passed"),
    ("handler drops", "handler_drops"),
    ("addresses", "addresses"),
    ("reason", "reason"),
)
_TARGET_COLUMNS = (
    ("pid", "pid"),
    ("command", "comm"),
    ("time in probes, ns", "overhead_ns"),
    ("suspended", "suspended"),
    ("ended", "ended"),
)
_PROGRAM_COLUMNS = (
    ("no", "number"),
    ("program", "program"),
    ("id", "program_id"),
    ("pid", "pid"),
    ("module", "module"),
    ("major", "major"),
    ("probes", "probes"),
    ("vars", "vars"),
    ("gvars", "gvars"),
    ("kept", "kept"),
)
_DEPLOYMENT_COLUMNS = (
    ("no", "number"),
    ("program", "program"),
    ("module", "module"),
    ("processes", "selection"),
    ("state", "state"),
    ("in", "processes"),
    ("ever", "entered"),
    ("missed", "missed"),
    ("unseen", "unseen"),
    ("refused", "refused"),
    ("hits", "hits"),
    ("dropped", "dropped"),
)
_EARLIER_COLUMNS = (
    ("processes that ended earlier", "processes"),
    ("program", "program"),
    ("no", "number"),
    ("hits", "hits"),
    ("missed", "missed"),
    ("dropped", "dropped"),
)
_NOTHING = "nothing is inserted"


def selection(
    program: str | None,
    *,
    module: str | None = None,
    program_id: int | None = None,
    pid: int | None = None,
) -> messages.Select:
    """The programs that are meant; ``program`` is a number or a name of ``dprobe programs``."""
    number = int(program) if program is not None and program.isdecimal() else None
    return messages.Select(
        number=number,
        label=program if number is None else None,
        module=module,
        program_id=program_id,
        pid=pid,
    )


def insert(
    daemon: Connection,
    uploads: list[messages.Upload],
    pid: int,
    *,
    check_opcode: bool,
    present: messages.Present,
    follow_forks: bool,
    json: bool,
) -> None:
    """Put programs into ``pid``, to stay until they are removed."""
    daemon.request(
        lambda number: messages.Attach(id=number, pid=pid, follow_forks=follow_forks),
        messages.Attached,
    )
    answer = daemon.request(
        lambda number: messages.Insert(
            id=number,
            pid=pid,
            programs=uploads,
            keep=True,
            check_opcode=check_opcode,
            present=present,
        ),
        messages.Inserted,
    )
    show(answer.probes, _PROBE_COLUMNS, json=json, empty=_NOTHING)
    _explain(answer.probes)


def deploy(
    daemon: Connection,
    uploads: list[messages.Upload],
    selection: messages.Selection,
    *,
    limit: int | None,
    check_opcode: bool,
    present: messages.Present,
    json: bool,
) -> None:
    """Put programs into all processes that are meant, to stay until they are removed."""
    answer = daemon.request(
        lambda number: messages.Deploy(
            id=number,
            programs=uploads,
            selection=selection,
            limit=limit,
            keep=True,
            check_opcode=check_opcode,
            present=present,
        ),
        messages.Deployed,
    )
    show_deployments(answer.deployments, json=json)
    if not json:
        complain("they go in now; `dprobe query` shows where they are")


def show_deployments(deployments: Sequence[messages.DeploymentInfo], *, json: bool) -> None:
    """Programs that belong to a selection of processes."""
    rows: list[dict[str, object]] = []
    for each in deployments:
        row = msgspec.to_builtins(each)
        if not json:
            row["selection"] = selection_text(each.selection, each.limit)
            row["refused"] = sum(each.refused.values())
        rows.append(row)
    show(rows, _DEPLOYMENT_COLUMNS, json=json, empty=_NOTHING)


def selection_text(selection: messages.Selection, limit: int | None) -> str:
    """A selection as it is written on the command line."""
    given = {
        "exe": selection.exe,
        "user": selection.user,
        "unit": selection.unit,
        "policy": selection.policy,
        "limit": limit,
    }
    words = [f"--{name} {value}" for name, value in given.items() if value is not None]
    if selection == messages.Selection():
        words.insert(0, "--all")
    return " ".join(words)


def _explain(probes: Sequence[messages.ProbeInfo]) -> None:
    for probe in probes:
        if probe.reason:
            name = f"{probe.program} {probe.major}.{probe.minor} at {probe.place}"
            passed = f"; at least {probe.passed} hits passed over" if probe.passed else ""
            complain(f"{name}: {probe.state}: {probe.reason}{passed}")


def remove(daemon: Connection, selects: Sequence[messages.Select], *, json: bool) -> None:
    """Take programs out; their last counters are shown."""
    probes = []
    deployments = []
    earlier = []
    for select in selects:
        answer = daemon.request(
            lambda number, select=select: messages.Remove(id=number, select=select),  # type: ignore[misc]
            messages.Removed,
        )
        probes += answer.probes
        deployments += answer.deployments
        earlier += answer.earlier
    _show_all(deployments, probes, earlier, _PROBE_COLUMNS, json=json)


def _show_all(
    deployments: Sequence[messages.DeploymentInfo],
    probes: Sequence[messages.ProbeInfo],
    earlier: Sequence[messages.EarlierInfo],
    columns: Sequence[tuple[str, str]],
    *,
    json: bool,
    empty: str = _NOTHING,
) -> None:
    """Deployments, the probes, process by process, and what is left of processes long ended."""
    if deployments:
        show_deployments(deployments, json=json)
    if deployments and probes and not json:
        print()
    if probes or not deployments:
        show(probes, columns, json=json, empty=empty)
    if earlier:
        if not json:
            print()
        show(earlier, _EARLIER_COLUMNS, json=json, empty="")


def query(daemon: Connection, select: messages.Select, *, extended: bool, json: bool) -> None:
    """States and counters of probes; extended: everything, and the targets."""
    answer = daemon.request(
        lambda number: messages.Query(id=number, select=select), messages.Status
    )
    if extended:
        show(answer.targets, _TARGET_COLUMNS, json=json, empty="no process is traced")
        if not json and answer.targets:
            print()
    columns = _PROBE_COLUMNS_EXTENDED if extended else _PROBE_COLUMNS
    empty = _NOTHING if select == messages.Select() else "no such program is in"
    _show_all(answer.deployments, answer.probes, answer.earlier, columns, json=json, empty=empty)
    if not json:
        _explain_deployments(answer, extended=extended)


def _explain_deployments(answer: messages.Status, *, extended: bool) -> None:
    """Why deployments are not in processes that they are meant for."""
    for each in answer.deployments:
        for reason, count in each.refused.items():
            complain(
                f"{each.program}: refused in {count} process{'es' if count > 1 else ''}: {reason}"
            )
        for pid, reason in each.refusals.items() if extended else ():
            complain(f"{each.program}: process {pid}: {reason}")
    discovery = answer.discovery
    if answer.deployments and discovery is not None and discovery.lost:
        complain(
            f"events of processes were lost {discovery.lost} time{'s' * (discovery.lost > 1)}; "
            "short processes may have been missed without being counted"
        )


def programs(daemon: Connection, select: messages.Select, *, json: bool) -> None:
    """The programs that are in."""
    answer = daemon.request(
        lambda number: messages.Programs(id=number, select=select), messages.Listing
    )
    if answer.deployments:
        show_deployments(answer.deployments, json=json)
        if not answer.programs:
            return
        if not json:
            print()
    show(answer.programs, _PROGRAM_COLUMNS, json=json, empty=_NOTHING)


def parse_range(text: str | None) -> tuple[int, int | None]:
    """``3``, ``3-7`` or nothing as first index and count; raises UserError."""
    if text is None:
        return 0, None
    first, dash, last = text.partition("-")
    if not first.isdecimal() or (dash and not last.isdecimal()):
        raise UserError(f"{text} is no range of indices; write 3 or 3-7")
    end = int(last) if dash else int(first)
    if end < int(first) or end > 1 << 15:
        raise UserError(f"{text} is no range of indices; the second must not be the smaller")
    return int(first), end - int(first) + 1


def variables(
    daemon: Connection,
    program: str | None,
    pid: int | None,
    indices: str | None,
    *,
    reset: bool,
    json: bool,
) -> None:
    """The locals of a program (in ``pid``, if it is in several), or the globals of a process."""
    first, count = parse_range(indices)
    number = None
    if program is not None:
        answer = daemon.request(
            lambda number: messages.Programs(id=number, select=selection(program, pid=pid)),
            messages.Listing,
        )
        found = answer.programs
        if not found:
            where = "goes into several processes; say which by --pid"
            raise UserError(
                f"{program} {where}" if answer.deployments else f"there is no program {program}"
            )
        numbers = sorted({each.number for each in found})
        if len(numbers) > 1:
            them = ", ".join(map(str, numbers))
            raise UserError(f"several programs are {program}; give a number: {them}")
        if len(found) > 1:
            them = ", ".join(str(each.pid) for each in found)
            raise UserError(f"program {program} is in several processes; give --pid: {them}")
        number, pid = found[0].number, found[0].pid
    words = daemon.request(
        lambda request: messages.Vars(
            id=request, number=number, pid=pid, first=first, count=count, reset=reset
        ),
        messages.Words,
    )
    rows = [
        {"index": words.first + index, "value": word, "hex": f"{word:#x}"}
        for index, word in enumerate(words.words)
    ]
    columns = (("index", "index"), ("value", "value"), ("hex", "hex"))
    show(rows, columns, json=json, empty="there are no such variables")


def log(daemon: Connection, *, follow: bool, form: str, path: str | None) -> int:
    """The records that the daemon keeps; ``follow``: and all that come, until Ctrl-C."""
    output = Output(form, path, 1)
    daemon.on_record = output.record
    answer = daemon.request(lambda number: messages.Log(id=number, follow=follow), messages.Logged)
    if answer.forgotten:
        complain(f"{answer.forgotten} older records are no longer kept")
    output.flush()
    try:
        while follow and not output.broken:
            daemon.receive()
            output.flush()
    except KeyboardInterrupt:
        pass
    output.close()
    return 1 if output.broken else 0


def resume(daemon: Connection, pid: int | None, tid: int | None, *, json: bool) -> None:
    """Let threads go on that `suspend` holds, and processes that wait for a debugger."""
    answer = daemon.request(
        lambda number: messages.Resume(id=number, pid=pid, tid=tid), messages.Resumed
    )
    rows = [{"tid": each} for each in answer.tids]
    show(rows, (("resumed", "tid"),), json=json, empty="nothing is held")


def connect(path: Path | None) -> Connection:
    """The running daemon: the user's own, else root's; raises NoDaemonError."""
    import os

    sys.stdout.flush()
    if path is not None:
        return Connection.open(path)
    own = messages.default_socket(os.getuid())
    try:
        return Connection.open(own)
    except NoDaemonError:
        roots = messages.default_socket(0)
        if own == roots or not roots.exists():
            raise
        return Connection.open(roots)
