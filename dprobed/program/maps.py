"""Maps: what a program keeps by keys, and what it makes of the words that it adds.

A map is declared in the header, ``map = NAME, KIND[,ARGUMENT…][, keys=N][, size=M][, signed]``. Its
key is a list of so many items; at each of at most ``size`` keys it has a *cell*, which is what its
kind says. Cells, as they travel and are merged, are lists of words:

======== ===================================================================================
kind     cell
======== ===================================================================================
value    the word, or as many as it has; of a timed one the first is when it was set
count    how many
sum      low and high word of the sum (128 bits: it never overflows)
min max  the word
avg      how many, low and high word of their sum
stats    how many, low and high word of their sum, the least, the greatest
hist     bucket and how many, bucket and how many, …
lhist    the same
tseries  interval, low and high word of the sum; interval, …
======== ===================================================================================

*Buckets* of a ``hist`` are powers of two, each divided into 2**bits equal parts: number n is that
of all values from ``bounds(n)[0]`` up to, not including, ``bounds(n)[1]``. Bucket -1 has what is
below 0; of an ``lhist`` what is below its least value, and its last bucket what is above.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final, TypeAlias

import msgspec

from dprobed.program.user_stack import UserStack, stack_bytes
from dprobed.program.values import MAX_NAME

#: Maps of a program, items of a key, and bytes of one, at most.
MAX_MAPS: Final = 16
MAX_KEY_ITEMS: Final = 8
MAX_KEY_BYTES: Final = 1024
#: What the strings of a key may have of these, together: the longest other item is a thread's name.
STRING_BYTES: Final = MAX_KEY_BYTES - 16 * (MAX_KEY_ITEMS - 1)
#: Bytes for the keys and cells of a program's maps in one process, and of all programs in it.
PROGRAM_BYTES: Final = 8 << 20
TARGET_BYTES: Final = 16 << 20
#: Those that are noted for who comes after a tracer; what is larger begins anew then.
NOTED_BYTES: Final = 128 << 10
#: What a bucket takes of them.
BUCKET_BYTES: Final = 112
#: What a word of a ``value`` of several takes of them.
WORD_BYTES: Final = 40
#: Words of a ``value`` at most.
MAX_VALUE_WORDS: Final = 512
#: Keys of a map, if it says nothing, and at most.
DEFAULT_SIZE: Final = 4096
MAX_SIZE: Final = 1 << 16
#: Buckets of an ``lhist``, and intervals of a ``tseries``, at most.
MAX_BUCKETS: Final = 1000

#: Before a stack that is an item of a key; and one that has no room at all.
STACK_MARK: Final = b"\0"
NO_STACK: Final = b"\2\0\0"

_WORD: Final = (1 << 64) - 1
_HALF: Final = 1 << 63
_NAME: Final = re.compile(rf"[A-Za-z_]\w{{0,{MAX_NAME - 1}}}", re.ASCII)


#: An item of a key as it travels; a key and its cell, which is empty where nothing was added since
#: it was zeroed.
Item: TypeAlias = int | bytes
Entry: TypeAlias = tuple[list[Item], list[int]]


class MapContents(msgspec.Struct, frozen=True, array_like=True):
    """All that is in a map. ``lost``: updates for which there was no room."""

    lost: int
    entries: list[Entry]


class KindArgument(msgspec.Struct, frozen=True):
    """One of a kind's arguments and its range; ``default``: it may be left out."""

    name: str
    low: int
    high: int
    default: int | None = None


class MapKind(msgspec.Struct, frozen=True):
    """A kind of map. ``takes``: the instructions that work on it."""

    name: str
    meaning: str
    takes: tuple[str, ...]
    arguments: tuple[KindArgument, ...] = ()


_ADD: Final = ("madd",)
_ANY: Final = (-_HALF, _HALF - 1)

#: In the order of their numbers in ``.dpb`` files.
KINDS: Final[tuple[MapKind, ...]] = (
    MapKind(
        "value",
        "a word, or several that belong together, which the program reads and sets; it belongs to "
        "its process, and is not merged",
        ("mget", "mhas", "mset", "minc", "mdel", "mload", "mstore"),
        (
            KindArgument("words", 1, MAX_VALUE_WORDS, 1),
            KindArgument("timed", 0, 1, 0),
        ),
    ),
    MapKind("count", "how often", ("minc",)),
    MapKind("sum", "the sum of the words added", _ADD),
    MapKind("min", "the least of them", _ADD),
    MapKind("max", "the greatest", _ADD),
    MapKind("avg", "their number and average", _ADD),
    MapKind("stats", "their number, sum, average, least and greatest", _ADD),
    MapKind(
        "hist",
        "a histogram in powers of two, each divided into 2^bits parts",
        _ADD,
        (KindArgument("bits", 0, 5, 0),),
    ),
    MapKind(
        "lhist",
        "a histogram in equal steps",
        _ADD,
        (
            KindArgument("min", *_ANY),
            KindArgument("max", *_ANY),
            KindArgument("step", 1, _HALF - 1),
        ),
    ),
    MapKind(
        "tseries",
        "the sum in each of the latest intervals of so many milliseconds",
        _ADD,
        (KindArgument("interval", 1, 86_400_000), KindArgument("buckets", 1, MAX_BUCKETS)),
    ),
)
KIND_BY_NAME: Final = {kind.name: kind for kind in KINDS}
KIND_NUMBERS: Final = {kind.name: number for number, kind in enumerate(KINDS)}
#: The kind that belongs to its process, and the one that takes no value.
VALUE: Final = "value"
COUNT: Final = "count"


