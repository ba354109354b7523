"""Policies, and what they decide about a process.

The first policy that matches decides, in the order of the files' names and, in a file, from its
top. Whom its rights do not name has what the default gives: root all, the process's own user all,
nobody else anything. Where none matches, the default is all there is.
"""

from __future__ import annotations

import pwd
from collections.abc import Callable, Mapping
from typing import Final, Literal

import msgspec

from dprobed.policy.match import Match, ProcessFacts, Tested
from dprobed.policy.protected import KINDS, protection
from dprobed.policy.rights import ALL, Right, words
from dprobed.proc.processes import Process
from dprobed.wire.limits import Limits

Hold = Literal["thread", "process"]
#: What a policy says of breakpoints in a process that would not survive the tracer's death.
Unguarded = Literal["allow", "refuse"]
#: The name of the rule that decides where no policy does.
DEFAULT: Final = "default"
UNLIMITED: Final = Limits()


class Stay(msgspec.Struct, frozen=True):
    """How long what a client inserts stays: ``seconds``, and so many hits of each probe."""

    seconds: float | None = None
    max_hits: int | None = None


FOR_EVER: Final = Stay()


class Rights(msgspec.Struct, frozen=True):
    """The rights that a policy gives; an empty set is ``deny``, which overrides all others.

    ``own``: the process's own user, None where that user is not named.
    """

    own: frozenset[Right] | None = None
    users: Mapping[int, frozenset[Right]] = msgspec.field(default_factory=dict)
    groups: Mapping[int, frozenset[Right]] = msgspec.field(default_factory=dict)

    def named(self, uid: int, gids: frozenset[int]) -> frozenset[Right] | None:
        """The rights that a user has by name or by group; None where neither is named."""
        grants = [self.users[uid]] if uid in self.users else []
        grants += [rights for gid, rights in self.groups.items() if gid in gids]
        if not grants:
            return None
        return frozenset().union(*grants) if all(grants) else frozenset()


class AutoInsertedProgram(msgspec.Struct, frozen=True):
    """A program that a policy inserts: its file, its name in records, and its bytes (``.dpb``)."""

    path: str
    label: str
    bytecode: bytes
    needs: Mapping[Right, str]


class AutoInsertion(msgspec.Struct, frozen=True):
    """What a policy inserts into the processes that it decides about (``Decision.auto_insertion``).

    ``seconds``: for how long in each; ``processes``: in how many at once; None: no limit.
    ``limits``: on its own programs in one process, besides the policy's budget.
    """

    policy: str
    place: str
    programs: tuple[AutoInsertedProgram, ...]
    seconds: float | None = None
    processes: int | None = None
    limits: Limits = UNLIMITED


class Policy(msgspec.Struct, frozen=True):
    """One policy; ``place``: ``file:line`` of it. ``budget``: for all programs in a process;
    ``stay``: at most, for what clients insert."""

    name: str
    place: str
    match: Match
    rights: Rights = Rights()
    auto_insertion: AutoInsertion | None = None
    budget: Limits = UNLIMITED
    follow_forks: bool = False
    hold: Hold = "process"
    unguarded: Unguarded = "allow"
    stay: Stay = FOR_EVER


class Denial(msgspec.Struct, frozen=True):
    """Why something is not done; ``text`` is one line for people, ``short`` only says which rule
    it was, where there are many processes."""

    text: str
    short: str
    rule: str
    place: str
    pid: int
    uid: int
    missing: frozenset[Right]


