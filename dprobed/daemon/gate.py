"""Authorization: checks each request against the policies before a process is touched.

Root's daemon serves all users. Two rules besides the policies keep users apart:

1. A tracer runs as the user who asked, so that the kernel's own check holds, and what the process
   executes does not gain rights that its tracer lacks. A user to whom a policy gives rights
   over another user's process gets a tracer that runs as the process's own user.
2. A process has one tracer. Another user may join it only where it runs as that user would have it
   run by the first rule; root always may. (A user's program in a tracer of root's would go on in a
   setuid program that the process executes.)
"""

from __future__ import annotations

import os
import pwd
from collections.abc import Callable, Mapping
from typing import Final, NoReturn

import msgspec

from dprobed.daemon.audit import Audit
from dprobed.daemon.client import Forbidden, Refusal, User
from dprobed.daemon.history import History
from dprobed.daemon.target import Target
from dprobed.policy.model import Decision, Denial, Policies
from dprobed.policy.rights import Right, needs, words
from dprobed.policy.store import PolicyStore
from dprobed.proc import processes, refusals
from dprobed.proc.processes import Process
from dprobed.program.model import Program
from dprobed.wire.messages import KERNEL


class Admission(msgspec.Struct, frozen=True):
    """The user as whom a process's tracer is to run, and the policy decision."""

    uid: int
    gid: int
    decision: Decision

    def same_as(self, other: Admission) -> bool:
        """Whether it is for the same process, traced as the same user."""
        one, two = self.decision.process, other.decision.process
        return (self.uid, self.gid, one.start) == (other.uid, other.gid, two.start)


class Gate:
    """Decides requests by the policies in force; raises Refusal for what is not allowed.

    ``process``: reads a process's facts; it returns None if the process is gone.
    """

    def __init__(
        self,
        store: PolicyStore,
        process: Callable[[int], Process | None] = processes.read,
    ) -> None:
        self.process: Final = process
        self.store = store
        self.audit: Final = Audit()
        self.history = History()
        self._serves_all = os.geteuid() == 0

    @property
    def policies(self) -> Policies:
        """The policies in force."""
        return self.store.policies

    # -- users -------------------------------------------------------------------------------------

    def commands(self, user: User) -> bool:
        """Whether the user may do everything in this daemon: root, or the daemon's own user."""
        return not self._serves_all or user.uid == 0

    def sees(self, user: User, uid: int) -> bool:
        """Whether the user may see what belongs to user ``uid``."""
        return self.commands(user) or user.uid == uid

    def show(self, user: User, pid: int) -> Process:
        """A process's facts, where the user may see the decision about it."""
        decision = self._decide(pid)
        if not self.commands(user) and user.uid not in decision.process.uids:
            self._check(decision, user, frozenset())
        return decision.process

    # -- processes ---------------------------------------------------------------------------------

    def denial(
        self, user: User, process: Process, wanted: frozenset[Right], reason: str = ""
    ) -> Denial | None:
        """Why the user may not, without logging it; None: the user may."""
        gids = frozenset(groups_of(user.uid, user.gid))
        return self.policies.decide(process).check(user.uid, gids, wanted, reason)

    def admit(self, user: User, pid: int) -> Admission:
        """Check that the user has any right over a process."""
        decision = self._decide(pid)
        self._check(decision, user, frozenset())
        own = (os.geteuid(), os.getegid())
        identity = self._identity(decision, user) if self._serves_all else own
        return Admission(*identity, decision)

    def join(self, user: User, target: Target, admission: Admission) -> None:
        """Check that the user may share the tracer of a process that is traced already."""
        if admission.uid != target.uid and not self.commands(user):
            raise Forbidden(
                f"process {target.pid} ({target.comm}) is traced for user {target.uid} already, "
                "and a process has one tracer at a time; try again when that has ended",
                "another user's tracer",
                target.pid,
            )

    def require(self, user: User, pid: int, right: Right) -> None:
        """Check that the user has a right over a process."""
        self._check(self._decide(pid), user, frozenset({right}))

    def has(self, user: User, pid: int, right: Right) -> bool:
        """Whether the user has a right over a process; a refusal is not logged."""
        process = self.process(pid)
        return process is not None and self.denial(user, process, frozenset({right})) is None

    def allow(self, user: User, pid: int, label: str, program: Program) -> frozenset[Right]:
        """Check that the user may have a program run in a process; the rights that it needs."""
        wanted = needs(program)
        self._check(self._decide(pid), user, frozenset(wanted), reason_for(label, wanted))
        return frozenset(wanted)

    def allow_kernel(self, user: User, label: str, program: Program) -> None:
        """Check that the user may have a program in the kernel."""
        if self.commands(user):
            return
        gids = frozenset(groups_of(user.uid, user.gid))
        given = self.store.config.kernel.named(user.uid, gids) or frozenset()
        wanted = needs(program)
        missing = frozenset(wanted) - given if given else frozenset({Right.OBSERVE})
        if not missing:
            return
        text = "only root may insert programs into the kernel, and whom [kernel] in the daemon's "
        text += f"configuration names (dprobed.toml), not user {user.uid}"
        if given:
            text = f"user {user.uid} may not {words(missing)} the kernel"
            text += f": {reason_for(label, wanted)}"
        self._refuse(Denial(text, text, "kernel", "", KERNEL, user.uid, missing))

    def keeps(self, user: User, process: Process, label: str, program: Program) -> str:
        """Why a program may not stay in a process; empty: it may. A refusal is logged."""
        wanted = needs(program)
        denial = self.denial(user, process, frozenset(wanted), reason_for(label, wanted))
        if denial is None:
            return ""
        self.audit.deny(denial)
        return denial.text

    def _decide(self, pid: int) -> Decision:
        process = self.process(pid)
        if process is None:
            reason = refusals.refusal(pid, ask=False)
            raise Refusal(reason or f"process {pid} is gone (no such process)")
        return self.policies.decide(process)

    def _check(
        self, decision: Decision, user: User, wanted: frozenset[Right], reason: str = ""
    ) -> None:
        gids = frozenset(groups_of(user.uid, user.gid))
        denial = decision.check(user.uid, gids, wanted, reason)
        if denial is not None:
            self._refuse(denial)

    def _identity(self, decision: Decision, user: User) -> tuple[int, int]:
        process = decision.process
        gids = frozenset(groups_of(user.uid, user.gid))
        if not decision.by_name(user.uid, gids):
            return user.uid, user.gid
        if len(set(process.uids)) > 1 or len(set(process.gids)) > 1:
            raise Forbidden(
                f"process {process.pid} ({process.comm}) runs with the rights of two users: "
                "only root may trace it",
                "two users",
                process.pid,
            )
        return process.uid, process.gid

    def _refuse(self, denial: Denial) -> NoReturn:
        self.audit.deny(denial)
        raise Refusal(denial.text)


def reason_for(label: str, wanted: Mapping[Right, str]) -> str:
    """Which instructions of a program need more than the right to observe."""
    parts = [f"{right} for {why}" for right, why in wanted.items() if why]
    return f"{label} needs {', '.join(parts)}" if parts else ""


def groups_of(uid: int, gid: int) -> list[int]:
    """A user's groups, from the user database."""
    try:
        return os.getgrouplist(pwd.getpwuid(uid).pw_name, gid)
    except KeyError:
        return [gid]
