"""The values of the intermediate representation, and how its operations fail."""

from __future__ import annotations

from typing import TypeAlias

import msgspec


class Temp(msgspec.Struct, frozen=True):
    """A word that an operation of this block has computed."""

    number: int


class Slot(msgspec.Struct, frozen=True):
    """A word of a static stack, by its position from the bottom."""

    number: int


class Depth(msgspec.Struct, frozen=True):
    """How many words are on the stack in memory, plus a number."""

    plus: int


class CodeOffset(msgspec.Struct, frozen=True):
    """An offset in the program's code, by its index in ``Function.offsets``."""

    number: int


Word: TypeAlias = int | Temp | Slot | Depth | CodeOffset


class TopWords(msgspec.Struct):
    """So many words from the top of the stack in memory on, TOS first; they stay there."""

    count: int


Words: TypeAlias = tuple[Word, ...] | TopWords


class Raise(msgspec.Struct):
    """How an operation fails: which exception, and how the stack in memory is brought up to date.

    ``stores``: (position above the depth, word), then the depth grows by ``moved``; only then
    ``code``, ``parm1`` and ``parm2`` are looked at.
    """

    code: Word
    parm1: Word
    parm2: Word
    stores: tuple[tuple[int, Word], ...] = ()
    moved: int = 0
