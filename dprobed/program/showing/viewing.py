"""What showing the values of a library needs of who shows all others, and the limits of it."""

from __future__ import annotations

from typing import Protocol

import msgspec

from dprobed.program.showing.nodes import Shown, ShownList, ShownStruct, ShownText
from dprobed.program.types import StructType, Types


class ShowLimits(msgspec.Struct, frozen=True):
    """How much of a value is shown. ``depth``: pointers that are followed, one after the other, and
    members within members; ``width``: elements of a list and members; ``string``: characters."""

    depth: int = 3
    width: int = 20
    string: int = 256


class Viewing(Protocol):
    """``values.Viewer``."""

    types: Types
    limits: ShowLimits

    def read(self, address: int, size: int) -> bytes | None:
        """Bytes of the target."""

    def word(self, address: int) -> int | None:
        """A word of the target."""

    def string(self, address: int, length: int | None = None) -> ShownText | None:
        """The text at an address."""

    def value(self, index: int, raw: bytes, address: int | None, depth: int) -> Shown:
        """The value that bytes are."""

    def value_at(self, index: int, address: int, depth: int) -> Shown:
        """The value of a type at an address."""

    def elements(
        self, of: int, count: int, raw: bytes, address: int | None, depth: int
    ) -> ShownList:
        """Elements one after the other."""

    def members(
        self, kind: StructType, raw: bytes, address: int | None, depth: int, name: str = ""
    ) -> ShownStruct:
        """A struct by its members."""
