"""What `dprobe policy` does: list, check, explain, reload, test."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from dprobe.lib import manage
from dprobe.lib.errors import UserError
from dprobe.view.output import complain
from dprobe.view.tables import show
from dprobed.printable import printable, readable
from dprobed.wire import messages

if TYPE_CHECKING:
    from dprobed.program.model import Diagnostic

_COLUMNS = (
    ("policy", "name"),
    ("match", "match"),
    ("rights", "rights"),
    ("programs", "programs"),
    ("at", "place"),
)


def list_(socket: Path | None, *, json: bool) -> None:
    """List the policies in force."""
    with manage.connect(socket) as daemon:
        answer = daemon.request(
            lambda number: messages.PolicyList(id=number), messages.PolicyListing
        )
    _show(answer, json=json)
    if answer.problem:
        complain(answer.problem)


def reload(socket: Path | None, *, json: bool) -> None:
    """Have them read anew; raises UserError with all that is wrong."""
    with manage.connect(socket) as daemon:
        answer = daemon.request(
            lambda number: messages.PolicyReload(id=number), messages.PolicyListing
        )
    _show(answer, json=json)
    if answer.problem:
        sys.stdout.flush()
        raise UserError(answer.problem)


def _show(answer: messages.PolicyListing, *, json: bool) -> None:
    rows = [msgspec.to_builtins(each) for each in answer.policies]
    if not json:
        for row in rows:
            row["match"] = "; ".join(row["match"])
            row["rights"] = _rights(row["rights"])
    empty = f"no policy in {answer.folder}: root may all, and users with what is theirs"
    show(rows, _COLUMNS, json=json, empty=empty)


def _rights(rights: dict[str, list[str]]) -> str:
    return "; ".join(f"{who}: {', '.join(words)}" for who, words in rights.items())


def check(paths: Sequence[Path], *, json: bool) -> None:
    """Check files, or all that are in force for this user; raises UserError with all faults."""
    from dprobed.policy import config, store
    from dprobed.policy.errors import PolicyError
    from dprobed.policy.parse import parse

    trust = None
    empty = ""
    faults: tuple[Diagnostic, ...] = ()
    try:
        if not paths:
            trust = os.geteuid()
            folder = config.load(None, trust).policies
            empty = f"there is no policy file in {readable(folder)}"
            paths = store.files(folder, trust)
        parse(paths, trust=trust)
    except PolicyError as error:
        faults = error.diagnostics
    rows = []
    for name in dict.fromkeys([*map(readable, paths), *(fault.file for fault in faults)]):
        own = [str(fault) for fault in faults if fault.file == name]
        rows.append({"file": name, "ok": not own, "error": "\n".join(own)})
    show(rows, (("file", "file"), ("ok", "ok")), json=json, empty=empty)
    if faults:
        sys.stdout.flush()
        raise UserError("\n".join(map(str, faults)))


def explain(socket: Path | None, pid: int, *, json: bool) -> None:
    """Show which rule decides about a process."""
    with manage.connect(socket) as daemon:
        answer = daemon.request(
            lambda number: messages.PolicyExplain(id=number, pid=pid), messages.PolicyExplained
        )
    _tell(answer.explanation, json=json)


def test(path: Path, pid: int, *, json: bool) -> None:
    """Show what one file would decide about a process."""
    from dprobed.policy import config, describe
    from dprobed.policy.errors import PolicyError
    from dprobed.policy.model import Policies
    from dprobed.policy.parse import parse
    from dprobed.proc import processes, procfs

    try:
        policies = Policies(parse([path]), config.load(None, os.geteuid()).protect)
    except PolicyError as error:
        raise UserError(str(error)) from None
    found = processes.read(pid)
    if found is None:
        raise UserError(procfs.refusal(pid) or f"process {pid} is gone (no such process)")
    _tell(describe.explain(policies, found), json=json)
    if not found.exe and not found.kernel_thread:
        complain(
            f"what process {pid} executes, and its environment, may not be read by user "
            f"{os.geteuid()}: for root's dprobed another policy may match"
        )


def _tell(explanation: messages.Explanation, *, json: bool) -> None:
    if json:
        print(msgspec.json.encode(explanation).decode())
        return
    for line in _lines(explanation):
        print(printable(line))


def _lines(found: messages.Explanation) -> Iterator[str]:
    yield f"process {found.pid} ({found.comm}): {found.exe or 'executable not known'}"
    for step in found.steps:
        verb = "matches" if step.matches else "does not match"
        yield f"  policy {step.policy} ({step.place}) {verb}"
        for tested in step.tested:
            yield f"    {tested}"
    place = f" ({found.place})" if found.place else ": no policy matches"
    yield f"decides: {found.rule}{place}"
    if found.protected:
        yield f"protected: {found.protected}; nobody may touch it"
    elif found.obstacle:
        yield f"cannot be probed: {found.obstacle}"
    for who, words in found.rights.items():
        yield f"  {who}: {', '.join(words)}"
    if found.programs:
        yield f"programs: {', '.join(found.programs)}"
    budget = _budget(found.budget)
    if budget:
        yield f"budget: {budget}"
    yield f"forks: {'followed' if found.follow_forks else 'not followed'}"
    yield f"exit debugger holds: the {found.hold}"


def _budget(limits: messages.LimitsInfo) -> str:
    parts = []
    if limits.share is not None:
        parts.append(f"{limits.share:.3g} of its time")
    if limits.hits_per_second is not None:
        parts.append(f"{limits.hits_per_second:g} hits a second")
    return f"{', '.join(parts)}, else {limits.over}" if parts else ""
