"""What docs/protocol.md says of messages is what they are."""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from dprobed.wire import messages
from dprobed.wire.messages import listings
from dprobed.wire.notices import NoticeKind

DOCUMENT = (Path(__file__).parents[3] / "docs" / "protocol.md").read_text()
_WORD = re.compile(r"`(\w+)`")
_FIELD = re.compile(r"`(\w+)`(?:=(\"[^\"]*\"|\{\}|[\w.]+))?")


def _rows(heading: str) -> Iterator[list[str]]:
    """The rows of the table behind a heading, cell by cell."""
    _, _, behind = DOCUMENT.partition(f"\n{heading}\n")
    for line in behind[behind.index("|") :].splitlines()[2:]:
        if not line.startswith("|"):
            return
        yield [cell.strip() for cell in line.strip("|").split("|")]


def _types(union: object) -> dict[str, type[msgspec.Struct]]:
    """Those of a union, by the word that their messages say."""
    assert isinstance(union, types.UnionType)
    return {
        str(each.__struct_config__.tag): each
        for each in typing.get_args(union)
        if issubclass(each, msgspec.Struct)
    }


REQUESTS, REPLIES, REPORTS = map(_types, (messages.Request, messages.Reply, messages.Report))


def _fields(kind: type[msgspec.Struct]) -> dict[str, Any]:
    """The fields of a message but for its number, with their defaults."""
    return {
        field.name: field.default if field.default_factory is msgspec.NODEFAULT else {}
        for field in msgspec.structs.fields(kind)
        if field.name != "id"
    }


ASKED = [(name, row) for row in _rows("## Requests and replies") for name in _WORD.findall(row[0])]


def test_all_requests_and_replies_stand_there() -> None:
    assert sorted(name for name, _ in ASKED) == sorted(REQUESTS)
    answers = {_WORD.findall(row[2])[0] for _, row in ASKED}
    assert answers == REPLIES.keys() - {"error"}


@pytest.mark.parametrize(("name", "row"), ASKED, ids=[name for name, _ in ASKED])
def test_a_request_has_the_fields_that_stand_there(name: str, row: list[str]) -> None:
    fields = _fields(REQUESTS[name])
    stands = dict(_FIELD.findall(row[1]))
    assert set(stands) == set(fields)
    for field, default in stands.items():
        if default:
            known = fields[field]
            plain = {} if isinstance(known, msgspec.Struct) else known
            assert msgspec.json.decode(default) == plain, field


@pytest.mark.parametrize("reply", sorted(REPLIES.keys() - {"error"}))
def test_a_reply_has_the_fields_that_stand_there(reply: str) -> None:
    """With the requests that it answers, of which one or another leaves some empty."""
    fields = set(_fields(REPLIES[reply]))
    cells = [row[3] for _, row in ASKED if _WORD.findall(row[2]) == [reply]]
    # What a field means may follow it; there other words may stand.
    begins = {word for cell in cells for word in _WORD.findall(cell)}
    assert fields <= begins
    first = {_WORD.findall(cell)[0] for cell in cells}
    assert first <= fields


ITEMS = {
    str(kind.__struct_config__.tag): kind
    for kind in vars(listings).values()
    if isinstance(kind, type)
    and issubclass(kind, msgspec.Struct)
    and kind.__module__ == listings.__name__
    and kind.__struct_config__.tag is not None
}


@pytest.mark.parametrize("item", sorted(ITEMS))
def test_an_item_of_a_listing_has_the_fields_that_stand_there(item: str) -> None:
    found = re.search(rf'`\{{"type":"{item}",((?:\s*"\w+",?)+)\}}`', DOCUMENT)
    assert found is not None
    stands = re.findall(r"\w+", found[1])
    assert sorted(stands) == sorted(_fields(ITEMS[item]))


def test_all_reports_stand_there_with_their_fields() -> None:
    rows = {_WORD.findall(row[0])[0]: row for row in _rows("## Reports")}
    assert rows.keys() == REPORTS.keys()
    for name, row in rows.items():
        if name == "record":  # It is shown by an example.
            continue
        outside = re.sub(r"\([^)]*\)", "", row[1])
        assert set(_WORD.findall(outside)) == set(_fields(REPORTS[name])), name


def test_all_kinds_of_notices_stand_there() -> None:
    (row,) = (row for row in _rows("## Reports") if row[0] == "`notice`")
    found = re.match(r"`kind` \((.*)\), `pid`", row[1])
    assert found is not None
    # Of what a killed tracer had left only the daemon's log tells.
    assert sorted(_WORD.findall(found[1])) == sorted(
        set(NoticeKind) - {NoticeKind.RECOVERED, NoticeKind.ORPHAN}
    )
