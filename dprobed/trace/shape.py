"""Logs as typed fields of CTF events: encoding, declaration and reading back.

A *shape* names the items of a log in their order, one letter each::

    wN   N words without prefix            word_I...
    t    words with a prefix               words_K_length, words_K[]
    s    a string                          string_K_length, string_K[] (text)
    m    memory                            memory_K_length, memory_K_address, memory_K[]
    f    an address that cannot be read    fault_K
    k l g  stack, locals, globals          stack_K_length, stack_K[]...
    v(K:NAME)  a typed value of kind K     NAME, or value_K
    x    a stack trace                     trace_K { code, handler, parm1, parm2, frames[] }
    u    the stack of the thread           ustack_K { end, modules[], frames[] }
    *    a log that is none of this: raw_length, raw[], log_length, log[]
    E    behind all: the exception that ended the program

The payload of an event is the log without what the shape says already (tokens, number of bare
words): mostly it is copied as it is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Sequence
from struct import Struct
from struct import error as StructError
from typing import Final, NamedTuple

from dprobed.program.isa import WORD_MASK
from dprobed.program.items import NONE, PREFIX, STRING, VALUE, WORD, ItemToken
from dprobed.program.user_stack import unpacked
from dprobed.program.values import VALUE_KINDS, name_error
from dprobed.record.log import (
    Json,
    decode_log,
    stack_value,
    string_value,
    typed_value,
    with_text,
)

#: Bare words of one run that get a field each; longer runs become one array.
_SINGLE_WORDS: Final = 32

_BYTE: Final = Struct("<B")
_COUNT: Final = Struct("<H")
_STACK: Final = Struct("<BBB")
_MEMORY: Final = Struct("<HQ")
_FOUR: Final = Struct("<4Q")
_TWO: Final = Struct("<2Q")
_EXCEPTION: Final = Struct("<3Q")
_DOUBLE: Final = Struct("<d")
_SIGNED: Final = Struct("<q")
_PART: Final = re.compile(r"(\D)(\d*)(?:\((\w+):(\w*)\))?", re.ASCII)
#: How a kind of value is declared.
_TYPES: Final = {
    kind.name: {"i": "int64_t", "u": "uint64_t", "f": "float64_t"}.get(kind.name[0], "hex64_t")
    for kind in VALUE_KINDS
}

_WORDS: Final = {
    ItemToken.WORDS: "t",
    ItemToken.STACK: "k",
    ItemToken.LOCALS: "l",
    ItemToken.GLOBALS: "g",
}
_NAMES: Final = {"t": "words", "k": "stack", "l": "locals", "g": "globals"}
_LETTERS: Final = {int(token): letter for token, letter in _WORDS.items()}


class _OddError(Exception):
    """The log is malformed: not made of whole items."""


def split(log: bytes, raw: Sequence[int]) -> tuple[str, bytes]:
    """The shape of a log, and the payload of its event."""
    if not raw and log:
        # One string and nothing else: the most usual log that is not words.
        size = len(log) - 3
        if size >= 0 and log[0] == STRING and log[1] | log[2] << 8 == size:
            return "s", log[1:]
    try:
        return _split(log, raw)
    except (_OddError, StructError, IndexError, ValueError):
        return undivided(log, raw)


def undivided(log: bytes, raw: Sequence[int]) -> tuple[str, bytes]:
    """The shape and the payload of a log that is kept as raw bytes."""
    head = _COUNT.pack(len(raw)) + b"".join(map(WORD.pack, raw))
    return "*", head + len(log).to_bytes(4, "little") + log


def _split(log: bytes, raw: Sequence[int]) -> tuple[str, bytes]:
    found = ""
    parts = []
    at = index = 0
    size = len(log)
    run = raw[0] if raw else -1
    while at < size:
        if at == run:
            count = raw[index + 1]
            index += 2
            run = raw[index] if index < len(raw) else -1
            end = at + 8 * count
            found += f"w{count}"
            parts.append(log[at:end])
        elif log[at] == STRING:
            end = at + 3 + (log[at + 1] | log[at + 2] << 8)
            found += "s"
            parts.append(log[at + 1 : end])
        else:
            letter, end, part = _item(log, at)
            found += letter
            parts.append(part)
        if end > size or end <= at:
            raise _OddError
        at = end
    return found, b"".join(parts)


def _item(log: bytes, at: int) -> tuple[str, int, bytes]:
    """The item at ``at``: its letter, its end, and its part of the payload."""
    token, count = PREFIX.unpack_from(log, at)
    if token == ItemToken.MEMORY:
        end = at + 11 + count
        return "m", end, log[at + 1 : end]
    if token == ItemToken.MEMORY_FAULT and count == 8:
        return "f", at + 11, log[at + 3 : at + 11]
    if token == ItemToken.STACK_TRACE:
        end, part = _trace(log, at + 3)
        return "x", end, part
    if token == ItemToken.USER_STACK:
        end = at + 3 + count
        unpacked(log[at + 3 : end])
        return "u", end, log[at + 3 : end]
    if token == ItemToken.VALUE:
        return _value(log, at, count)
    letter = _LETTERS.get(token)
    if letter is None:
        raise _OddError
    end = at + 3 + 8 * count
    return letter, end, log[at + 1 : end]


def _value(log: bytes, at: int, count: int) -> tuple[str, int, bytes]:
    """A typed value: what it is called is the shape's, its number takes 64 bits."""
    kind, word = VALUE.unpack_from(log, at + 3)
    at += 3 + VALUE.size
    name = log[at : at + count].decode("ascii", "replace")
    if kind >= len(VALUE_KINDS) or len(name) < count or (name and name_error(name)):
        raise _OddError
    number = VALUE_KINDS[kind].of(word)
    data = _DOUBLE.pack(number) if isinstance(number, float) else WORD.pack(number & WORD_MASK)
    return f"v({VALUE_KINDS[kind].name}:{name})", at + count, data


