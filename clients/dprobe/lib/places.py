"""Whether the places of programs are there, before any process is touched.

Looked through are the files that a process has mapped, or that a command surely will. A probe for
another module is not judged: that may come by ``dlopen`` or ``exec``; until then it is pending.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from dprobe.lib import loader
from dprobe.lib.errors import UserError
from dprobe.lib.programs import Loaded
from dprobe.lib.source import place_of
from dprobed.binary.errors import LocationError
from dprobed.binary.file import Binary
from dprobed.binary.places import Place, resolve, resolve_data
from dprobed.proc.maps import MapsError, Module, modules
from dprobed.program.model import Diagnostic, ProbeDefinition, Program
from dprobed.resolver.image import build_id_of_image
from dprobed.resolver.modules import disproof, matches, open_module

#: Where the dynamic loader of Debian looks by itself, besides its cache (ld.so(8)).
_LIBRARY_FOLDERS = (
    "/lib/x86_64-linux-gnu",
    "/usr/lib/x86_64-linux-gnu",
    "/usr/local/lib",
    "/lib64",
    "/usr/lib64",
    "/lib",
    "/usr/lib",
)
#: How ``resolve`` says that its candidates are names like the unknown one.
_SIMILAR: Final = "the candidates have similar names"


@dataclass(frozen=True)
class File:
    """One mapped file. ``elf``: None where it cannot be read, which says nothing of its places."""

    module: Module
    elf: Binary | None

    def named(self, name: str) -> bool:
        """Whether a program's ``name`` means this file."""
        return matches(self.module, self.elf, name)


@dataclass(frozen=True)
class Findings:
    """What was found of one program: probes that have a place in a file, probes whose module is in
    no file known (or in one that cannot be read), and the faults of the others."""

    placed: int
    pending: int
    faults: tuple[Diagnostic, ...]


def refuse_missing(programs: Sequence[Loaded], files: Sequence[File]) -> None:
    """Raise UserError with every place, of all programs, that is in none of the files."""
    faults = [fault for each in programs for fault in find(each.program, files, each.path).faults]
    if faults:
        raise UserError("\n".join(map(str, faults)))


class Files(NamedTuple):
    """Files that a process maps; ``complete``: it is known of all that it maps at its start."""

    files: list[File]
    complete: bool


def files_of_command(path: str, environment: Mapping[bytes, bytes]) -> Files:
    """The files that are surely mapped when the command ``path`` is executed."""
    program = loader.program_of(path)
    if program is None:
        return Files([], False)
    mapped = loader.files_of(program, environment)
    us = os.getpid()
    files = [File(Module(us, None, elf.path, ("", 0), ()), elf) for elf in mapped.files]
    return Files(files, mapped.complete)


def files_of_process(pid: int) -> Files:
    """The files of which a process maps code; raises UserError."""
    try:
        return Files([File(module, _opened(module)) for module in modules(pid)], True)
    except MapsError as error:
        raise UserError(str(error)) from None


def _opened(module: Module) -> Binary | None:
    """The mapped file; None where it cannot be opened, or another may have its path now."""
    try:
        opened = open_module(module)
        file = Binary(opened.descriptor, module.path, opened.root)
        if opened.sure or disproof(module, opened.identity, file.build_id, _inside(module)) is None:
            return file
    except LocationError:
        pass
    return None


def _inside(module: Module) -> str | None:
    """The build-id that a process has in its memory; None where that cannot be read."""
    start = next((each.start for each in module.mappings if each.offset == 0), None)
    if start is None:
        return None
    try:
        with open(f"/proc/{module.pid}/mem", "rb", buffering=0) as memory:
            return build_id_of_image(
                lambda address, size: os.pread(memory.fileno(), size, address), start
            )
    except (OSError, OverflowError):
        return None


def find(program: Program, files: Sequence[File], source: str) -> Findings:
    """Look for the place of every probe; ``source``: the file that the program was read from."""
    if program.header.kernel:
        return Findings(0, len(program.probes), ())
    meant = [file for file in files if file.named(program.header.name)]
    placed = pending = 0
    faults = []
    for probe in program.probes:
        fault = _fault(probe, meant)
        if fault is not None:
            faults.append(_diagnostic(program, probe, fault, source))
        elif any(file.elf is not None for file in meant):
            placed += 1
        else:
            pending += 1
    return Findings(placed, pending, tuple(faults))


def _fault(probe: ProbeDefinition, files: Sequence[File]) -> LocationError | None:
    """Why a probe has a place in none of the files."""
    fault = None
    for file in files:
        if file.elf is None:
            return None
        try:
            for place in _places(file.elf, probe):
                _check_boundary(place, probe)
        except LocationError as error:
            fault = fault or error
        else:
            return None
    return fault


def _places(elf: Binary, probe: ProbeDefinition) -> Sequence[Place]:
    """The probe's places in a file; none for an address in memory, which is not the file's matter.

    Raises LocationError.
    """
    if probe.offset is not None:
        return resolve(elf, probe.offset)
    text = probe.address or ""
    if text[:1].isdigit():
        return ()
    return resolve(elf, text) if probe.watchpoint is None else (resolve_data(elf, text),)


def _check_boundary(place: Place, probe: ProbeDefinition) -> None:
    """As the tracer does: ``opcode`` vouches for an instruction where nothing else does.

    Raises LocationError.
    """
    asserted = probe.opcode is not None or probe.watchpoint is not None
    if place.kind == "code" and place.boundary == "unknown" and not asserted:
        raise LocationError(
            f"nothing tells whether an instruction begins at {place.name}",
            "give the expected bytes with 'opcode ='",
        )


def _diagnostic(
    program: Program, probe: ProbeDefinition, fault: LocationError, source: str
) -> Diagnostic:
    where = place_of(program, probe, source)
    hint, note = fault.hint, "\n".join(fault.candidates)
    if _SIMILAR in hint:
        names = ", ".join(f"`{name}`" for name in fault.candidates)
        hint, note = hint.replace(_SIMILAR, f"did you mean {names}?"), ""
    return Diagnostic(
        where.file,
        where.line,
        where.column,
        fault.message,
        hint,
        where.text,
        where.length,
        note,
    )


def find_module(name: str) -> str:
    """The file that a module's name stands for: a path, a command, or a library.

    Raises UserError.
    """
    if "/" in name:
        return name
    commands = os.environ.get("PATH", "/bin:/usr/bin").split(":")
    for path in _candidates(name, (*_LIBRARY_FOLDERS, *commands)):
        if path.is_file():
            return str(path)
    if Path(name).is_file():
        return name
    raise UserError(f"{name}: no such library or command here; give its path")


def _candidates(name: str, folders: Iterable[str]) -> Iterable[Path]:
    for folder in folders:
        if folder:
            yield Path(folder) / name