class Decision(msgspec.Struct, frozen=True):
    """What is decided about one process. ``protected``: why nobody may touch it, else empty."""

    process: Process
    policy: Policy | None
    protected: str = ""

    @property
    def rule(self) -> str:
        """The name of the policy, or ``default``."""
        return self.policy.name if self.policy else DEFAULT

    @property
    def place(self) -> str:
        """``file:line`` of the policy, empty for the default."""
        return self.policy.place if self.policy else ""

    @property
    def budget(self) -> Limits:
        """The rate limit of all programs in it."""
        return self.policy.budget if self.policy else UNLIMITED

    @property
    def limits(self) -> Limits | None:
        """That budget as it is sent to a tracer, with its rule."""
        return self.budget.set_by(self.rule_text)

    @property
    def follow_forks(self) -> bool:
        """Whether its children are probed as it is."""
        return self.policy is not None and self.policy.follow_forks

    @property
    def hold(self) -> Hold:
        """What ``exit debugger`` holds: the thread, or the whole process."""
        return self.policy.hold if self.policy else "process"

    @property
    def unguarded(self) -> Unguarded:
        """Whether it may have breakpoints where it would not survive the tracer's death."""
        return self.policy.unguarded if self.policy else "allow"

    @property
    def only_guarded(self) -> str:
        """The rule that refuses them; empty: none does."""
        return self.rule_text if self.unguarded == "refuse" else ""

    @property
    def stay(self) -> Stay:
        """How long what clients insert stays in it at most."""
        return self.policy.stay if self.policy else FOR_EVER

    @property
    def treatment(self) -> tuple[bool, Hold, Limits, Unguarded, int | None]:
        """The part of the decision that a tracer applies."""
        return self.follow_forks, self.hold, self.budget, self.unguarded, self.stay.max_hits

    @property
    def auto_insertion(self) -> AutoInsertion | None:
        """The programs that its policy inserts."""
        if self.policy is None or self.protected or self.process.kernel_thread:
            return None
        return self.policy.auto_insertion

    def rights(self, uid: int, gids: frozenset[int]) -> frozenset[Right]:
        """The rights of a user over it."""
        if self.protected:
            return frozenset()
        rights = self.policy.rights if self.policy else Rights()
        named = rights.named(uid, gids)
        if uid == 0:
            return ALL if named is None else named
        if named == frozenset() or set(self.process.uids) != {uid}:
            return named or frozenset()
        own = ALL if rights.own is None else rights.own
        return own | (named or frozenset()) if own else own

    def by_name(self, uid: int, gids: frozenset[int]) -> bool:
        """Whether a policy gives the user rights over a process of somebody else."""
        return uid not in {0, *self.process.uids} and bool(self.rights(uid, gids))

    def check(
        self, uid: int, gids: frozenset[int], needs: frozenset[Right], reason: str = ""
    ) -> Denial | None:
        """Why a user may not do what needs these rights; ``reason``: what asks for them.

        Without any needs: whether the user has any right at all.
        """
        have = self.rights(uid, gids)
        missing = needs - have
        if not missing and have:
            return None
        verb = words(missing or needs) if needs else "touch"
        process = f"process {self.process.pid} ({self.process.comm})"
        text = f"{user_name(uid)} may not {verb} {process}: {self._why(uid, gids, have)}"
        if reason:
            text += f"; {reason}"
        short = f"protected: {self.protected}" if self.protected else f"denied by {self.rule_text}"
        return Denial(text, short, self.rule, self.place, self.process.pid, uid, missing)

    @property
    def rule_text(self) -> str:
        """The rule for people, with its place."""
        return f"policy {self.rule} ({self.place})" if self.policy else "the default policy"

    def _why(self, uid: int, gids: frozenset[int], have: frozenset[Right]) -> str:
        if self.protected:
            return f"{self.protected}, and `protect` of dprobed.toml protects that"
        default = "no policy matches, and by default"
        if self.policy is not None:
            if uid in self.process.uids or self.policy.rights.named(uid, gids) is not None:
                return f"{self.rule_text} gives {words(have)}"
            default = f"{self.rule_text} does not name that user, and by default"
        if set(self.process.uids) == {0}:
            return f"{default} only root may"
        if len(set(self.process.uids)) == 1:
            return f"{default} only root and {user_name(self.process.uid)}, whose it is, may"
        return f"{default} only root may, because it runs with the rights of two users"


class RuleStep(msgspec.Struct, frozen=True):
    """The result of one policy on the way to a decision."""

    policy: str
    place: str
    matches: bool
    tested: tuple[Tested, ...]


class Policies(msgspec.Struct, frozen=True):
    """The policies in force, in order. ``protect``: kinds of processes that are protected
    (protected.py).

    ``is_ours``: whether a process is the daemon or a tracer of it.
    """

    policies: tuple[Policy, ...] = ()
    protect: frozenset[str] = frozenset(KINDS)
    is_ours: Callable[[int], bool] = lambda pid: False

    def decide(self, process: Process) -> Decision:
        """The decision about a process."""
        facts = ProcessFacts(process)
        protected = protection(facts, self.protect)
        if self.is_ours(process.pid):
            protected = "it is part of dprobed itself"
        found = next((each for each in self.policies if each.match.holds(facts)), None)
        return Decision(process, found, protected)

    def explain(self, process: Process) -> list[RuleStep]:
        """How a decision was made: each policy up to the one that decides."""
        facts = ProcessFacts(process)
        steps = []
        for policy in self.policies:
            tested = tuple(policy.match.explain(facts))
            held = policy.match.holds(facts)
            steps.append(RuleStep(policy.name, policy.place, held, tested))
            if held:
                break
        return steps

    def auto_insertions(self) -> list[AutoInsertion]:
        """The programs that the policies insert, in order."""
        return [each.auto_insertion for each in self.policies if each.auto_insertion is not None]


def user_name(uid: int) -> str:
    """A user as text: number and name."""
    try:
        return f"user {uid} ({pwd.getpwuid(uid).pw_name})"
    except KeyError:
        return f"user {uid}"
