"""Filters of records: conditions like ``pid=1234``, ``word_0>=0x1000``, ``string_0=*.so``.

A name is a field of the record or of its log as ``lines.items_by_name`` names them; of a string,
``=`` and ``!=`` take a pattern (``*``, ``?``, ``[…]``). Numbers are compared as the unsigned words
that they are; a value below zero means the word that it is stored as. Typed values are compared
as what they are.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any, Final

from dprobed.record.record import Record
from dprobed.trace.lines import items_by_name, values_by_name

_CONDITION: Final = re.compile(r"\s*(\w+)\s*(>=|<=|!=|=|>|<)\s*(.*?)\s*")
_OPERATORS: Final[dict[str, Callable[[Any, Any], bool]]] = {
    "=": operator.eq,
    "!=": operator.ne,
    ">": operator.gt,
    "<": operator.lt,
    ">=": operator.ge,
    "<=": operator.le,
}
_PLAIN: Final = frozenset(Record.__struct_fields__) - {"log", "exception"}
_NUMBERS: Final = frozenset(name for name, kind in Record.__annotations__.items() if kind == "int")

#: Names that are found at most for a message.
_NAMED: Final = 500

Test = Callable[[Record], bool]


class ConditionError(Exception):
    """The text is not a valid condition; the message is one line."""


class FieldError(Exception):
    """No record has a field of that name, or such a value there; the message is one line."""


class Fields:
    """Which fields, of those that ``conditions`` look at and of the further ``names``, some record
    has, and whether what is asked of them can hold there; ``see`` is shown each record."""

    def __init__(self, conditions: Sequence[str], names: Sequence[str] = ()) -> None:
        parsed = [match for text in conditions if (match := _CONDITION.fullmatch(text)) is not None]
        names = [*(match[1] for match in parsed), *names]
        self._wanted = [name for name in names if name not in _PLAIN]
        #: Those that are to be what no number is, and those of them that are numbers.
        self._texts = {match[1]: match[3] for match in parsed if _exact(match[3]) is None}
        self._numbers: set[str] = set()
        self._known: dict[str, None] = dict.fromkeys(sorted(_PLAIN))
        self._any = False

    def see(self, record: Record) -> None:
        """Look at one record."""
        self._any = True
        if self._wanted:
            there = items_by_name(record).keys() | values_by_name(record).keys()
            self._wanted = [name for name in self._wanted if name not in there]
            if len(self._known) < _NAMED:
                self._known.update(dict.fromkeys(sorted(there)))
        for name in [*self._texts]:
            value: object = values_by_name(record).get(name)
            value = value_of(record, name) if value is None else value
            if isinstance(value, str):
                del self._texts[name]
            elif value is not None:
                self._numbers.add(name)

    def check(self) -> None:
        """All records have been seen: raise FieldError where none had one of the names, or one
        is a number wherever it is, and asked to be something else."""
        if self._wanted and self._any:
            name = self._wanted[0]
            near = get_close_matches(name, self._known, 3) or list(self._known)[:40]
            meant = " or ".join(f"`{each}`" for each in near[:3])
            if len(near) > 3:
                meant = f"one of {', '.join(near)}"
            raise FieldError(f"no record has a field `{name}`; did you mean {meant}?")
        for name, text in self._texts.items():
            if name in self._numbers:
                raise FieldError(f"`{name}` is a number, and `{text}` is none")


def value_of(record: Record, name: str) -> object:
    """The value of a field of a record or of its log, None if it has no such field."""
    if name in _PLAIN:
        found: object = getattr(record, name)
        return found
    return items_by_name(record).get(name)


def condition(text: str) -> Test:
    """A condition's text as a predicate on records; raises ConditionError."""
    match = _CONDITION.fullmatch(text)
    if match is None:
        raise ConditionError(f"`{text}` is no condition; write NAME=VALUE, or word_0>=100")
    name, sign, wanted = match[1], match[2], match[3]
    compare = _OPERATORS[sign]
    number = _number(wanted)
    exact = _exact(wanted)
    if name in _NUMBERS and number is None:
        raise ConditionError(f"`{text}`: `{name}` is a whole number, and `{wanted}` is none")

    def test(record: Record) -> bool:
        value = value_of(record, name)
        if name not in _PLAIN and (typed := values_by_name(record).get(name)) is not None:
            return exact is not None and compare(typed, exact)
        if isinstance(value, int):
            return number is not None and compare(value, number)
        if not isinstance(value, str):
            return False
        if sign in ("=", "!="):
            return fnmatchcase(value, wanted) is (sign == "=")
        return compare(value, wanted)

    return test


def _number(text: str) -> int | None:
    try:
        number = int(text, 0)
    except ValueError:
        return None
    return number if number >= 0 else number & (1 << 64) - 1


def _exact(text: str) -> int | float | None:
    """The number that a typed value is compared with: as it is."""
    for convert in (lambda each: int(each, 0), float):
        try:
            return convert(text)
        except ValueError:
            pass
    return None


def all_of(texts: Sequence[str]) -> Test:
    """A predicate that holds where every condition does; raises ConditionError."""
    tests = [condition(text) for text in texts]
    return lambda record: all(test(record) for test in tests)
