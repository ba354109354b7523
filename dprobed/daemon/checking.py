"""Whether programs can be put into a process, before that is touched.

Refused is what ``insert`` would refuse. Besides, the place of each probe is looked for in the files
that the process maps, so that one which can be in none of them is told while nothing has happened
yet. A tracer decides anew when it puts them in, so whatever cannot be found out here is left to it:
a module that is not mapped (its probes wait for it), files that cannot be read, a resolver that
does not answer, and a process of which the tracer's user could not read as much.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Final, TypeVar

from dprobed.daemon.attaching import Attaching
from dprobed.daemon.child_process import User
from dprobed.daemon.client import Client
from dprobed.daemon.gate import Admission, Gate
from dprobed.daemon.programs import Programs
from dprobed.daemon.quota import Quota
from dprobed.daemon.resolver_process import Resolvers
from dprobed.proc import maps, procfs, refusals
from dprobed.program.model import ProbeDefinition, Program
from dprobed.program.parts import Needs, needs_of
from dprobed.resolver.caution import PATIENCE
from dprobed.resolver.errors import LocationError
from dprobed.resolver.files import KnownFiles, Steps, answer_of
from dprobed.resolver.modules import Identity, matches
from dprobed.resolver.places import check_boundary, check_needs, check_watched, code_spec
from dprobed.wire import messages
from dprobed.wire import resolver as wire

#: Mapped files, and bytes of their list, of a process that is looked at: it is read in the loop.
_MOST_FILES: Final = 1024
MOST_BYTES: Final = 2 << 20

T = TypeVar("T")


class Checking:
    """Answers ``check``; what cannot be put in raises Refusal."""

    def __init__(
        self,
        gate: Gate,
        quota: Quota,
        programs: Programs,
        attaching: Attaching,
        resolvers: Resolvers,
    ) -> None:
        self._gate: Final = gate
        self._quota: Final = quota
        self._programs: Final = programs
        self._attaching: Final = attaching
        self._resolvers: Final = resolvers

    async def check(self, client: Client, request: messages.Check) -> messages.Checked:
        """Which probes of the programs have a place nowhere in the process."""
        pid = request.pid
        self._attaching.check_not_ours(client, pid)
        self._gate.admit(client, pid)
        uploads = await self._programs.decode_all(request.programs)
        programs = [program for _, program in uploads]
        for upload, program in uploads:
            self._gate.allow(client, pid, upload.label, program)
            await asyncio.sleep(0)
        with self._quota.room_for(client, programs):
            pass
        missing: list[messages.MissingPlace] = []
        if request.places:
            admission = self._gate.admit(client, pid)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PATIENCE):
                    missing = await self._missing(admission, programs)
        return messages.Checked(id=request.id, missing=missing)

    async def _missing(
        self, admission: Admission, programs: Sequence[Program]
    ) -> list[messages.MissingPlace]:
        process = admission.decision.process
        pid, owner = process.pid, process.uids[0]
        user = admission.uid, admission.gid
        if not may_read(pid, user):
            return []
        try:
            modules = maps.modules(pid, most=MOST_BYTES)
        except maps.MapsError:
            return []
        if len(modules) > _MOST_FILES:
            return []
        mapped = _Mapped(self._resolvers, user, owner, modules)
        missing = []
        for index, program in enumerate(programs):
            for probe in program.probes:
                fault = await mapped.fault(program, probe)
                if fault is not None:
                    missing.append(_missing_place(index, program, probe, fault))
            await asyncio.sleep(0)
        return missing


def may_read(pid: int, user: User) -> bool:
    """Whether the kernel surely lets a user look into a process (``__ptrace_may_access``).

    Who cannot trace it is not to hear from us which symbols the files have that it maps.
    """
    uid, gid = user
    if uid == 0:
        return True
    found = procfs.status(pid)
    return (
        found is not None
        and set(found.uids[:3]) == {uid}
        and set(found.gids[:3]) == {gid}
        and not found.capabilities
        and refusals.dumpable(pid, uid)
    )


def _missing_place(
    index: int, program: Program, probe: ProbeDefinition, fault: LocationError
) -> messages.MissingPlace:
    source = program.probe_place(probe)
    return messages.MissingPlace(
        program=index,
        probe=probe.index,
        source="" if source is None else str(source),
        message=fault.message,
        hint=fault.hint,
        candidates=list(fault.candidates),
    )


class _Mapped:
    """The files of which a process maps code, read by the resolver of ``user``."""

    def __init__(
        self, resolvers: Resolvers, user: User, owner: int, modules: Sequence[maps.Module]
    ) -> None:
        """``owner``: whose process it is."""
        self._resolvers: Final = resolvers
        self._user: Final = user
        self._owner: Final = owner
        self._modules: Final = modules
        self._files: Final = KnownFiles()
        #: What a module is; None: that cannot be found out.
        self._known: Final[dict[maps.Module, tuple[wire.FileFacts, Identity] | None]] = {}
        #: The modules that a program's ``name`` means: by path, and by what is in the file.
        self._by_path: Final[dict[str, list[maps.Module]]] = {}
        self._by_content: Final[dict[str, list[maps.Module]]] = {}

    async def fault(self, program: Program, probe: ProbeDefinition) -> LocationError | None:
        """Why a probe has a place in none of the files that its program's ``name`` means; None: it
        has one, or may get one."""
        fault = None
        needs = needs_of(program, probe)
        for named in (self._named_by_path, self._named_by_content):
            for module in await named(program.header.name):
                known = await self._describe(module)
                if known is None:
                    return None
                found = await self._look(module, known, probe, needs)
                if found is None:
                    return None
                fault = fault or found
        return fault

    async def _named_by_path(self, name: str) -> list[maps.Module]:
        found = self._by_path.get(name)
        if found is None:
            found = [module for module in self._modules if matches(module, None, name)]
            self._by_path[name] = found
        return found

    async def _named_by_content(self, name: str) -> list[maps.Module]:
        """By soname or build-id: every file has to be read for that."""
        found = self._by_content.get(name)
        if found is None:
            found = self._by_content[name] = []
            by_path = self._by_path[name]
            for module in self._modules if "/" not in name else ():
                known = await self._describe(module) if module not in by_path else None
                if known is not None and matches(module, known[0], name):
                    found.append(module)
        return found

    async def _describe(self, module: maps.Module) -> tuple[wire.FileFacts, Identity] | None:
        if module not in self._known:
            try:
                self._known[module] = await self._run(self._files.describe(module))
            except LocationError:
                self._known[module] = None
        return self._known[module]

    async def _look(
        self,
        module: maps.Module,
        known: tuple[wire.FileFacts, Identity],
        probe: ProbeDefinition,
        needs: Needs,
    ) -> LocationError | None:
        """Why a probe has no place in a file; None: it has, or nobody can tell."""
        facts, identity = known
        asserted = probe.opcode is not None or probe.watchpoint is not None
        try:
            question = _question(module, probe)
            if question is None:
                return None
            try:
                answer = await self._run(self._files.ask(module, identity, facts, question))
            except LocationError:
                # One by which a resolver died is not asked about for every other probe.
                self._known[module] = None
                return None
            for place in answer_of(answer, wire.Places).places:
                if probe.watchpoint is not None:
                    check_watched(place, probe.address or "", probe.watchpoint)
                elif place.kind == "code":
                    check_boundary(place, asserted=asserted)
                    check_needs(place, needs)
        except LocationError as error:
            return error
        return None

    async def _run(self, steps: Steps[T]) -> T:
        return await self._resolvers.run(self._user, self._owner, steps)


def _question(module: maps.Module, probe: ProbeDefinition) -> wire.Question | None:
    """What to ask of a file; None of a watchpoint at an address in memory.

    Raises LocationError.
    """
    if probe.offset is not None:
        return wire.Resolve(module.path, "", probe.offset)
    address = probe.address or ""
    if probe.watchpoint is None:
        return wire.Resolve(module.path, "", code_spec(module, address))
    return None if address[:1].isdigit() else wire.ResolveData(module.path, "", address)