class MapDefinition(msgspec.Struct, frozen=True):
    """A map of a program: ``keys`` items in its key, at most ``size`` keys. ``signed``: the words
    that are added to it are two's complement."""

    name: str
    kind: str
    arguments: tuple[int, ...] = ()
    keys: int = 0
    size: int = DEFAULT_SIZE
    signed: bool = False

    def __str__(self) -> str:
        """As it is written in the header."""
        parts = [self.name, ",".join((self.kind, *map(str, self._written())))]
        parts += [f"keys={self.keys}"] if self.keys else []
        parts += [f"size={self.size}"] if self.size != DEFAULT_SIZE else []
        parts += ["signed"] if self.signed else []
        return ", ".join(parts)

    @property
    def words(self) -> int:
        """How many words a ``value`` has; 1 of all others."""
        return self.arguments[0] if self.kind == VALUE and self.arguments else 1

    @property
    def timed(self) -> bool:
        """Whether the first word of a ``value`` is the time at which it was set: of those that
        several processes have, the latest one counts."""
        return self.kind == VALUE and len(self.arguments) > 1 and self.arguments[1] == 1

    @property
    def is_own(self) -> bool:
        """Whether it belongs to its process alone, and is not merged."""
        return self.kind == VALUE and not self.timed

    def _written(self) -> tuple[int, ...]:
        """Its arguments, without those at the end that go without saying."""
        kind = KIND_BY_NAME.get(self.kind)
        written = list(self.arguments)
        for argument in reversed(kind.arguments if kind is not None else ()):
            if not written or written[-1] != argument.default:
                break
            written.pop()
        return tuple(written)


def definition_error(one: MapDefinition) -> tuple[str, str] | None:
    """What is wrong with a map, and what to do; None: nothing."""
    if _NAME.fullmatch(one.name) is None:
        return f"`{one.name}` cannot name a map: letters, digits and _, {MAX_NAME} at most", ""
    kind = KIND_BY_NAME.get(one.kind)
    if kind is None:
        return f"there is no kind of map `{one.kind}`", f"there are: {', '.join(KIND_BY_NAME)}"
    wrong = _arguments_error(kind, one)
    if wrong is not None:
        return wrong
    if not 0 <= one.keys <= MAX_KEY_ITEMS:
        return f"`keys` of a map is 0 to {MAX_KEY_ITEMS}, not {one.keys}", ""
    if not 1 <= one.size <= MAX_SIZE:
        return f"`size` of a map is 1 to {MAX_SIZE}, not {one.size}", ""
    if one.signed and one.kind == COUNT:
        return "a `count` is never below 0", "drop `signed`"
    return None


