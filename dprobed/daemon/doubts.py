"""Why a probe of a program that is in a process will perhaps never fire, though nothing failed.

A probe of a module that is not mapped waits for it, for ever in a static program, or where the name
is misspelt. And one in a function that another module defines, too, waits for calls which all go
there: the words through which modules call it (their procedure linkage tables) say where.

Nothing is stopped for that: the list of mappings is read as it is, and files and these words by the
resolver of the user, because a page of either may not come. What cannot be found out is no doubt.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from dprobed.daemon.checking import MOST_BYTES, may_read
from dprobed.daemon.child_process import User
from dprobed.daemon.resolver_process import Resolvers
from dprobed.daemon.target import InsertedProgram
from dprobed.proc import maps, procfs
from dprobed.program.model import no_pattern
from dprobed.resolver.addresses import data_address_of
from dprobed.resolver.errors import LocationError
from dprobed.resolver.files import KnownFiles, Steps, answer_of
from dprobed.resolver.modules import Identity
from dprobed.wire import messages
from dprobed.wire import resolver as wire

#: Seconds for all that is asked for one request; programs, modules and functions of a process that
#: are looked at for it.
_SECONDS: Final = 2.0
_MOST: Final = 32
_MODULES: Final = 16
_FUNCTIONS: Final = 64
#: Words of a module that are looked at for one function.
_SLOTS: Final = 64
#: Names of modules, and their letters, that are compared with one that is mapped nowhere.
_NAMES: Final = 256
_LETTERS: Final = 64
#: From 0 (nothing in common) to 1 (the same): names that are likely to be meant.
_SIMILAR: Final = 0.75
_WORD: Final = 8
#: States of a probe that is in its place, or waits for it.
_IN_PLACE: Final = "active"
_WAITS: Final = "pending"

T = TypeVar("T")


class Doubts:
    """Finds them; one for a daemon."""

    def __init__(self, resolvers: Resolvers) -> None:
        self._resolvers: Final = resolvers
        self._files: Final = KnownFiles()

    async def infos(self, programs: Sequence[InsertedProgram]) -> list[messages.ProbeInfo]:
        """The probes of programs, with what is doubtful about those that never fired."""
        asked: dict[int, list[InsertedProgram]] = {}
        for program in programs:
            doubtful = any(
                not program.has_fired(info) and info.state in (_IN_PLACE, _WAITS)
                for info in program.probe_infos()
            )
            if doubtful and program.is_settled and len(asked) < _MOST:
                asked.setdefault(program.target.pid, []).append(program)
        doubts: dict[tuple[int, int, int], str] = {}
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_SECONDS):
                for pid, inside in asked.items():
                    doubts |= await self._of_process(pid, inside)
                    # Its mappings were read here: others have their turn before the next one's.
                    await asyncio.sleep(0)
        # As they are now: what happened meanwhile has been reported already.
        found = [(each, info) for each in programs for info in each.probe_infos()]
        return [
            info
            if each.has_fired(info) or not (text := doubts.get((info.pid, info.number, info.probe)))
            else msgspec.structs.replace(info, doubt=text)
            for each, info in found
        ]

    async def _of_process(
        self, pid: int, programs: Iterable[InsertedProgram]
    ) -> dict[tuple[int, int, int], str]:
        readable = [each for each in programs if may_read(pid, (each.uid, each.gid))]
        if not readable:
            return {}
        try:
            process = _Process(pid, readable[0].target.owner, maps.modules(pid, most=MOST_BYTES))
        except maps.MapsError:
            return {}
        try:
            return await self._of_programs(process, readable)
        finally:
            process.close()

    async def _of_programs(
        self, process: _Process, programs: Iterable[InsertedProgram]
    ) -> dict[tuple[int, int, int], str]:
        found: dict[tuple[int, int, int], str] = {}
        for program in programs:
            user = program.uid, program.gid
            for info in program.probe_infos():
                text = ""
                if info.state == _WAITS:
                    text = await self._unmapped(process, user, program.program.header.name)
                elif info.state == _IN_PLACE and not program.has_fired(info):
                    spec = program.probes[info.probe].function
                    if spec:
                        text = await self._called_elsewhere(process, user, info.module, spec)
                if text:
                    found[process.pid, info.number, info.probe] = text
        return found

    # -- a module that is not mapped ---------------------------------------------------------------

    async def _unmapped(self, process: _Process, user: User, name: str) -> str:
        """What to say of a module that no mapped file is known to be."""
        if process.maps(name):
            return ""  # It has been mapped since the tracer said that it waits.
        known = process.modules[0] if process.modules else None
        static = False
        if known is not None and len(process.modules) == 1:
            file = await self._described(process, known, user)
            static = file is not None and file.facts.kind == "static"
        if static and known is not None:
            base = Path(known.path).name
            return (
                f"{base} is a static program, which maps no other module: this never fires in it; "
                f"where the function is the program's own, write name = {base}"
            )
        near = await process.near(name)
        if near:
            names = " and ".join(near)
            return f"no module `{name}` is mapped, but {names}: write name = {near[0]}"
        return f"no module `{name}` is mapped; this fires when one is{no_pattern(name)}"

    # -- a function that is called elsewhere -------------------------------------------------------

    async def _called_elsewhere(
        self, process: _Process, user: User, module: str, symbol: str
    ) -> str:
        """The same as ``_bound_elsewhere``, looked for once for all probes of a function."""
        asked = user, module, symbol
        if asked not in process.said:
            if len(process.said) == _FUNCTIONS:
                return ""
            process.said[asked] = await self._bound_elsewhere(process, user, module, symbol)
            # What is known already is answered without waiting: others have their turn here.
            await asyncio.sleep(0)
        return process.said[asked]

    async def _bound_elsewhere(
        self, process: _Process, user: User, module: str, symbol: str
    ) -> str:
        """What to say where a function's callers call that of another module."""
        for each in process.modules[:_MODULES]:
            file = await self._described(process, each, user)
            if file is None:
                continue
            slots = [
                address
                for vaddr in await self._slots(process, file, user, symbol)
                for address in data_address_of(each, file.facts, vaddr)
            ]
            for word in await self._words(process, each, user, slots):
                called = process.holder(word)
                # A word that was not used yet leads back into its own module.
                if called is None or called == each.path:
                    continue
                if called == module:
                    return ""
                base = Path(called).name
                return (
                    f"`{symbol}` is {base}'s: {Path(each.path).name} calls that, not the one "
                    f"in {Path(module).name}; write name = {base}"
                )
        return ""

    async def _words(
        self, process: _Process, module: maps.Module, user: User, addresses: Iterable[int]
    ) -> list[int]:
        """The words of a module at these addresses.

        Where they are says a file that anybody may have made: what is not the module's own, as the
        process maps it, is not read.
        """
        inside = [each for each in addresses if _is_in(module, each)][:_SLOTS]
        # Whoever may ask is looked at when its memory is open: it may execute another program.
        if not inside or not (process.opens_memory() and may_read(process.pid, user)):
            return []
        steps = self._files.words(process.pid, process.memory, inside)
        try:
            found = await self._run(process, user, steps)
        except LocationError:
            return []
        return [word for word in found if word is not None]

    async def _described(
        self, process: _Process, module: maps.Module, user: User
    ) -> _Described | None:
        """A module's file, opened once for a request; none where it cannot be read."""
        asked = user, (module.path, module.key)
        if asked not in process.files:
            try:
                facts, identity = await self._run(process, user, self._files.describe(module))
                process.files[asked] = _Described(module, facts, identity)
            except LocationError:
                process.files[asked] = None
        return process.files[asked]

    async def _slots(
        self, process: _Process, file: _Described, user: User, symbol: str
    ) -> tuple[int, ...]:
        question = wire.ImportSlots(file.module.path, "", symbol, "")
        try:
            steps = self._files.ask(file.module, file.identity, file.facts, question)
            return answer_of(await self._run(process, user, steps), wire.Slots).vaddrs
        except LocationError:
            return ()

    async def _run(self, process: _Process, user: User, steps: Steps[T]) -> T:
        return await self._resolvers.run(user, process.owner, steps)


