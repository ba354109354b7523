"""The operations of the intermediate representation on maps.

The items of a key that is being gathered are in numbered places, which the verifier has proven to
be the same on every path; an operation on a map says how many there are. Like slots of a static
stack, they last from block to block.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from dprobed.program.exec.ir_values import Raise, Temp, Word


class KeyWord(msgspec.Struct):
    """An item of the key becomes a word."""

    item: int
    word: Word


class KeyName(msgspec.Struct):
    """An item of the key becomes the thread's name, without NULs."""

    item: int


class KeyString(msgspec.Struct):
    """An item of the key becomes the string at ``address``, up to its NUL.

    ``strings``: the items before it that are strings or stacks: together they have STRING_BYTES at
    most.
    ``bad``: the address that could not be read (``fault``), or ``length`` where that is
    ``too_long``.
    """

    item: int
    bad: Temp
    address: Word
    length: Word
    strings: tuple[int, ...]
    fault: Raise
    too_long: Raise


class KeyText(msgspec.Struct):
    """An item of the key becomes the string in these words, up to its NUL.

    ``strings``: as of a ``KeyString``; ``length`` is how long it is where it is ``too_long``.
    """

    item: int
    length: Temp
    words: tuple[Word, ...]
    strings: tuple[int, ...]
    too_long: Raise


class KeyStack(msgspec.Struct):
    """An item of the key becomes the thread's stack, ``depth`` frames of it at most.

    ``strings``: as of a ``KeyString``; so many frames as have room.
    """

    item: int
    depth: int
    strings: tuple[int, ...]


class UpdateMap(msgspec.Struct):
    """Add ``word`` to the cell at the key of ``items``; None: count 1."""

    map: int
    items: int
    word: Word | None


class ReadMap(msgspec.Struct):
    """The value at the key, 0 if there is none; with ``asks`` whether there is one, 1 or 0."""

    result: Temp
    map: int
    items: int
    asks: bool


class WriteMap(msgspec.Struct):
    """The value at the key becomes ``word``; None: there is none any more."""

    map: int
    items: int
    word: Word | None


class LoadCell(msgspec.Struct):
    """The words of the value at the key, 0 if there is none."""

    results: tuple[Temp, ...]
    map: int
    items: int


class StoreCell(msgspec.Struct):
    """The value at the key becomes ``words``, all at once."""

    map: int
    items: int
    words: tuple[Word, ...]


class ReadText(msgspec.Struct):
    """The string at ``address``, ``length`` bytes at most, up to its NUL or to where it cannot be
    read, in words: the first one has its first bytes, and zeros come behind it."""

    results: tuple[Temp, ...]
    address: Word
    length: Word


MapOp: TypeAlias = (
    KeyWord | KeyName | KeyString | KeyText | KeyStack
    | UpdateMap | ReadMap | WriteMap | LoadCell | StoreCell | ReadText
)  # fmt: skip
