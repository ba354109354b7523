"""Listings: what fits beside each other, what is left out, and what is never cut."""

from __future__ import annotations

import importlib
import json
import pkgutil

import dprobe.commands
import dprobe.view
import pytest
from dprobe.view.tables import Listing, between_words, lines, show

from tests.integration.client_support import parsed

WIDTHS = (60, 80, 100, 132)


def _listings() -> dict[str, Listing]:
    """Every listing of every command."""
    found = {}
    for package in (dprobe.commands, dprobe.view):
        for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            for name, value in vars(importlib.import_module(module.name)).items():
                if isinstance(value, Listing):
                    found[f"{module.name}.{name}"] = value
    return found


LISTINGS = _listings()
_WORDS = {
    "reason": "no instruction begins there: the nearest ones are at 0x1234 and at 0x1238",
    "match": "exe = /opt/**; user = www-data",
    "folder": "/var/tmp/traces/of/a/service/with-a-long-name",
}


def _rows(listing: Listing, count: int = 3) -> list[dict[str, object]]:
    """Rows with values that are as long as real ones; one column in five says nothing."""
    rows: list[dict[str, object]] = []
    for row in range(count):
        fields: dict[str, object] = {}
        for index, (_, field) in enumerate(listing.columns):
            if index % 5 == 4:
                fields[field] = 0
            elif index % 3:
                fields[field] = _WORDS.get(field, f"{field}-identifier-{row}.{index}.20240131T10")
            else:
                fields[field] = 1234567 + row
        rows.append(fields)
    return rows


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", LISTINGS)
def test_no_word_is_cut_and_no_line_too_wide(name: str, width: int) -> None:
    listing = LISTINGS[name]
    rows = _rows(listing)
    text = lines(rows, listing.columns, width)
    words = " ".join(text).split()
    for row in rows:
        for value in row.values():
            assert value == 0 or all(word in words for word in str(value).split())
    assert max(map(len, text)) <= width, "\n".join(text)
    for title, field in listing.columns:
        assert title in "\n".join(text) or any(row[field] for row in rows)


@pytest.mark.parametrize("name", LISTINGS)
def test_a_pipe_has_every_column_in_one_line(name: str) -> None:
    listing = LISTINGS[name]
    text = lines(_rows(listing), listing.columns, None)
    assert len(text) == 4
    assert all(title in text[0] for title, _ in listing.columns)


_COLUMNS = (("pid", "pid"), ("place", "place"), ("hits", "hits"), ("missed", "missed"))


def test_what_says_nothing_goes_first_and_is_named() -> None:
    rows = [{"pid": 1, "place": "malloc+0x4", "hits": 7, "missed": 0}]
    assert lines(rows, _COLUMNS, 30) == [
        "pid  place       hits  missed",
        "  1  malloc+0x4     7       0",
    ]
    assert lines(rows, _COLUMNS, 28) == [
        "pid  place       hits",
        "  1  malloc+0x4     7",
        "(0 or empty in every row:",
        "missed)",
    ]


def test_columns_that_were_asked_for_stay() -> None:
    rows = [{"pid": 1, "place": "malloc+0x4", "hits": 7, "missed": 0}]
    assert lines(rows, _COLUMNS, 20, whole=True) == [
        "pid     1",
        "place   malloc+0x4",
        "hits    7",
        "missed  0",
    ]


def test_text_is_folded_between_words() -> None:
    rows = [
        {"pid": 1, "place": "here and there and everywhere and nowhere", "hits": 7, "missed": 1}
    ]
    assert lines(rows, _COLUMNS, 47) == [
        "pid  place                   hits  missed",
        "  1  here and there and         7       1",
        "     everywhere and nowhere",
    ]


def test_a_block_for_each_row_where_nothing_else_fits() -> None:
    name = "redis-server.1234.20240131T101500Z"
    rows = [{"pid": 1, "place": name, "hits": 7, "missed": 1}] * 2
    block = ["pid     1", f"place   {name}", "hits    7", "missed  1"]
    assert lines(rows, _COLUMNS, 40) == [*block, "", *block]


def test_letters_that_are_two_columns_wide() -> None:
    rows = [{"a": "日本", "b": "x"}, {"a": "abcd", "b": "y"}]
    assert lines(rows, (("a", "a"), ("b", "b")), None) == ["a     b", "日本  x", "abcd  y"]


def test_columns_by_title_or_field(capsys: pytest.CaptureFixture[str]) -> None:
    listing = Listing("core", (("core", "name"), ("pid", "pid")), ("path",))
    rows = [{"name": "a.1", "pid": 1, "path": "/tmp/a.1", "rest": 0}]
    show(rows, listing, json=False, empty="", only=("path", "core"))
    show(rows, listing, json=True, empty="", only=("path", "core"))
    show(rows, listing, json=True, empty="")
    head, row, *objects = capsys.readouterr().out.splitlines()
    assert (head.split(), row.split()) == (["path", "core"], ["/tmp/a.1", "a.1"])
    few, all_ = parsed("\n".join(objects))
    assert few == {"type": "core", "schema": 1, "name": "a.1", "path": "/tmp/a.1"}
    assert all_ == {"type": "core", "schema": 1, **json.loads(json.dumps(rows[0]))}


def test_nothing_is_nothing_on_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    listing = Listing("core", (("core", "name"),))
    show([], listing, json=True, empty="there are no cores")
    assert capsys.readouterr() == ("", "")
    show([], listing, json=False, empty="there are no cores")
    assert capsys.readouterr() == ("", "there are no cores\n")


def test_messages_are_broken_between_words() -> None:
    text = "dprobe: process 31900 (cat): thread 31900 is held, until dprobe resume 31900\n  next"
    assert between_words(text, None) == text
    lines = between_words(text, 40).split("\n")
    assert all(len(line) <= 40 for line in lines)
    assert " ".join(lines[:-1]) + "\n" + lines[-1] == text
    # A name is never cut.
    assert between_words("a " + "b" * 50, 40) == "a\n" + "b" * 50
