"""Functions, types and variables of modules for the compiler of scripts: what is not known is None.

An answer that took a while is kept in the cache of this user, for as long as the files that it is
from are unchanged.
"""

from __future__ import annotations

import time
from hashlib import blake2b
from typing import TYPE_CHECKING, Final, TypeVar

import msgspec

from dprobe.lib.debug_info import debug_information
from dprobed.binary.errors import LocationError
from dprobed.binary.places import resolve
from dprobed.program.types import Types
from dprobed.program.variables import Functions, NamedType, SourceFunction, SourceVariable
from dprobed.resolver import cache

if TYPE_CHECKING:
    from collections.abc import Callable

    from dprobed.binary.file import Binary
    from dprobed.binary.variables.information import DebugInformation

#: An answer that took less (seconds) is found again sooner than a file of the cache is checked.
_WORTHWHILE: Final = 0.05
#: Of the form of answers, and of how they are found.
_VERSION: Final = 1

T = TypeVar("T", Functions, NamedType)


class DebugTypes:
    """What the debug information of modules says; each is opened when it is first asked about."""

    def __init__(self) -> None:
        self._known: dict[str, DebugInformation | None] = {}
        self._functions: dict[tuple[str, str], Functions | None] = {}
        self._types: dict[tuple[str, str], NamedType | None] = {}

    def functions(self, binary: Binary, name: str) -> Functions | None:
        """The functions of a name, as ``DebugInformation.functions_named`` finds them; of another
        name of a function (an alias), that function."""
        key = binary.path, name
        if key not in self._functions:
            self._functions[key] = self._answer(
                binary, "function", name, Functions, lambda known: _functions(binary, known, name)
            )
        return self._functions[key]

    def function(self, binary: Binary, symbol: str) -> tuple[SourceFunction, Types] | None:
        """The function of a symbol, and the types that it refers to."""
        found = self.functions(binary, symbol)
        if found is None:
            return None
        exact = [each for each in found.functions if symbol in (each.symbol, each.name)]
        return (exact or list(found.functions))[0], found.types

    def named_type(self, binary: Binary, name: str) -> NamedType | None:
        """A type by its name."""
        key = binary.path, name
        if key not in self._types:
            self._types[key] = self._answer(
                binary, "type", name, NamedType, lambda known: known.type_named(name)
            )
        return self._types[key]

    def variable(
        self, binary: Binary, name: str, vaddr: int
    ) -> tuple[SourceVariable, Types] | None:
        """A variable as it is meant at an address: a parameter, local, static or global one."""
        try:
            known = self._of(binary)
            if known is None:
                return None
            variable, visible = known.variable(name, vaddr)
        except LocationError:
            return None
        return variable, visible.types

    def global_variable(self, binary: Binary, name: str) -> tuple[SourceVariable, Types] | None:
        """A variable that is outside of functions."""
        try:
            known = self._of(binary)
            found = known.global_named(name) if known is not None else None
        except LocationError:
            return None
        return (found.variables[0], found.types) if found is not None else None

    def _of(self, binary: Binary) -> DebugInformation | None:
        if binary.path not in self._known:
            try:
                self._known[binary.path] = debug_information(binary)
            except LocationError:
                self._known[binary.path] = None
        return self._known[binary.path]

    def _answer(
        self,
        binary: Binary,
        what: str,
        name: str,
        kind: type[T],
        ask: Callable[[DebugInformation], T],
    ) -> T | None:
        known = self._of(binary)
        if known is None:
            return None
        digest = _digest(known, what, name)
        kept = f"{binary.build_id}.{what}-{digest.hex()}"
        data = cache.load(kept, digest) if binary.build_id and known.is_closed else None
        if data is not None:
            try:
                return msgspec.msgpack.decode(data, type=kind)
            except msgspec.DecodeError:
                pass  # of another version
        began = time.monotonic()
        try:
            answer = ask(known)
        except LocationError:
            return None
        if binary.build_id and known.is_closed and time.monotonic() - began > _WORTHWHILE:
            cache.store(kept, digest, msgspec.msgpack.encode(answer))
        return answer


def _functions(binary: Binary, known: DebugInformation, name: str) -> Functions:
    try:
        return known.functions_named(name)
    except LocationError:
        places = resolve(binary, name)
        if len(places) != 1 or places[0].symbol_offset or places[0].kind != "code":
            raise
        return known.function_at(places[0].vaddr)


def _digest(known: DebugInformation, what: str, name: str) -> bytes:
    """Of the question and the files: what has the same is the same answer."""
    text = repr((_VERSION, known.identities, what, name))
    return blake2b(text.encode("utf-8", "surrogateescape"), digest_size=16).digest()
