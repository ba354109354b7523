"""``dprobe policy``: who may do what to which process, and which programs are auto-inserted."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click
import msgspec

from dprobe.commands import options
from dprobe.commands.group import CommandGroup
from dprobe.commands.pids import OneProcess
from dprobe.lib.errors import UserError
from dprobe.view.output import complain
from dprobe.view.tables import Listing, diagnostic, encoded, show
from dprobed.durations import text
from dprobed.policy import config, describe, store
from dprobed.policy.errors import PolicyError
from dprobed.policy.model import Policies, Policy
from dprobed.policy.parse import parse
from dprobed.printable import printable, readable
from dprobed.proc import far, helper, processes, refusals
from dprobed.program.model import Diagnostic
from dprobed.wire import messages

_LISTING = Listing(
    "policy",
    (
        ("policy", "name"),
        ("match", "match"),
        ("rights", "rights"),
        ("programs", "programs"),
        ("at", "place"),
    ),
    messages.PolicyInfo.__struct_fields__,
)
_FILES = Listing("policy_file", (("file", "file"), ("ok", "ok")))


class _PolicyFile(options.FilePath):
    """A file of policies; ``-`` is standard input."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The path (click)."""
        path = "/dev/stdin" if value == "-" else str(value)
        try:
            if far.kind(path) == stat.S_IFDIR:
                self.fail(f"{path} is a folder", param, ctx)
        except helper.SilentError as error:
            raise UserError(f"{path}: {error.strerror}") from None
        except OSError:
            pass  # who reads it says so
        return super().convert(path, param, ctx)


_file = _PolicyFile(path_type=Path)


@click.group(
    "policy",
    cls=CommandGroup,
    epilog="""\b
examples:
  dprobe policy explain nginx           # who may do what to it, by which rule
  dprobe policy check 10-web.toml       # before it is put into policies.d
  dprobe policy test 10-web.toml 1234   # what it would decide
  dprobe policy reload
""",
)
def policy_command() -> None:
    """Show, check and reload the policies: who may do what to which process.

    Those of root's dprobed are in /etc/dprobed/policies.d, those of a user's own in
    ~/.config/dprobed/policies.d; docs/policies.md says what is in such a file.
    """


@policy_command.command(
    "list",
    short_help="List the policies in force.",
    epilog="\b\nexample:\n  dprobe policy list --json\n",
)
@options.listing(_LISTING)
@click.pass_obj
def list_command(socket: Path | None, json: bool, only: tuple[str, ...]) -> None:
    """List the policies in force, in the order in which they are tried."""
    with options.running(socket) as daemon:
        answer = daemon.request(
            lambda number: messages.PolicyList(id=number), messages.PolicyListing
        )
    _show(answer, json=json, only=only)
    if answer.problem:
        complain(answer.problem)


@policy_command.command(
    "check",
    short_help="Check policy files.",
    epilog="""\b
examples:
  dprobe policy check                 # all that are in policies.d
  dprobe policy check etc/policies/*.toml
""",
)
@options.json
@click.argument("files", nargs=-1, type=_file)
@click.pass_obj
def check_command(socket: Path | None, files: tuple[Path, ...], json: bool) -> None:
    """Check FILES, or those in policies.d; show all faults, with exit status 2 if there are any.

    No daemon is needed. A program whose `exit NAME` nobody handles now is told of, and no fault:
    the daemon inserts it when the handler is registered.
    """
    trust = None
    empty = ""
    faults: tuple[Diagnostic, ...] = ()
    try:
        if not files:
            trust = os.geteuid()
            folder = config.load(None, trust).policies
            empty = f"there is no policy file in {readable(folder)}"
            files = tuple(store.files(folder, trust))
        waiting = _waiting(socket, parse(files, trust=trust))
    except PolicyError as error:
        faults, waiting = error.diagnostics, []
    rows = []
    for name in dict.fromkeys([*map(readable, files), *(fault.file for fault in faults)]):
        own = [diagnostic(fault) for fault in faults if fault.file == name]
        warnings = [
            {**diagnostic(fault), "severity": "warning"}
            for place, fault in waiting
            if place.rpartition(":")[0] == name
        ]
        rows.append({"file": name, "ok": not own, "diagnostics": own + warnings})
    show(rows, _FILES, json=json, empty=empty)
    sys.stdout.flush()
    for place, fault in waiting:
        complain(str(fault).replace(": error: ", ": warning: ", 1))
        complain(f"    the policy at {place} inserts its programs when one is")
    if faults:
        raise UserError("\n".join(map(str, faults)))


