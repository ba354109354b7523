"""Where every request passes before a process is touched: who asks, for what, and may they.

A daemon of root's serves everybody, and what they may do is decided here. Two rules besides the
policies keep users apart:

1. A tracer runs as the user who asked, so that the kernel's own check holds, and what the process
   executes does not gain rights that its tracer lacks. A user whom a policy names for a process of
   somebody else is served by a tracer that runs as the process's own user.
2. A process has one tracer. Another user may join it only where it runs as that user would have it
   run by the first rule; root always may. (A user's program in a tracer of root's would go on in a
   setuid program that the process executes.)
"""

from __future__ import annotations

import os
import pwd
from collections.abc import Mapping
from typing import NamedTuple, NoReturn

from dprobed.daemon.audit import Audit
from dprobed.daemon.history import History
from dprobed.daemon.target import Asker, Refusal, Target
from dprobed.policy.model import Decision, Denial, Policies
from dprobed.policy.rights import Right, needs
from dprobed.policy.store import PolicyStore
from dprobed.proc import processes, refusals
from dprobed.proc.processes import Process
from dprobed.program.model import Program


class Admission(NamedTuple):
    """As whom the tracer of a process is to run, and what was decided about that."""

    uid: int
    gid: int
    decision: Decision

    def same_as(self, other: Admission) -> bool:
        """Whether it is the same process, traced as the same user."""
        one, two = self.decision.process, other.decision.process
        return (self.uid, self.gid, one.start) == (other.uid, other.gid, two.start)


class Gate:
    """Decides requests by the policies in force; what is not to be raises Refusal."""

    def __init__(self, store: PolicyStore) -> None:
        self.store = store
        self._audit = Audit()
        self.history = History()
        self._serves_all = os.geteuid() == 0

    @property
    def policies(self) -> Policies:
        """The set in force."""
        return self.store.policies

    # -- people ------------------------------------------------------------------------------------

    def commands(self, asker: Asker) -> bool:
        """Whether everything in this daemon is the asker's: root, or it is a user's own daemon."""
        return not self._serves_all or asker.uid == 0

    def sees(self, asker: Asker, uid: int) -> bool:
        """Whether what user ``uid`` has in this daemon concerns the asker."""
        return self.commands(asker) or asker.uid == uid

    def show(self, asker: Asker, pid: int) -> Process:
        """The process, where the asker may know what is decided about it."""
        decision = self._decide(pid)
        if not self.commands(asker) and asker.uid not in decision.process.uids:
            self._check(decision, asker, frozenset())
        return decision.process

    # -- processes ---------------------------------------------------------------------------------

    def denial(
        self, asker: Asker, process: Process, wanted: frozenset[Right], reason: str = ""
    ) -> Denial | None:
        """Why not, without a word to anybody; None: it may be."""
        gids = frozenset(groups_of(asker.uid, asker.gid))
        return self.policies.decide(process).check(asker.uid, gids, wanted, reason)

    def admit(self, asker: Asker, pid: int) -> Admission:
        """That the asker may have anything to do with a process."""
        decision = self._decide(pid)
        self._check(decision, asker, frozenset())
        own = (os.geteuid(), os.getegid())
        identity = self._identity(decision, asker) if self._serves_all else own
        return Admission(*identity, decision)

    def join(self, asker: Asker, target: Target, admission: Admission) -> None:
        """That the asker may share a process that is traced already."""
        if admission.uid != target.uid and not self.commands(asker):
            raise Refusal(
                f"process {target.pid} ({target.comm}) is traced for user {target.uid} already, "
                "and a process has one tracer at a time; try again when that has ended"
            )

    def require(self, asker: Asker, pid: int, right: Right) -> None:
        """That the asker has a right over a process."""
        self._check(self._decide(pid), asker, frozenset({right}))

    def has(self, asker: Asker, pid: int, right: Right) -> bool:
        """Whether the asker has a right over a process, without a word to anybody."""
        process = processes.read(pid)
        return process is not None and self.denial(asker, process, frozenset({right})) is None

    def allow(self, asker: Asker, pid: int, label: str, program: Program) -> None:
        """That the asker may have a program run in a process."""
        wanted = needs(program)
        self._check(self._decide(pid), asker, frozenset(wanted), reason_for(label, wanted))

    def keeps(self, asker: Asker, process: Process, label: str, program: Program) -> str:
        """Why a program may not stay in a process; empty: it may. A refusal is written down."""
        wanted = needs(program)
        denial = self.denial(asker, process, frozenset(wanted), reason_for(label, wanted))
        if denial is None:
            return ""
        self._audit.deny(denial)
        return denial.text

    def _decide(self, pid: int) -> Decision:
        process = processes.read(pid)
        if process is None:
            raise Refusal(refusals.refusal(pid) or f"process {pid} is gone (no such process)")
        return self.policies.decide(process)

    def _check(
        self, decision: Decision, asker: Asker, wanted: frozenset[Right], reason: str = ""
    ) -> None:
        gids = frozenset(groups_of(asker.uid, asker.gid))
        denial = decision.check(asker.uid, gids, wanted, reason)
        if denial is not None:
            self._refuse(denial)

    def _identity(self, decision: Decision, asker: Asker) -> tuple[int, int]:
        process = decision.process
        gids = frozenset(groups_of(asker.uid, asker.gid))
        if not decision.by_name(asker.uid, gids):
            return asker.uid, asker.gid
        if len(set(process.uids)) > 1 or len(set(process.gids)) > 1:
            raise Refusal(
                f"process {process.pid} ({process.comm}) runs with the rights of two users: "
                "only root may trace it"
            )
        return process.uid, process.gid

    def _refuse(self, denial: Denial) -> NoReturn:
        self._audit.deny(denial)
        raise Refusal(denial.text)


def reason_for(label: str, wanted: Mapping[Right, str]) -> str:
    """What of a program asks for more than to observe."""
    parts = [f"{right} for {why}" for right, why in wanted.items() if why]
    return f"{label} needs {', '.join(parts)}" if parts else ""


def groups_of(uid: int, gid: int) -> list[int]:
    """The groups that the system gives a user."""
    try:
        return os.getgrouplist(pwd.getpwuid(uid).pw_name, gid)
    except KeyError:
        return [gid]
