"""What a snapshot shows: the functions of a thread's stack with their variables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from typing import Final

import msgspec

from dprobe.lib.debug_info import debug_information
from dprobe.lib.snapshot.core import CoreImage
from dprobe.lib.snapshot.frames import MORE, Memory, ThreadFrame, Unwinder
from dprobe.lib.snapshot.modules import MappedModules
from dprobed.binary.demangle import demangled
from dprobed.binary.errors import LocationError
from dprobed.binary.file import Binary
from dprobed.binary.source_places import SourcePlaces
from dprobed.binary.variables.information import DebugInformation
from dprobed.program.showing.nodes import (
    Shown,
    ShownList,
    ShownNothing,
    ShownPairs,
    ShownPointer,
    ShownStruct,
)
from dprobed.program.showing.values import Viewer
from dprobed.program.showing.variables import shown_variable
from dprobed.program.showing.viewing import ShowLimits
from dprobed.program.types import type_name
from dprobed.program.variables import SourceVariable, StoppedThread, VariableLocation, Visible

_REDACTED: Final = ShownNothing("redacted")
_NOT_YET: Final = VariableLocation("absent", reason="not set yet")


class TakenVariable(msgspec.Struct, frozen=True):
    """A variable; ``kind`` as in ``SourceVariable``, ``type`` its name."""

    name: str
    kind: str
    type: str
    value: Shown


class TakenFrame(msgspec.Struct, frozen=True):
    """A function on the stack. ``address``: of its code in the process; ``inlined``: into the next
    one. ``variables``: None where nothing is known of them."""

    function: str
    address: int
    file: str = ""
    line: int = 0
    module: str = ""
    inlined: bool = False
    variables: tuple[TakenVariable, ...] | None = None


class StackSnapshot(msgspec.Struct, frozen=True):
    """``end``: why there are no more frames."""

    tid: int
    frames: tuple[TakenFrame, ...]
    end: str


class Taker:
    """Takes snapshots: files are read once. ``redacted``: patterns of names."""

    def __init__(self, limits: ShowLimits, frames: int, redacted: Sequence[str]) -> None:
        self._limits: Final = limits
        self._frames: Final = frames
        self._redacted: Final = tuple(map(str.lower, redacted))
        self._known: dict[str, DebugInformation | None] = {}
        self._places: dict[str, SourcePlaces] = {}

    def of_core(self, path: str, modules: MappedModules) -> StackSnapshot:
        """What a core has; raises UserError."""
        core = CoreImage(path)
        try:

            def memory(address: int, size: int) -> bytes | None:
                found = core.read(address, size)
                return modules.read(address, size) if found is None else found

            unwinder = Unwinder(modules, memory)
            frames = [
                taken
                for frame in unwinder.frames(core.registers, self._frames)
                for taken in self._functions(frame, memory)
            ]
            # Several functions are in one frame, where some are inlined.
            end = MORE if len(frames) > self._frames else unwinder.end
            return StackSnapshot(core.tid, tuple(frames[: self._frames]), end)
        finally:
            core.close()

    def _functions(self, frame: ThreadFrame, memory: Memory) -> Iterator[TakenFrame]:
        """The function of a frame, before it those that are inlined there."""
        part = frame.part
        if part is None:
            yield TakenFrame("", frame.address)
            return
        visible = self._visible(part.elf, frame)
        places = self._source(part.elf).at(frame.vaddr)
        if visible is None or not visible.frames:
            last = places[-1] if places else None
            name = _symbol(part.elf, frame.vaddr)
            file, line = (last.file, last.line) if last is not None else ("", 0)
            yield TakenFrame(name, frame.address, file, line, part.elf.path)
            return
        own = (places[0].file, places[0].line) if places else ("", 0)
        thread = StoppedThread(frame.registers.get, memory, part.bias)
        for number, each in enumerate(visible.frames):
            file, line = (each.file, each.line) if each.line else own
            yield TakenFrame(
                each.name,
                frame.address,
                file,
                line,
                part.elf.path,
                each.inlined,
                tuple(self._variables(visible, number, memory, thread)),
            )

    def _variables(
        self, visible: Visible, number: int, memory: Memory, thread: StoppedThread
    ) -> Iterator[TakenVariable]:
        seen: set[str] = set()
        for one in visible.variables:
            # Of several with one name the innermost is meant; what the compiler made says nothing.
            made = one.artificial and one.name != "this"
            if one.frame != number or made or one.name in seen:
                continue
            seen.add(one.name)
            yield self._variable(visible, one, memory, thread)

    def _variable(
        self, visible: Visible, one: SourceVariable, memory: Memory, thread: StoppedThread
    ) -> TakenVariable:
        shown: Shown = _REDACTED
        if not self._is_redacted(one.name):
            viewer = Viewer(visible.types, memory, self._limits)
            shown = self._cleaned(shown_variable(viewer, one.type, one.location, thread))
        return TakenVariable(one.name, one.kind, type_name(visible.types, one.type), shown)

    def _is_redacted(self, name: str) -> bool:
        return any(fnmatchcase(name.lower(), each) for each in self._redacted)

    def _cleaned(self, shown: Shown) -> Shown:
        """The value without members that are not to be shown."""
        match shown:
            case ShownStruct(members=members):
                kept = tuple(
                    (name, _REDACTED if self._is_redacted(name) else self._cleaned(each))
                    for name, each in members
                )
                return msgspec.structs.replace(shown, members=kept)
            case ShownPointer(to=to) if to is not None:
                return msgspec.structs.replace(shown, to=self._cleaned(to))
            case ShownList(elements=elements):
                return msgspec.structs.replace(shown, elements=tuple(map(self._cleaned, elements)))
            case ShownPairs(pairs=pairs):
                cleaned = tuple((self._cleaned(key), self._cleaned(each)) for key, each in pairs)
                return msgspec.structs.replace(shown, pairs=cleaned)
        return shown

    def _visible(self, elf: Binary, frame: ThreadFrame) -> Visible | None:
        if elf.path not in self._known:
            try:
                self._known[elf.path] = debug_information(elf)
            except LocationError:
                self._known[elf.path] = None
        known = self._known[elf.path]
        if known is None:
            return None
        try:
            visible = known.visible(frame.vaddr, outside=False)
            return _entered(known, visible) if frame.exact else visible
        except LocationError:
            return None

    def _source(self, elf: Binary) -> SourcePlaces:
        if elf.path not in self._places:
            self._places[elf.path] = SourcePlaces(elf)
        return self._places[elf.path]


def _entered(known: DebugInformation, visible: Visible) -> Visible:
    """What is visible where a function is entered: its arguments are where they were passed, and
    its variables not set yet, whatever debug information says of its first instructions."""
    entries = [
        place
        for function in known.function_at(visible.address).functions
        for place in function.places
        if place.address == visible.address and not place.inlined
    ]
    if not entries:
        return visible
    passed = {each.name: each.location for place in entries for each in place.parameters}
    own = len(visible.frames) - 1
    return msgspec.structs.replace(
        visible,
        variables=tuple(
            msgspec.structs.replace(each, location=passed.get(each.name, _NOT_YET))
            if each.frame == own and each.kind in ("parameter", "local")
            else each
            for each in visible.variables
        ),
    )


def _symbol(elf: Binary, vaddr: int) -> str:
    try:
        symbol = elf.symbols.code_at(vaddr)
    except LocationError:
        return ""
    return demangled(symbol.name) if symbol is not None else ""