def _waiting(socket: Path | None, policies: Sequence[Policy]) -> list[tuple[str, Diagnostic]]:
    """Programs whose facilities are not there, with the place of their policy."""
    # Imported where it is needed: the rest of policies need no programs.
    from dprobe.lib import facilities
    from dprobed.program.bytecode import decode

    return [
        (policy.place, fault)
        for policy in policies
        if policy.auto_insertion is not None
        for each in policy.auto_insertion.programs
        for fault in facilities.unknown(socket, decode(each.bytecode), each.path)
    ]


@policy_command.command(
    "explain",
    short_help="Show which policy decides about a process.",
    epilog="\b\nexample:\n  dprobe policy explain 1234\n",
)
@options.json
@click.argument("pid", type=OneProcess(), metavar="PID|NAME")
@click.pass_obj
def explain_command(socket: Path | None, pid: int, json: bool) -> None:
    """Show which policy in force decides about a process, why that one, and what
    follows."""
    with options.running(socket) as daemon:
        answer = daemon.request(
            lambda number: messages.PolicyExplain(id=number, pid=pid), messages.PolicyExplained
        )
    _tell(answer.explanation, json=json)


@policy_command.command("reload", epilog="\b\nexample:\n  dprobe policy reload\n")
@options.json
@click.pass_obj
def reload_command(socket: Path | None, json: bool) -> None:
    """Have the daemon read the policy files anew, and list them.

    Where a file has a fault, the policies in force stay, all faults are shown, and the exit status
    is 2. Programs are removed from processes where they are no longer allowed.
    """
    with options.running(socket) as daemon:
        answer = daemon.request(
            lambda number: messages.PolicyReload(id=number), messages.PolicyListing
        )
    _show(answer, json=json)
    if answer.problem:
        sys.stdout.flush()
        raise UserError(answer.problem)


@policy_command.command(
    "test",
    short_help="Show what one file would decide about a process.",
    epilog="\b\nexample:\n  dprobe policy test 10-web.toml 1234\n",
)
@options.json
@click.argument("file", type=_file)
@click.argument("pid", type=OneProcess(), metavar="PID|NAME")
def test_command(file: Path, pid: int, json: bool) -> None:
    """Show what the policies in FILE alone would decide about a process.

    No daemon is needed, and nothing changes.
    """
    try:
        policies = Policies(parse([file]), config.load(None, os.geteuid()).protect, _is_dprobed)
    except PolicyError as error:
        raise UserError(str(error)) from None
    found = processes.read(pid)
    if found is None:
        raise UserError(refusals.refusal(pid) or f"process {pid} is gone (no such process)")
    _tell(describe.explain(policies, found), json=json)
    if not found.exe and not found.kernel_thread:
        complain(
            f"what process {pid} executes, and its environment, may not be read by user "
            f"{os.geteuid()}: for root's dprobed another policy may match"
        )


def _is_dprobed(pid: int) -> bool:
    """Whether a process is a daemon that stays, or a tracer of it: without one, as they look.

    A tracer of a private daemon is none: what that has, no other daemon can trace.
    """
    found = processes.read(pid)
    if found is None or found.comm != "dprobed":
        return False
    # As a private one names itself (daemon.private).
    return not any(word.startswith("dprobed: private") for word in found.cmdline)


def _show(answer: messages.PolicyListing, *, json: bool, only: Sequence[str] = ()) -> None:
    rows = [msgspec.to_builtins(each) for each in answer.policies]
    if not json:
        for row in rows:
            row["match"] = "; ".join(row["match"])
            row["rights"] = _rights(row["rights"])
    empty = f"no policy in {answer.folder}: root may all, and users with what is theirs"
    show(rows, _LISTING, json=json, empty=empty, only=only)


def _rights(rights: dict[str, list[str]]) -> str:
    return "; ".join(f"{who}: {', '.join(words)}" for who, words in rights.items())


def _tell(explanation: messages.Explanation, *, json: bool) -> None:
    if json:
        print(encoded("explanation", msgspec.to_builtins(explanation)))
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
    stay = _stay(found)
    if stay:
        yield f"what is inserted stays for: {stay} at most"
    yield f"forks: {'followed' if found.follow_forks else 'not followed'}"
    yield f"exit debugger holds: the {found.hold}"
    if found.unguarded == "refuse":
        yield "unguarded: no breakpoints where it would not survive its tracer's death"


def _stay(found: messages.Explanation) -> str:
    parts = [] if found.stay_seconds is None else [text(found.stay_seconds)]
    if found.max_hits is not None:
        parts.append(f"{found.max_hits} hits of each probe")
    return ", ".join(parts)


def _budget(limits: messages.LimitsInfo) -> str:
    parts = []
    if limits.share is not None:
        parts.append(f"{limits.share:.3g} of its time")
    if limits.hits_per_second is not None:
        parts.append(f"{limits.hits_per_second:g} hits a second")
    return f"{', '.join(parts)}, else {limits.over}" if parts else ""
