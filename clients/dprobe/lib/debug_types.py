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
from dprobed.program.variables import (
    Functions,
    NamedType,
    SourceFunction,
    SourceVariable,
    VariableLocation,
)
from dprobed.resolver import cache

if TYPE_CHECKING:
    from collections.abc import Callable

    from dprobed.binary.file import Binary
    from dprobed.binary.places import Place
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
        self, binary: Binary, place: str, name: str
    ) -> tuple[SourceVariable, Types] | None:
        """A variable as it is meant at a place (``handle``, ``server.c:120``): a parameter, local,
        static or global one. Where a place has several addresses, and it is not at the same
        location at all of them, it is absent."""
        try:
            known = self._of(binary)
            if known is None:
                return None
            found = [self._at(known, each, name) for each in resolve(binary, place)]
        except LocationError:
            return None
        variable, types = found[0]
        if any(each.location != variable.location for each, _ in found):
            reason = f"it is in different places where the code of {place} is"
            absent = VariableLocation("absent", reason=reason)
            return msgspec.structs.replace(variable, location=absent), types
        return variable, types

    @staticmethod
    def _at(known: DebugInformation, place: Place, name: str) -> tuple[SourceVariable, Types]:
        if place.symbol and not place.symbol_offset:
            # At the first instruction arguments are where they were passed.
            entered = known.function_at(place.vaddr)
            for each in entered.functions[0].places:
                for parameter in each.parameters if each.address == place.vaddr else ():
                    if parameter.name == name:
                        return parameter, entered.types
        variable, visible = known.variable(name, place.vaddr)
        return variable, visible.types

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
