"""Policies and decisions as messages, for `dprobe policy`."""

from __future__ import annotations

import grp
from collections.abc import Iterator
from typing import Literal

from dprobed.policy.match import Condition, Match
from dprobed.policy.model import Decision, Policies, Policy, Rights, user_name
from dprobed.policy.rights import ALL, Right
from dprobed.proc import procfs, refusals
from dprobed.proc.processes import Process
from dprobed.wire import messages
from dprobed.wire.limits import Limits


def policy_info(policy: Policy) -> messages.PolicyInfo:
    """A policy as it is listed."""
    auto_insertion = policy.auto_insertion
    return messages.PolicyInfo(
        name=policy.name,
        place=policy.place,
        match=list(_match(policy.match)),
        rights={who: _words(rights) for who, rights in _named(policy.rights)},
        programs=[each.path for each in auto_insertion.programs] if auto_insertion else [],
        seconds=auto_insertion.seconds if auto_insertion else None,
        processes=auto_insertion.processes if auto_insertion else None,
        limits=_limits(auto_insertion.limits if auto_insertion else Limits()),
        budget=_limits(policy.budget),
        follow_forks=policy.follow_forks,
        hold=policy.hold,
        unguarded=policy.unguarded,
        stay_seconds=policy.stay.seconds,
        max_hits=policy.stay.max_hits,
    )


def explain(policies: Policies, process: Process) -> messages.Explanation:
    """Which rule decides about a process, how, and with what effect."""
    decision = policies.decide(process)
    auto_insertion = decision.auto_insertion
    return messages.Explanation(
        pid=process.pid,
        comm=process.comm,
        exe=process.exe,
        uid=process.uid,
        rule=decision.rule,
        place=decision.place,
        protected=decision.protected,
        obstacle=_obstacle(policies, process.pid),
        steps=[
            messages.PolicyStep(
                policy=step.policy,
                place=step.place,
                matches=step.matches,
                tested=[str(tested) for tested in step.tested],
            )
            for step in policies.explain(process)
        ],
        rights=_rights(decision),
        programs=[each.path for each in auto_insertion.programs] if auto_insertion else [],
        budget=_limits(decision.budget),
        follow_forks=decision.follow_forks,
        hold=decision.hold,
        unguarded=decision.unguarded,
        stay_seconds=decision.stay.seconds,
        max_hits=decision.stay.max_hits,
    )


def _obstacle(policies: Policies, pid: int) -> str:
    """Why it cannot be probed, whoever asks; our own tracer is no obstacle."""
    status = procfs.status(pid)
    if status is not None and status.tracer and policies.is_ours(status.tracer):
        return ""
    return refusals.refusal(pid, ask=False) or ""


def _rights(decision: Decision) -> dict[str, list[str]]:
    """The rights of all users to whom the rule or the default gives any."""
    process = decision.process
    found = {"root": decision.rights(0, frozenset({0}))}
    if len(set(process.uids)) == 1 and process.uid != 0:
        found[f"{user_name(process.uid)}, whose it is"] = decision.rights(
            process.uid, frozenset(process.gids)
        )
    if decision.policy is not None and not decision.protected:
        for uid in decision.policy.rights.users:
            if uid not in (0, process.uid):
                found[user_name(uid)] = decision.rights(uid, frozenset())
        for gid, rights in decision.policy.rights.groups.items():
            found[group_name(gid)] = rights
    return {who: _words(rights) for who, rights in found.items()}


def _named(rights: Rights) -> Iterator[tuple[str, frozenset[Right]]]:
    if rights.own is not None:
        yield "self", rights.own
    for uid, each in rights.users.items():
        yield user_name(uid), each
    for gid, each in rights.groups.items():
        yield group_name(gid), each


def group_name(gid: int) -> str:
    """A group as text: number and name."""
    try:
        return f"group {gid} ({grp.getgrgid(gid).gr_name})"
    except KeyError:
        return f"group {gid}"


def _words(rights: frozenset[Right]) -> list[str]:
    return [str(right) for right in Right if right in rights & ALL] or ["deny"]


def _match(match: Match, before: str = "") -> Iterator[str]:
    for condition in match.conditions:
        yield before + _condition(condition)
    for excluded in match.exclude:
        yield from _match(excluded, "not ")


def _condition(condition: Condition) -> str:
    return f"{condition.name}: {' or '.join(condition.written)}"


def _limits(limits: Limits) -> messages.LimitsInfo:
    over: Literal["throttle", "remove"] = "remove" if limits.remove else "throttle"
    return messages.LimitsInfo(share=limits.share, hits_per_second=limits.hits, over=over)