class _Described(msgspec.Struct, frozen=True):
    """A mapped module and its file."""

    module: maps.Module
    facts: wire.FileFacts
    identity: Identity


def _is_in(module: maps.Module, address: int) -> bool:
    """Whether a module has a word at an address."""
    return any(
        mapping.perms[0] == "r" and mapping.start <= address <= mapping.end - _WORD
        for mapping in module.mappings
    )


class _Process:
    """What a process maps, its program first."""

    def __init__(self, pid: int, owner: int, modules: Sequence[maps.Module]) -> None:
        """``owner``: whose process it is, as its tracer has it."""
        self.pid: Final = pid
        self.owner: Final = owner
        #: A descriptor of its memory, which is never read here; -1: there is none.
        self.memory = -1
        program = ""
        with contextlib.suppress(OSError):
            program = str(Path(f"/proc/{pid}/exe").readlink())
        self.modules: Final = sorted(modules, key=lambda each: each.path != program)
        #: What was found out for this request, by the user for whom: files, and of functions.
        self.files: Final[dict[tuple[User, object], _Described | None]] = {}
        self.said: Final[dict[tuple[User, str, str], str]] = {}

    def opens_memory(self) -> bool:
        """Open its memory, unless it is; whether that is done, and of this very process."""
        if self.memory < 0:
            with contextlib.suppress(OSError):
                live = procfs.live_thread(self.pid)
                self.memory = os.open(f"/proc/{live}/mem", os.O_RDONLY | os.O_CLOEXEC)
        born = self.modules[0].born if self.modules else None
        return self.memory >= 0 and procfs.start_time(self.pid) == born

    def close(self) -> None:
        """Close what is open: the request is answered."""
        if self.memory >= 0:
            os.close(self.memory)
        self.memory = -1

    def maps(self, name: str) -> bool:
        """Whether a module of that name is mapped."""
        return any(name in (each.path, Path(each.path).name) for each in self.modules)

    async def near(self, name: str) -> list[str]:
        """Mapped modules of which the name may be meant, at most three."""
        base = name.rpartition("/")[2]
        paths = {Path(each.path).name: each.path for each in self.modules}
        if base in paths and "/" in name:
            return [paths[base]]
        stem = base.partition(".")[0]
        same = [each for each in paths if stem and each.partition(".")[0] in (stem, f"lib{stem}")]
        return same[:3] or await self._similar(base, list(paths)[:_NAMES])

    @staticmethod
    async def _similar(wanted: str, names: Iterable[str]) -> list[str]:
        from difflib import SequenceMatcher  # only where a name is wrong

        matcher = SequenceMatcher(b=wanted[:_LETTERS])
        found: list[tuple[float, str]] = []
        for name in names:
            matcher.set_seq1(name[:_LETTERS])
            # Bounds first, which take less time.
            if (
                matcher.real_quick_ratio() >= _SIMILAR
                and matcher.quick_ratio() >= _SIMILAR
                and (ratio := matcher.ratio()) >= _SIMILAR
            ):
                found.append((ratio, name))
            # Names are what anybody calls a file: others have their turn after each.
            await asyncio.sleep(0)
        found.sort(key=lambda each: -each[0])
        return [name for _, name in found[:3]]

    def holder(self, address: int) -> str | None:
        """The path of the module into whose code an address leads."""
        return next(
            (
                module.path
                for module in self.modules
                for mapping in module.mappings
                if mapping.executable and mapping.start <= address < mapping.end
            ),
            None,
        )
