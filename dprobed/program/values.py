"""Typed values of the log: what ``log i32 NAME`` makes of a word.

The program logs the word as it is; what it means is said beside it, and applied by whoever reads.
"""

from __future__ import annotations

import re
import struct
from typing import Final

import msgspec

_F32: Final = struct.Struct("<f")
_F64: Final = struct.Struct("<d")
_WORD: Final = struct.Struct("<Q")

#: Whole numbers beyond it are not whole as doubles, which most readers of JSON have.
EXACT: Final = 1 << 53


class ValueKind(msgspec.Struct, frozen=True):
    """A kind of value: its name, the bits of the word that count, and what they are."""

    name: str
    bits: int
    meaning: str

    def of(self, word: int) -> int | float:
        """The value that a word has as this kind; what is above its bits is not looked at."""
        if self.name == "f32":
            return float(_F32.unpack(_WORD.pack(word)[:4])[0])
        if self.name == "f64":
            return float(_F64.unpack(_WORD.pack(word))[0])
        word &= (1 << self.bits) - 1
        if self.name[0] == "i" and word >> (self.bits - 1):
            word -= 1 << self.bits
        return word


#: In the order of their numbers in code and log.
VALUE_KINDS: Final = (
    ValueKind("i8", 8, "signed, 8 bits"),
    ValueKind("i16", 16, "signed, 16 bits"),
    ValueKind("i32", 32, "signed, 32 bits"),
    ValueKind("i64", 64, "signed"),
    ValueKind("u8", 8, "unsigned, 8 bits"),
    ValueKind("u16", 16, "unsigned, 16 bits"),
    ValueKind("u32", 32, "unsigned, 32 bits"),
    ValueKind("u64", 64, "unsigned"),
    ValueKind("f32", 32, "a floating-point number, 32 bits"),
    ValueKind("f64", 64, "a floating-point number"),
    ValueKind("hex", 64, "shown in hexadecimal"),
    ValueKind("ptr", 64, "an address"),
)
KIND_NUMBERS: Final = {kind.name: number for number, kind in enumerate(VALUE_KINDS)}

#: Letters of a symbol's name at most.
MAX_SYMBOL: Final = 255
#: Bytes of the name of a value at most.
MAX_NAME: Final = 63
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
#: What records and their items without a name call their own fields.
RESERVED: Final = frozenset(
    (
        *("type", "schema", "program", "major", "minor", "module", "place", "pid", "tid", "comm"),
        *("uid", "cpu", "time", "hit", "exit", "log", "exception", "backend", "time_ns"),
        *("message", "priority"),
    )
)
_ITEM: Final = re.compile(
    r"(word|words|value|string|memory|fault|stack|locals|globals|trace|undecoded)(_.*)?"
    r"|exception_(code|parm1|parm2)"
)


def name_error(name: str) -> str | None:
    """What is wrong with the name of a value; None: nothing."""
    if not _NAME.fullmatch(name) or len(name) > MAX_NAME:
        return f"`{name}` is not a name: letters, digits and _, {MAX_NAME} at most"
    if name.lower() in RESERVED or _ITEM.fullmatch(name):
        return f"`{name}` is what records call something of their own"
    return None
