"""Where programs for processes go that the kernel is to place (``--engine kernel``): in a file, for
every process that maps it.

A breakpoint that is not at the beginning of an instruction would be the end of all of them. So the
file is read here again, by the resolver of the user who asks, whatever the client has found.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from typing import Final

from dprobed.daemon.client import Client, Refusal
from dprobed.daemon.resolver_process import Resolvers
from dprobed.printable import located, printable
from dprobed.proc import files, mounts
from dprobed.program.model import ProbeDefinition, Program
from dprobed.program.parts import needs_of
from dprobed.resolver.errors import LocationError
from dprobed.resolver.files import Ask, Steps, answer_of
from dprobed.resolver.modules import open_path
from dprobed.resolver.places import check_boundary, check_needs
from dprobed.wire import messages, protocol
from dprobed.wire import resolver as wire

#: An answer to the question for a place, or why there is none.
_Answer = wire.Places | wire.Refused


class KernelFiles:
    """Finds the places of programs in files."""

    def __init__(self, resolvers: Resolvers) -> None:
        self._resolvers: Final = resolvers

    async def find(
        self,
        client: Client,
        request: messages.InsertKernel,
        programs: Sequence[tuple[messages.Upload, Program]],
    ) -> list[protocol.FilePlaces | None]:
        """For each program its file and places; None for one that goes into the kernel itself.
        Raises Refusal."""
        paths = request.files or [""] * len(programs)
        if len(paths) != len(programs):
            raise Refusal("`files` has a path, or an empty text, for each program")
        found: list[protocol.FilePlaces | None] = []
        for path, (upload, program) in zip(paths, programs, strict=True):
            if bool(path) == program.header.kernel or (path and not path.startswith("/")):
                what = "is in no file" if program.header.kernel else "needs the path of its file"
                raise Refusal(
                    f"{upload.label}: a program with modtype {program.header.modtype} {what}"
                )
            try:
                found.append(await self._find(client, request, path, program) if path else None)
            except _Fault as fault:
                raise Refusal(f"{upload.label}: {fault}") from None
            except LocationError as error:
                raise Refusal(f"{upload.label}: {error}") from None
        return found

    async def _find(
        self, client: Client, request: messages.InsertKernel, path: str, program: Program
    ) -> protocol.FilePlaces:
        descriptor = open_path(path)
        try:
            identity = files.facts(descriptor)
            if not mounts.is_local(identity.device):
                # The kernel would wait for it, and everybody who asks for its probes.
                raise _Fault(
                    f"{printable(path)}: its file system may not answer: not by the kernel"
                )
            facts = os.fstat(descriptor)
            if not stat.S_ISREG(facts.st_mode):
                raise _Fault(f"{printable(path)} is no regular file")
            specs = [_spec(probe) for probe in program.probes]
            steps = _places(path, descriptor, specs)
            user = client.uid, client.gid
            answers = await self._resolvers.run(user, facts.st_uid, steps)
        finally:
            os.close(descriptor)
        offsets = []
        for probe, answer in zip(program.probes, answers, strict=True):
            try:
                opcode = probe.opcode if request.check_opcode else None
                offsets.append(_offset(program, probe, answer_of(answer, wire.Places), opcode))
            except LocationError as error:
                place = program.probe_place(probe)
                raise _Fault(located(str(place or ""), str(error))) from None
        return protocol.FilePlaces(path, identity, offsets)


class _Fault(Exception):
    """Why a program has no places in its file; one line."""


def _spec(probe: ProbeDefinition) -> str:
    """What to ask for a probe's place; raises LocationError."""
    if probe.watchpoint is not None:
        raise LocationError("a watchpoint is of one process: leave out --engine kernel")
    if probe.offset is None and (probe.address or "")[:1].isdigit():
        raise LocationError(
            f"{probe.address}: an address is of one process: write the place as `offset`"
        )
    return probe.offset or probe.address or ""


def _places(path: str, descriptor: int, specs: Sequence[str]) -> Steps[list[_Answer]]:
    """The answer for each place."""
    described = yield Ask(wire.Describe(path, ""), descriptor)
    facts = answer_of(described, wire.FileFacts)
    answers: list[_Answer] = []
    for spec in specs:
        answer = yield Ask(wire.Resolve(path, "", spec), descriptor, facts)
        assert isinstance(answer, _Answer)  # ``wire.check`` has seen it
        answers.append(answer)
    return answers


def _offset(
    program: Program, probe: ProbeDefinition, found: wire.Places, opcode: bytes | None
) -> int:
    """Where in its file the one place of a probe is; raises LocationError."""
    if len(found.places) != 1:
        names = tuple(place.name for place in found.places)
        message = f"it is at {len(names)} places, and the kernel places a probe at one"
        raise LocationError(message, "name one of them", names)
    (place,) = found.places
    if place.kind != "code":
        what = "an IFUNC, of which a process has chosen one" if place.kind == "ifunc" else "data"
        raise LocationError(f"{place.name} is {what}", "name the function that is executed")
    if place.semaphore:
        raise LocationError(
            f"{place.name} has a semaphore, which nobody sets for the kernel",
            "leave out --engine kernel",
        )
    needs = needs_of(program, probe)
    if probe.is_static and needs.arguments:
        raise LocationError(
            f"the arguments of {place.name} are not known to the kernel",
            "push a register, or leave out --engine kernel",
        )
    check_boundary(place, asserted=probe.opcode is not None)
    check_needs(place, needs)
    if opcode and place.code[: len(opcode)] != opcode:
        there = place.code[: len(opcode)].hex(" ")
        raise LocationError(f"at {place.name} is {there}, and not the `opcode` {opcode.hex(' ')}")
    return place.file_offset
