"""Policy files into policies; docs/policies.md says what may be in them.

All files are read to their ends, and everything wrong with any of them is reported at once, the
programs that they name included: those are assembled, verified and kept as bytes here, so that what
is in force does not change with the files.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final, cast

from dprobed.policy.errors import PolicyError
from dprobed.policy.glob import GlobError, linked, refuse_vain, translate
from dprobed.policy.grants import gid_of, read_rights, uid_of
from dprobed.policy.links import real
from dprobed.policy.locate import KeyPath
from dprobed.policy.match import EXECUTABLES, KEYS, TEXTS, Condition, Match
from dprobed.policy.model import (
    DEFAULT,
    FOR_EVER,
    AutoInsertedProgram,
    AutoInsertion,
    Hold,
    Policy,
    Unguarded,
)
from dprobed.policy.rights import needs
from dprobed.policy.source import PolicyFile
from dprobed.policy.trust import read
from dprobed.printable import readable
from dprobed.proc.helper import SilentError
from dprobed.program.bytecode import encode
from dprobed.program.model import Diagnostic, Program, ProgramError
from dprobed.program.rpn.parser import load_file
from dprobed.wire.limits import Limits

_NAME: Final = re.compile(r"[A-Za-z0-9][\w.-]{0,63}", re.ASCII)
_POLICY: Final = (
    "name", "match", "rights", "apply", "budget", "stay", "follow_forks", "hold", "unguarded"
)  # fmt: skip
_LIMITS: Final = ("share", "hits_per_second")
_ACTIONS: Final = ("throttle", "remove")
_APPLY: Final = ("programs", "scripts", "for", "processes", *_LIMITS)
#: Further words for sets of rights.


def parse(paths: Iterable[Path], *, trust: int | None = None) -> tuple[Policy, ...]:
    """The policies of these files, in order; raises PolicyError with all that is wrong.

    ``trust``: the user whose daemon will do what they say, which then must not be what others
    could have written.
    """
    diagnostics: list[Diagnostic] = []
    found: list[Policy] = []
    names: dict[str, str] = {}
    for path in paths:
        reader = _PolicyReader(path, names, trust)
        found += reader.policies()
        diagnostics += sorted(
            reader.source.diagnostics, key=lambda found: (found.line, found.column)
        )
    if diagnostics:
        raise PolicyError(diagnostics)
    return tuple(found)


class _PolicyReader:
    """Reads one file. ``names``: of policies read so far, and where they are."""

    def __init__(self, path: Path, names: dict[str, str], trust: int | None) -> None:
        self.source = PolicyFile(path, trust)
        self._names = names
        self._trust = trust
        self._folder = path.parent

    def policies(self) -> list[Policy]:
        """All policies of the file."""
        source = self.source
        tables = source.table((), source.data, ("policy",)).get("policy", [])
        if not isinstance(tables, list):
            source.report_key(("policy",), "`policy` is a list of tables", "write [[policy]]")
            return []
        return [self._policy(("policy", number), each) for number, each in enumerate(tables)]

    def _policy(self, path: KeyPath, value: Any) -> Policy:
        source = self.source
        table = source.table(path, value, _POLICY)
        name = self._name(path, table)
        if "match" not in table:
            hint = 'a policy for every process: match.exe = "**"'
            source.report_key(path, "this policy has no `match`", hint)
            match = Match(())
        else:
            match = self._match((*path, "match"), table["match"])
        place = source.place(path)
        budget = (*path, "budget")
        own_action = source.table(budget, table.get("budget", {}), (*_LIMITS, "over"))
        over = own_action.pop("over", "throttle")
        remove = source.choice((*budget, "over"), over, _ACTIONS) == "remove"
        hold = source.choice((*path, "hold"), table.get("hold", "process"), ("thread", "process"))
        unguarded = source.choice(
            (*path, "unguarded"), table.get("unguarded", "allow"), ("allow", "refuse")
        )
        follow = source.of_type((*path, "follow_forks"), table.get("follow_forks", False), bool)
        return Policy(
            name=name,
            place=place,
            match=match,
            rights=read_rights(source, (*path, "rights"), table.get("rights", {}), own=True),
            auto_insertion=self._apply((*path, "apply"), table.get("apply"), name, place, remove),
            budget=self._limits(budget, own_action, remove),
            follow_forks=bool(follow),
            hold=cast(Hold, hold or "process"),
            unguarded=cast(Unguarded, unguarded or "allow"),
            stay=source.stay((*path, "stay"), table["stay"]) if "stay" in table else FOR_EVER,
        )

    def _name(self, path: KeyPath, table: dict[str, Any]) -> str:
        source = self.source
        if "name" not in table:
            source.report_key(path, "this policy has no `name`", 'write name = "something"')
            return ""
        at = (*path, "name")
        name = source.of_type(at, table["name"], str) or ""
        if name and not _NAME.fullmatch(name):
            source.report(
                at,
                f"`{name}` is not a valid name: use letters, digits, `_`, `.` and `-`, at most 64",
            )
        elif name == DEFAULT:
            source.report(at, f"`{DEFAULT}` names the default policy; choose another name")
        elif name in self._names:
            source.report(at, f"there is a policy {name} already, at {self._names[name]}")
        elif name:
            self._names[name] = source.place(path)
        return name

    # -- match -------------------------------------------------------------------------------------

    def _match(self, path: KeyPath, value: Any) -> Match:
        source = self.source
        conditions: list[Condition] = []
        exclude: list[Match] = []
        if value == {}:
            whole = 'for every process: match.exe = "**"'
            hint = whole if path[-1] == "match" else "leave it out, or say what is left out"
            source.report(path, "this match is empty", hint)
        for key, each in source.table(path, value, KEYS).items():
            at = (*path, key)
            if key == "not":
                exclude += self._not(at, each)
            elif key == "environment":
                conditions += self._environment(at, each)
            elif key == "user":
                conditions.append(self._ids(at, each, uid_of))
            elif key == "group":
                conditions.append(self._ids(at, each, gid_of))
            else:
                conditions.append(self._text(at, each, path_like=TEXTS[key].path))
        return Match(tuple(conditions), tuple(exclude))

    def _not(self, path: KeyPath, value: Any) -> list[Match]:
        if isinstance(value, list):
            if not value:
                self.source.report(path, "`not` is an empty list", "leave the key out, or fill it")
            return [self._match((*path, number), each) for number, each in enumerate(value)]
        return [self._match(path, value)]

    def _environment(self, path: KeyPath, value: Any) -> list[Condition]:
        names = value if isinstance(value, dict) else ()
        table = self.source.table(path, value, names)
        found = []
        for name, each in table.items():
            condition = self._text((*path, name), each, path_like=False, empty=True)
            found.append(
                Condition("environment", condition.written, condition.patterns, variable=name)
            )
        return found

    def _text(
        self, path: KeyPath, value: Any, *, path_like: bool, empty: bool = False
    ) -> Condition:
        written, patterns = [], []
        for at, pattern in self.source.strings(path, value):
            leads_to: dict[str, re.Pattern[str]] = {}
            try:
                patterns.append(
                    re.compile("") if empty and not pattern else translate(pattern, path=path_like)
                )
                if path_like:
                    refuse_vain(pattern)
                if path[-1] in EXECUTABLES:
                    leads_to = linked(pattern, self._real)
            except GlobError as error:
                self.source.report_within(at, error.at, str(error))
            patterns += leads_to.values()
            written.append(" → ".join([pattern, *leads_to]))
        return Condition(str(path[-1]), tuple(written), tuple(patterns))

    def _real(self, name: str) -> str:
        """Over links of those on whom who reads the policy relies: they widen whom it is about."""
        try:
            return real(name, os.geteuid() if self._trust is None else self._trust)
        except SilentError:
            # It may be a link, and the policy about what it leads to.
            raise GlobError(0, f"{name}: its file system does not answer") from None

    def _ids(self, path: KeyPath, value: Any, find: Callable[[str], int | str]) -> Condition:
        texts = self.source.strings(path, value)
        ids = [self._id(at, text, find) for at, text in texts]
        known = frozenset(each for each in ids if each is not None)
        return Condition(str(path[-1]), tuple(text for _, text in texts), ids=known)

    def _id(self, path: KeyPath, name: str, find: Callable[[str], int | str]) -> int | None:
        found = find(name)
        if isinstance(found, int):
            return found
        kind = "user" if find is uid_of else "group"
        self.source.report(path, f"there is no {kind} `{name}`", found)
        return None

    # -- apply, budget -----------------------------------------------------------------------------

    def _limits(self, path: KeyPath, table: dict[str, Any], remove: bool) -> Limits:
        source = self.source
        share = hits = None
        if "share" in table:
            share = source.share((*path, "share"), table["share"])
        if "hits_per_second" in table:
            hits = source.positive((*path, "hits_per_second"), table["hits_per_second"])
        return Limits(share, hits, remove)

    def _apply(
        self, path: KeyPath, value: Any, name: str, place: str, remove: bool
    ) -> AutoInsertion | None:
        if value is None:
            return None
        source = self.source
        table = source.table(path, value, _APPLY)
        if isinstance(value, dict) and not {"programs", "scripts"} & set(table):
            source.report_key(path, "`apply` without `programs` inserts nothing")
        seconds = processes = None
        if "for" in table:
            seconds = source.duration((*path, "for"), table["for"])
        if "processes" in table:
            processes = source.positive((*path, "processes"), table["processes"])
        programs: tuple[AutoInsertedProgram, ...] = ()
        if "programs" in table:
            programs = self._programs((*path, "programs"), table["programs"])
        if "scripts" in table:
            programs += self._scripts((*path, "scripts"), table["scripts"], name)
        return AutoInsertion(
            policy=name,
            place=place,
            programs=programs,
            seconds=seconds,
            processes=processes,
            limits=self._limits(path, table, remove),
        )

    def _programs(self, path: KeyPath, value: Any) -> tuple[AutoInsertedProgram, ...]:
        found: list[AutoInsertedProgram] = []
        for at, text in self.source.strings(path, value):
            file = self._folder / text
            programs = self._compiled(at, readable(file), partial(self._of_file, file))
            found += self._inserted(at, file, readable(file.stem)[:255], programs)
        return tuple(found)

    def _scripts(self, path: KeyPath, value: Any, name: str) -> tuple[AutoInsertedProgram, ...]:
        """Scripts that stand in the policy itself; their programs are called as that is."""
        # Where there is none, as for most, not imported.
        from dprobed.policy.scripts import script_programs

        found: list[AutoInsertedProgram] = []
        for at, text in self.source.strings(path, value):
            file = self._folder / "script"
            compiled = partial(script_programs, text, Path("script"), self._read)
            found += self._inserted(at, file, name, self._compiled(at, "this script", compiled))
        return tuple(found)

    def _read(self, path: Path, most: int) -> bytes:
        return read(self._folder / path, most, self._trust)

    def _of_file(self, path: Path) -> list[Program]:
        """The programs of a file; raises ProgramError."""
        if path.suffix == ".bt":
            from dprobed.policy.scripts import script_of_file

            return script_of_file(path, self._read)
        return [load_file(str(path), read=self._read)]

    def _compiled(
        self, at: KeyPath, what: str, compiled: Callable[[], list[Program]]
    ) -> list[Program]:
        try:
            return compiled()
        except ProgramError as error:
            self.source.report(at, f"{what} is refused", note=readable(str(error)))
            return []

    def _inserted(
        self, at: KeyPath, path: Path, label: str, programs: Iterable[Program]
    ) -> Iterator[AutoInsertedProgram]:
        for program in programs:
            if program.header.kernel:
                self.source.report(
                    at, f"{readable(path)} is for the kernel and cannot be inserted into a process"
                )
                continue
            yield AutoInsertedProgram(readable(path), label, encode(program), needs(program))