def unused(name: str, taken: Container[str]) -> str:
    """The name, or the first of NAME_1, NAME_2… that nothing else has yet."""
    number, found = 0, name
    while found in taken:
        number += 1
        found = f"{name}_{number}"
    return found


def _trace(log: bytes, at: int) -> tuple[int, bytes]:
    """A stack trace without its tokens."""
    parts = [log[at : at + 32]]
    token, frames = PREFIX.unpack_from(log, at + 32)
    if token != ItemToken.FRAME:
        raise _OddError
    parts.append(_COUNT.pack(frames))
    at += 35
    for _ in range(frames):
        parts.append(log[at : at + 16])
        at += 16
        for wanted in (ItemToken.STACK, ItemToken.LOCALS, ItemToken.GLOBALS):
            token, count = PREFIX.unpack_from(log, at)
            end = at + 3 + 8 * count
            if token != wanted or end > len(log):
                raise _OddError
            parts.append(log[at + 1 : end])
            at = end
    return at, b"".join(parts)


def with_exception(
    shape: str, payload: bytes, exception: tuple[int, int, int]
) -> tuple[str, bytes]:
    """The same with the exception that ended the program."""
    return shape + "E", payload + _EXCEPTION.pack(*exception)


class Part(NamedTuple):
    """A letter of a shape; ``words`` of ``w``; ``kind`` and ``name`` of a value."""

    letter: str
    words: int = 0
    kind: str = ""
    name: str = ""


def parts(shape: str) -> list[Part]:
    """The letters of a shape, with what belongs to them."""
    return [
        Part(match[1], int(match[2] or 0), match[3] or "", match[4] or "")
        for match in _PART.finditer(shape)
    ]


def fields(shape: str) -> list[str]:
    """The fields of an event of this shape, as declarations in TSDL."""
    declared: list[str] = []
    words = 0
    seen: dict[str, int] = {}
    names: set[str] = set()
    for letter, count, kind, name in parts(shape):
        number = seen.get(letter, 0)
        seen[letter] = number + 1
        if letter == "w" and count <= _SINGLE_WORDS:
            declared += [f"uint64_t word_{words + index};" for index in range(count)]
            words += count
        elif letter == "w":
            declared.append(f"uint64_t word_{words}[{count}];")
            words += count
        elif letter == "v":
            called = unused(name or f"value_{number}", names)
            names.add(called)
            # Readers take one underscore off: so that no name is a word of TSDL.
            declared.append(f"{_TYPES[kind]} {'_' * bool(name)}{called};")
        else:
            declared += _fields(letter, number)
    return declared


def _fields(letter: str, number: int) -> list[str]:
    if letter in _NAMES:
        name = f"{_NAMES[letter]}_{number}"
        return [f"uint16_t {name}_length;", f"uint64_t {name}[{name}_length];"]
    if letter == "s":
        name = f"string_{number}"
        return [f"uint16_t {name}_length;", f"text_t {name}[{name}_length];"]
    if letter == "m":
        name = f"memory_{number}"
        return [
            f"uint16_t {name}_length;",
            f"hex64_t {name}_address;",
            f"hex8_t {name}[{name}_length];",
        ]
    if letter == "f":
        return [f"hex64_t fault_{number};"]
    if letter == "x":
        return [f"struct stack_trace trace_{number};"]
    if letter == "u":
        return [f"struct user_stack ustack_{number};"]
    if letter == "E":
        return [f"uint64_t exception_{each};" for each in ("code", "parm1", "parm2")]
    return [
        "uint16_t raw_length;",
        "uint64_t raw[raw_length];",
        "uint32_t log_length;",
        "hex8_t log[log_length];",
    ]


