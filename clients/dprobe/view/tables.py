"""Listings: columns where they fit, else a block of lines for each row; or JSON lines.

A name, a number or a path is never cut or folded: who reads it wants to copy it. Where a terminal
is too narrow, columns that say nothing (0 or empty in every row) are left out first, and named
below; then text of several words is folded between them; then each row becomes a block. In a pipe
there is no width: every column is there, so that a script finds it where it was yesterday.
"""

from __future__ import annotations

import os
import sys
import textwrap
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import msgspec

from dprobe.lib import quiet
from dprobed.printable import printable
from dprobed.record.record import SCHEMA

if TYPE_CHECKING:
    from dprobed.program.model import Diagnostic

#: Between two columns.
_GAP: Final = "  "
#: Text of several words is folded into no less than this.
_FOLDED: Final = 24
#: What a field has that says nothing.
_NOTHING: Final = ("", "0", "0.0")


class Listing(msgspec.Struct, frozen=True):
    """Rows of one kind: their ``type`` in JSON, and the (title, field) of what is shown of them.

    ``fields``: the rest, which JSON has, and which can be asked for by name.
    """

    type: str
    columns: tuple[tuple[str, str], ...]
    fields: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """What a column can be called: by its field, or by its title where that is one word."""
        shown = [name for title, field in self.columns for name in (field, title) if name.isalnum()]
        return tuple(dict.fromkeys([*(field for _, field in self.columns), *shown, *self.fields]))

    def chosen(self, only: Sequence[str]) -> tuple[tuple[str, str], ...]:
        """(Title, field) of the columns asked for by name, as far as they are columns of these."""
        known = {field: (title, field) for title, field in self.columns}
        known |= {field: (field, field) for field in self.fields if field not in known}
        known = {pair[0]: pair for pair in known.values()} | known
        return tuple(known[name] for name in only if name in known)


def show(
    rows: Iterable[Any],
    listing: Listing,
    *,
    json: bool,
    empty: str,
    only: Sequence[str] = (),
) -> None:
    """Print rows (msgspec structs or mappings); with ``json`` all of their fields.

    ``empty`` is said on standard error where there is no row. ``only``: the columns to be shown.
    """
    mappings = [row if isinstance(row, dict) else msgspec.to_builtins(row) for row in rows]
    columns = listing.chosen(only) if only else listing.columns
    if json:
        fields = {field for _, field in columns} if only else None
        for mapping in mappings:
            print(encoded(listing.type, mapping, fields))
    elif not mappings:
        if empty and not quiet.quiet:
            print(between_words(empty, width_of(2)), file=sys.stderr)
    elif columns:
        width = width_of(1)
        print("\n".join(lines(mappings, columns, width, whole=bool(only))))


def width_of(descriptor: int) -> int | None:
    """The width of the terminal there (``COLUMNS`` has the last word); None: it is none."""
    if not os.isatty(descriptor):
        return None
    given = os.environ.get("COLUMNS", "")
    if given.isdecimal() and int(given):
        return int(given)
    # A serial line has no size.
    return os.get_terminal_size(descriptor).columns or 80


def between_words(text: str, width: int | None, indent: int = 0) -> str:
    """The text, of which lines that are wider than the terminal are broken between words.

    ``indent``: how many blanks their further lines begin with.
    """
    if width is None:
        return text
    return "\n".join(
        line
        if _cells(line) <= width
        else textwrap.fill(
            line,
            width,
            subsequent_indent=" " * indent,
            break_long_words=False,
            break_on_hyphens=False,
        )
        for line in text.split("\n")
    )


def encoded(kind: str, mapping: Mapping[str, Any], fields: set[str] | None = None) -> str:
    """A JSON object with its type and the version of its form; ``fields``: no others."""
    rest = {
        key: value
        for key, value in mapping.items()
        if key != "type" and (fields is None or key in fields)
    }
    named = {"type": mapping.get("type", kind), "schema": SCHEMA, **rest}
    return msgspec.json.encode(named).decode()


def diagnostic(fault: Diagnostic) -> dict[str, Any]:
    """A fault as JSON has it; ``text``: its line, ``length``: how much of that is meant."""
    return {"severity": "error", **msgspec.structs.asdict(fault)}


