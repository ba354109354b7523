"""Listings: a table on a terminal, plain columns in a pipe, or one JSON object a line.

Where a terminal is too narrow for the columns, each row is a block of lines.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec

from dprobed.printable import printable

#: Between two columns.
_GAP: Final = 2
#: Text is not folded into less than this.
_FOLDED: Final = 12


def show(
    rows: Iterable[Any],
    columns: Sequence[tuple[str, str]],
    *,
    json: bool,
    empty: str,
) -> None:
    """Print rows (msgspec structs or mappings); ``columns``: (title, field) of those shown.

    With ``json`` every field is printed. ``empty`` is said on standard error where there is no row.
    """
    mappings = [row if isinstance(row, dict) else msgspec.to_builtins(row) for row in rows]
    if json:
        out = sys.stdout
        for mapping in mappings:
            out.write(msgspec.json.encode(mapping).decode() + "\n")
        return
    if not mappings:
        print(empty, file=sys.stderr)
        return
    titles = [title for title, _ in columns]
    cells = [[printable(_text(mapping[field])) for _, field in columns] for mapping in mappings]
    numeric = [
        all(isinstance(mapping[field], int | float) for mapping in mappings) for _, field in columns
    ]
    if sys.stdout.isatty():
        _show_rich(titles, cells, numeric)
    else:
        _show_plain(titles, cells, numeric)


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return " ".join(f"{each:#x}" if isinstance(each, int) else str(each) for each in value)
    if isinstance(value, dict):
        return " ".join(f"{key}={each}" for key, each in value.items())
    return str(value)


def _show_plain(titles: list[str], cells: list[list[str]], numeric: list[bool]) -> None:
    widths = [max(map(len, column)) for column in zip(titles, *cells, strict=True)]
    for row in (titles, *cells):
        parts = [
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, numeric, strict=True)
        ]
        print("  ".join(parts).rstrip())


def _show_rich(titles: list[str], cells: list[list[str]], numeric: list[bool]) -> None:
    # Imported where it is needed only: it is slow to import.
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    least = [
        _least(title, column, right)
        for title, column, right in zip(titles, zip(*cells, strict=True), numeric, strict=True)
    ]
    if sum(least) + _GAP * (len(least) - 1) > console.width:
        _show_blocks(titles, cells)
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0))
    for title, width, right in zip(titles, least, numeric, strict=True):
        # A number that is folded reads as two.
        table.add_column(
            title,
            justify="right" if right else "left",
            overflow="fold",
            no_wrap=right,
            min_width=width,
        )
    for row in cells:
        table.add_row(*(Text(cell) for cell in row))
    console.print(table)


def _least(title: str, cells: Sequence[str], right: bool) -> int:
    """The narrowest that a column may be: numbers and titles stay whole, text is folded."""
    widest = max(map(len, cells))
    return max(len(title), widest if right else min(widest, _FOLDED))


def _show_blocks(titles: list[str], cells: list[list[str]]) -> None:
    """A line for each cell, and an empty one between rows: for terminals too narrow for columns."""
    width = max(map(len, titles))
    blocks = [
        "\n".join(
            f"{title.ljust(width)}  {cell}".rstrip()
            for title, cell in zip(titles, row, strict=True)
        )
        for row in cells
    ]
    print("\n\n".join(blocks))