def _arguments_error(kind: MapKind, one: MapDefinition) -> tuple[str, str] | None:
    names = [argument.name for argument in kind.arguments]
    if len(one.arguments) != len(names) and kind.name != VALUE:
        written = ",".join((kind.name, *(name.upper() for name in names)))
        many = {0: "no arguments", 1: "1 argument"}.get(len(names), f"{len(names)} arguments")
        return f"`{kind.name}` takes {many}, not {len(one.arguments)}", f"write {written}"
    if len(one.arguments) > len(names):
        return f"`{kind.name}` takes {len(names)} arguments, not {len(one.arguments)}", ""
    for argument, value in zip(kind.arguments, one.arguments, strict=False):
        if not argument.low <= value <= argument.high:
            message = f"`{argument.name}` of `{kind.name}` is {argument.low} to {argument.high}"
            return f"{message}, not {value}", ""
    if one.timed and one.words == 1:
        return "a timed `value` has a word for the time, and others", "write value,2,1"
    if kind.name == "lhist":
        low, high, step = one.arguments
        if not low < high:
            return f"the least value of an `lhist` is below the greatest, not {low} to {high}", ""
        if low < 0 and not one.signed:
            return "an `lhist` from below 0 is of signed words", "add `signed`"
        if -(-(high - low) // step) > MAX_BUCKETS:
            return f"an `lhist` has at most {MAX_BUCKETS} steps", "write a larger step"
    return None


def definitions_error(maps: Sequence[MapDefinition]) -> tuple[str, str] | None:
    """What is wrong with all the maps of a program; None: nothing."""
    if len(maps) > MAX_MAPS:
        return f"{len(maps)} maps; {MAX_MAPS} are possible in a program", ""
    names = [one.name for one in maps]
    twice = [name for index, name in enumerate(names) if name in names[:index]]
    if twice:
        return f"there are two maps `{twice[0]}`", "call one of them otherwise"
    wrong = (definition_error(one) for one in maps)
    return next((each for each in wrong if each is not None), None)


class MapRoom:
    """Bytes that may still be taken, within those ``above``."""

    __slots__ = ("above", "left")

    def __init__(self, size: int, above: MapRoom | None = None) -> None:
        self.left = size
        self.above = above

    def take(self, size: int) -> bool:
        """Take so many; false: there are none left, and none were taken."""
        if self.left < size or (self.above is not None and not self.above.take(size)):
            return False
        self.left -= size
        return True

    def give(self, size: int) -> None:
        """Give so many back."""
        self.left += size
        if self.above is not None:
            self.above.give(size)


# -- buckets ----------------------------------------------------------------------------------


def as_signed(word: int) -> int:
    """A word as two's complement."""
    return word - _WORD - 1 if word >= _HALF else word


#: Words of a cell by kind; of the others how many make one of its parts.
_WORDS: Final = {"count": 1, "sum": 2, "min": 1, "max": 1, "avg": 3, "stats": 5}
_PART: Final = {"hist": 2, "lhist": 2, "tseries": 3}


def is_entry(one: MapDefinition, entry: Entry) -> bool:
    """Whether this can be a key and its cell, whoever says so."""
    key, cell = entry
    if len(key) != one.keys or not _is_key(key):
        return False
    part = _PART.get(one.kind)
    if part is None:
        words = _WORDS.get(one.kind, one.words)
        return not cell or (len(cell) == words and _are_words(cell))
    numbers = cell[::part]
    if not cell or len(cell) % part:
        return not cell
    if not all(_are_words(cell[n::part]) for n in range(1, part)):
        return False
    if one.kind == "tseries":
        return _are_words(numbers)
    high = power_bucket(_WORD, *one.arguments) if one.kind == "hist" else MAX_BUCKETS
    return min(numbers) >= -1 and max(numbers) <= high


def _is_key(key: Sequence[Item]) -> bool:
    words = [item for item in key if isinstance(item, int)]
    strings = sum(len(item) for item in key if not isinstance(item, int))
    return strings <= MAX_KEY_BYTES and (not words or _are_words(words))


def _are_words(numbers: Sequence[int]) -> bool:
    return min(numbers) >= 0 and max(numbers) <= _WORD


def halves(total: int) -> list[int]:
    """A sum as its low and its high word."""
    return [total & _WORD, (total >> 64) & _WORD]


def whole(words: Sequence[int], *, signed: bool) -> int:
    """The sum that travels as these two words."""
    low, high = words
    return low | ((as_signed(high) if signed else high) << 64)


def stack_item(stack: UserStack, room: int) -> bytes:
    """A stack as an item of a key: behind a NUL, which no string has."""
    return STACK_MARK + (stack_bytes(stack, room - len(STACK_MARK)) or NO_STACK)


def key_bytes(key: Iterable[Item]) -> int:
    """About what Python takes for a key in a dictionary, but a string counts as what it may become
    in JSON (``\\u0001``): what is sent of a map is never longer than what is held."""
    size = 192
    for item in key:
        size += 40 if isinstance(item, int) else 40 + 6 * len(item)
    return size


def power_bucket(value: int, bits: int) -> int:
    """The bucket of a value in a ``hist``."""
    if value < 0:
        return -1
    above = value.bit_length() - 1 - bits
    return value if above <= 0 else (above << bits) + (value >> above)


def linear_bucket(value: int, low: int, high: int, step: int) -> int:
    """The bucket of a value in an ``lhist``."""
    if value < low:
        return -1
    return -(-(high - low) // step) if value >= high else (value - low) // step


def bounds(one: MapDefinition, bucket: int) -> tuple[int | None, int | None]:
    """From where to before where a bucket goes; None: without end."""
    if one.kind == "lhist":
        low, high, step = one.arguments
        if bucket < 0:
            return None, low
        first = low + bucket * step
        return (high, None) if first >= high else (first, min(first + step, high))
    (bits,) = one.arguments
    if bucket < 0:
        return None, 0
    above = max((bucket >> bits) - 1, 0)
    part = bucket - (above << bits)
    return part << above, (part + 1) << above