class Cursor:
    """A read position in bytes."""

    __slots__ = ("at", "data")

    def __init__(self, data: bytes, at: int) -> None:
        self.data = data
        self.at = at

    def take(self, struct: Struct) -> tuple[int, ...]:
        """The numbers there; raises struct.error at the end of the bytes."""
        values = struct.unpack_from(self.data, self.at)
        self.at += struct.size
        return values

    def bytes(self, size: int) -> bytes:
        """So many bytes."""
        end = self.at + size
        found = self.data[self.at : end]
        if len(found) != size:
            raise StructError("the data is cut off")
        self.at = end
        return found

    def words(self) -> list[Json]:
        """Words behind their number."""
        (count,) = self.take(_COUNT)
        return list(self.take(Struct(f"<{count}Q")))


_Reader = Callable[[Cursor], "dict[str, Json]"]


def _read_string(cursor: Cursor) -> dict[str, Json]:
    (size,) = cursor.take(_COUNT)
    return string_value(cursor.bytes(size))


def _read_memory(cursor: Cursor) -> dict[str, Json]:
    size, address = cursor.take(_MEMORY)
    return {"memory": cursor.bytes(size).hex(), "address": address}


def _read_fault(cursor: Cursor) -> dict[str, Json]:
    return with_text({"fault": cursor.take(WORD)[0]})


def _read_trace(cursor: Cursor) -> dict[str, Json]:
    code, handler, parm1, parm2 = cursor.take(_FOUR)
    (count,) = cursor.take(_COUNT)
    frames: list[Json] = []
    for _ in range(count):
        called, returns = cursor.take(_TWO)
        frame: dict[str, Json] = {"called": _offset(called), "return": _offset(returns)}
        for name in ("stack", "locals", "globals"):
            frame[name] = cursor.words()
        frames.append(frame)
    trace: dict[str, Json] = {
        "code": code,
        "handler": _offset(handler),
        "parm1": parm1,
        "parm2": parm2,
        "frames": frames,
    }
    return {"trace": trace}


def _read_user_stack(cursor: Cursor) -> dict[str, Json]:
    begin = cursor.at
    _, modules, frames = cursor.take(_STACK)
    for _ in range(modules):
        cursor.bytes(*cursor.take(_BYTE))
        cursor.bytes(*cursor.take(_COUNT))
    cursor.bytes(8 * frames)
    found = stack_value(cursor.data[begin : cursor.at])
    if found is None:
        raise StructError("no stack")
    return found


def _offset(value: int) -> Json:
    return None if value == NONE else value


def _read_words(name: str) -> _Reader:
    return lambda cursor: with_text({name: cursor.words()})


def _read_bare(count: int) -> _Reader:
    struct = Struct(f"<{count}Q")
    return lambda cursor: with_text({"words": list(cursor.take(struct))})


def _read_value(kind: str, name: str) -> _Reader:
    struct = {"f": _DOUBLE, "i": _SIGNED}.get(kind[0], WORD)
    return lambda cursor: typed_value(kind, cursor.take(struct)[0], name)


_READERS: Final[dict[str, _Reader]] = {
    "s": _read_string,
    "m": _read_memory,
    "f": _read_fault,
    "x": _read_trace,
    "u": _read_user_stack,
    **{letter: _read_words(name) for letter, name in _NAMES.items()},
}

#: The items of a log, and the exception.
Payload = tuple["list[dict[str, Json]]", "tuple[int, int, int] | None"]


def reader(shape: str) -> Callable[[Cursor], Payload]:
    """The decoder of payloads of this shape; it raises struct.error on one that is cut short."""
    letters = parts(shape)
    kinds = {part.letter for part in letters}
    raises = "E" in kinds
    readers = [
        _read_bare(count)
        if letter == "w"
        else _read_value(kind, name)
        if letter == "v"
        else _READERS[letter]
        for letter, count, kind, name in letters
        if letter not in "*E"
    ]

    def read(cursor: Cursor) -> Payload:
        if "*" in kinds:
            (count,) = cursor.take(_COUNT)
            raw = cursor.take(Struct(f"<{count}Q"))
            size = int.from_bytes(cursor.bytes(4), "little")
            items = decode_log(cursor.bytes(size), raw)
        else:
            items = [read_item(cursor) for read_item in readers]
        if not raises:
            return items, None
        code, parm1, parm2 = cursor.take(_EXCEPTION)
        return items, (code, parm1, parm2)

    return read
