"""Matches processes against the conditions of policies.

A match is a set of conditions, each on one fact, all of which must hold; of the patterns of one
condition one must fit. What ``exclude`` matches is left out. What is empty or not known fits no
pattern, so that a policy never applies because something could not be read.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import Final

import msgspec

from dprobed.proc import processes
from dprobed.proc.processes import Process

#: What the kernel has for a user or group, without the one that means none.
_ID: Final = re.compile(r"0|[1-9]\d{0,9}", re.ASCII)
#: Letters of a fact that people are shown.
_SHOWN: Final = 200


def user_number(text: str) -> int | None:
    """The number of a user or group that is written as one; None: it is a name."""
    return int(text) if _ID.fullmatch(text) and int(text) < (1 << 32) - 1 else None


class ProcessFacts:
    """A process's facts; those that are slow to read only when a condition asks for them."""

    def __init__(self, process: Process) -> None:
        self.process = process

    @cached_property
    def environment(self) -> Mapping[str, str]:
        """Its environment; nothing where we may not know it."""
        return processes.environment(self.process) or {}

    @cached_property
    def parent_exe(self) -> str:
        """What its parent runs."""
        found = processes.read(self.process.parent)
        return found.exe if found is not None else ""


class TextFact(msgspec.Struct, frozen=True):
    """A fact that patterns are for; ``path``: of the kind in which ``*`` stops at a slash."""

    path: bool
    read: Callable[[ProcessFacts], str]
    meaning: str


TEXTS: Final[dict[str, TextFact]] = {
    "exe": TextFact(True, lambda facts: facts.process.exe, "the path of what it runs"),
    "cmdline": TextFact(
        False, lambda facts: " ".join(facts.process.cmdline), "its arguments, joined by blanks"
    ),
    "cgroup": TextFact(True, lambda facts: facts.process.cgroup, "the path of its control group"),
    "unit": TextFact(False, lambda facts: facts.process.unit, "its unit of systemd"),
    "user_unit": TextFact(
        False, lambda facts: facts.process.user_unit, "its unit of the user's own systemd"
    ),
    "container": TextFact(
        False, lambda facts: facts.process.container, "the id or name of its container"
    ),
    "parent": TextFact(True, lambda facts: facts.parent_exe, "the path of what its parent runs"),
}
#: Those that look at the path of an executable, whose names may be links.
EXECUTABLES: Final = frozenset({"exe", "parent"})
#: All keys of a match, and what each looks at.
KEYS: Final[dict[str, str]] = {
    **{key: fact.meaning for key, fact in TEXTS.items()},
    "user": "whose process it is",
    "group": "its group, or one of its further groups",
    "environment": "variables of its environment",
    "not": "a match, or several: what they match is left out",
}


class Condition(msgspec.Struct, frozen=True):
    """One condition. ``written``: its patterns as in the file.

    ``key``: of ``TEXTS``, ``user`` or ``group`` (then ``ids``), or ``environment`` (then
    ``variable`` names one).
    """

    key: str
    written: tuple[str, ...]
    patterns: tuple[re.Pattern[str], ...] = ()
    ids: frozenset[int] = frozenset()
    variable: str = ""

    @property
    def name(self) -> str:
        """What it looks at, as it is written."""
        return f"{self.key}.{self.variable}" if self.variable else self.key

    def test(self, facts: ProcessFacts) -> tuple[bool, str]:
        """Whether it holds, and the fact that it looked at."""
        process = facts.process
        if self.key == "user":
            return process.uid in self.ids, str(process.uid)
        if self.key == "group":
            groups = {process.gid, *process.groups}
            return bool(groups & self.ids), " ".join(map(str, sorted(groups)))
        if self.variable:
            value = facts.environment.get(self.variable)
            held = value is not None and any(map_.fullmatch(value) for map_ in self.patterns)
            return held, "" if value is None else value
        text = TEXTS[self.key].read(facts)
        return bool(text) and any(each.fullmatch(text) for each in self.patterns), text


class Tested(msgspec.Struct, frozen=True):
    """What a condition came to, for people; ``excluded``: it is one of ``not``."""

    key: str
    wanted: tuple[str, ...]
    found: str
    holds: bool
    excluded: bool = False

    def __str__(self) -> str:
        wanted = " or ".join(self.wanted)
        verb = "fits" if self.holds else "does not fit"
        where = "not." if self.excluded else ""
        found = self.found or "nothing"
        if len(found) > _SHOWN:
            found = f"{found[:_SHOWN]}… ({len(found)} letters)"
        return f"{where}{self.key}: {found} {verb} {wanted}"


class Match(msgspec.Struct, frozen=True):
    """All conditions must hold, and none of the excluded matches."""

    conditions: tuple[Condition, ...]
    exclude: tuple[Match, ...] = ()

    def holds(self, facts: ProcessFacts) -> bool:
        """Whether the process matches."""
        return all(each.test(facts)[0] for each in self.conditions) and not any(
            each.holds(facts) for each in self.exclude
        )

    def explain(self, facts: ProcessFacts) -> Iterator[Tested]:
        """What each condition came to: up to the first that decides, as in ``holds``."""
        for condition in self.conditions:
            held, found = condition.test(facts)
            yield Tested(condition.name, condition.written, found, held)
            if not held:
                return
        for match in self.exclude:
            for tested in match.explain(facts):
                yield Tested(tested.key, tested.wanted, tested.found, tested.holds, True)
            if match.holds(facts):
                return