def lines(
    rows: Sequence[Mapping[str, Any]],
    columns: Sequence[tuple[str, str]],
    width: int | None,
    *,
    whole: bool = False,
) -> list[str]:
    """A table, at most so wide (None: as wide as it is); ``whole``: no column is left out."""
    table = [_Column(title, [row[field] for row in rows]) for title, field in columns]
    if width is None or _width(table) <= width:
        return _beside(table)
    silent = [] if whole else [column for column in table if column.silent]
    silent = silent if len(silent) < len(table) else []
    shown = [column for column in table if column not in silent]
    note = f"(0 or empty in every row: {', '.join(column.title for column in silent)})"
    notes = textwrap.wrap(note, width, break_long_words=False) if silent else []
    if sum(column.least for column in shown) + len(_GAP) * (len(shown) - 1) > width:
        return [*_blocks(shown, width), *(["", *notes] if notes else [])]
    over = _width(shown) - width
    for column in sorted(shown, key=lambda each: each.width, reverse=True):
        # The widest gives most, but none becomes narrower than its words.
        width = column.width
        column.fold(width - min(max(over, 0), width - column.least))
        over -= width - column.width
    return [*_beside(shown), *notes]


class _Column:
    """One column as it is laid out: a cell is a list of lines."""

    def __init__(self, title: str, values: Sequence[object]) -> None:
        self.title = title
        self.right = all(_is_number(value) for value in values)
        self.texts = [printable(_text(value)) for value in values]
        self.silent = all(text in _NOTHING for text in self.texts)
        self.cells = [[text] for text in self.texts]
        self.width = max(_cells(text) for text in (title, *self.texts))
        words = [word for text in self.texts for word in text.split()]
        self.least = max(
            _cells(title), *map(_cells, words), min(self.width, _FOLDED), 0 if words else 1
        )

    def fold(self, width: int) -> None:
        """Fold text between words."""
        if width < self.width:
            self.cells = [_folded(text, width) for text in self.texts]
            self.width = max(_cells(line) for cell in [[self.title], *self.cells] for line in cell)

    def line(self, text: str) -> str:
        """One line of a cell, or the title, as wide as the column."""
        room = " " * (self.width - _cells(text))
        return room + text if self.right else text + room


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return " ".join(f"{each:#x}" if isinstance(each, int) else str(each) for each in value)
    if isinstance(value, dict):
        return " ".join(f"{key}={each}" for key, each in value.items())
    return str(value)


def _cells(text: str) -> int:
    """How many columns of a terminal a text takes: some letters take two, marks none."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(letter) else 1 + (unicodedata.east_asian_width(letter) in "WF")
        for letter in text
    )


def _folded(text: str, width: int) -> list[str]:
    """The text in lines of whole words, as wide as they may be; as it is where it fits."""
    if _cells(text) <= width:
        return [text]
    folded: list[str] = []
    for word in text.split():
        if folded and _cells(folded[-1]) + 1 + _cells(word) <= width:
            folded[-1] += f" {word}"
        else:
            folded.append(word)
    return folded or [""]


def _width(table: Sequence[_Column]) -> int:
    return sum(column.width for column in table) + len(_GAP) * (len(table) - 1)


def _beside(table: Sequence[_Column]) -> list[str]:
    """Columns beside each other, under their titles."""
    out = [_GAP.join(column.line(column.title) for column in table).rstrip()]
    for row in zip(*(column.cells for column in table), strict=True):
        for index in range(max(map(len, row))):
            parts = [
                column.line(cell[index] if index < len(cell) else "")
                for column, cell in zip(table, row, strict=True)
            ]
            out.append(_GAP.join(parts).rstrip())
    return out


def _blocks(table: Sequence[_Column], width: int) -> list[str]:
    """A line for each cell, and an empty one between rows."""
    margin = max(_cells(column.title) for column in table)
    out: list[str] = []
    for row in zip(*(column.texts for column in table), strict=True):
        if out:
            out.append("")
        for column, text in zip(table, row, strict=True):
            title = column.title + " " * (margin - _cells(column.title))
            for line in _folded(text, width - margin - len(_GAP)):
                out.append(f"{title}{_GAP}{line}".rstrip())
                title = " " * margin
    return out
