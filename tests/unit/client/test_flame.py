"""Flame graphs of maps with stacks: what is drawn, and that names of others cannot do anything."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import msgspec
import pytest
from dprobe.lib.errors import UserError
from dprobe.view import flame
from dprobe.view.folded import drawn

from tests.unit.client.test_folded import STACK, summary

SVG = "{http://www.w3.org/2000/svg}"
HOSTILE = "</script><script>alert(1)</script>]]><b a='\"&{x}"
STACKS = [(["main", "a", "leaf"], 6), (["main", "b"], 3), (["main", "a"], 1)]


def boxes(graph: str) -> dict[tuple[str, int], tuple[float, float]]:
    """Of each frame, by its name and how many are below: from where on, and how wide."""
    return {
        (each.attrib["data-name"], int(each.attrib["data-d"])): (
            float(each.attrib["data-x"]),
            float(each.attrib["data-w"]),
        )
        for each in ElementTree.fromstring(graph).iter(f"{SVG}g")
    }


def test_a_frame_is_as_wide_as_what_was_counted_in_it() -> None:
    assert boxes(flame.svg("calls", "calls", STACKS)) == {
        ("all", 0): (0, 1200),
        ("main", 1): (0, 1200),
        ("a", 2): (0, 840),
        ("leaf", 3): (0, 720),
        ("b", 2): (840, 360),
    }


def test_what_is_in_a_frame_can_be_read() -> None:
    root = ElementTree.fromstring(flame.svg("bytes", "bytes", STACKS))
    titles = [each.text for each in root.iter(f"{SVG}title")]
    assert "a: 7 bytes, 70.00%" in titles
    texts = [each.text for each in root.iter(f"{SVG}text")]
    assert "bytes" in texts
    assert "leaf" in texts


def test_what_is_too_narrow_is_told_of() -> None:
    graph = flame.svg("calls", "calls", [(["wide"], 1_000_000), (["narrow", "deeper"], 1)])
    assert ("narrow", 1) not in boxes(graph)
    assert "calls (2 narrow frames not drawn)" in graph


class Elements(HTMLParser):
    """The elements of a page, their attributes, and what is in its scripts."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        self.attributes += attrs


@pytest.mark.parametrize("as_page", [False, True])
def test_names_do_nothing_and_nothing_is_loaded(as_page: bool) -> None:
    draw = flame.html if as_page else flame.svg
    page = draw(HOSTILE, HOSTILE, [([HOSTILE, "x" * 5000], 2)])
    elements = Elements()
    elements.feed(page)
    assert elements.names.count("script") == 1
    assert "b" not in elements.names
    loading = {"src", "href", "xlink:href", "action", "data", "onload", "onclick"}
    assert not loading & {name for name, _ in elements.attributes}
    assert not re.search(r"url\(|@import|fetch|XMLHttp|eval\(", page)
    addresses = re.findall(r"https?://[^\"' ]*", page)
    assert set(addresses) == {"http://www.w3.org/2000/svg"}
    if not as_page:
        assert (HOSTILE, 1) in boxes(page)


def test_maps_of_several_processes_are_beside_each_other() -> None:
    one = summary("sum", {"key": [STACK], "value": 3})
    two = summary("sum", {"key": [STACK], "value": 5})
    found = boxes(drawn([one, two], None, page=False))
    assert found["malloc", 6][1] == 1200
    by_process = [msgspec.structs.replace(each, pid=pid) for each, pid in ((one, 7), (two, 8))]
    found = boxes(drawn(by_process, None, page=False))
    assert found["process 7", 1] == (0, 450)
    assert found["process 8", 1] == (450, 750)


def test_sums_below_nothing_are_told_of() -> None:
    one = summary("sum", {"key": [STACK], "value": 3}, {"key": ["x", STACK], "value": -5})
    assert "m (without 1 sums below 0)" in drawn([one], None, page=True)


def test_what_cannot_be_drawn() -> None:
    empty = summary("sum")
    with pytest.raises(UserError, match="nothing in m"):
        drawn([empty], None, page=False)
    other = msgspec.structs.replace(empty, map="n")
    with pytest.raises(UserError, match="one map; name one of these: m, n"):
        drawn([empty, other], None, page=False)
    with pytest.raises(UserError, match="name one of these: none"):
        drawn([], None, page=False)
