"""Maps as folded stacks."""

from __future__ import annotations

from typing import Any

import pytest
from dprobe.lib.errors import UserError
from dprobe.lib.summary import SummaryMap
from dprobe.view.folded import folded_lines


def summary(kind: str, *entries: dict[str, Any]) -> SummaryMap:
    return SummaryMap(
        program="p", map="m", kind=kind, arguments=[], pid=None, processes=1, size=4096,
        lost=0, left_out=0, entries=list(entries),
    )  # fmt: skip


STACK = {
    "ustack": [
        {"module": "/lib/libc.so", "offset": 16, "function": "malloc", "plus": 0, "exact": True},
        {
            "module": "/bin/shop", "offset": 32, "function": "sell", "plus": 4,
            "inlined": [{"function": "wrap;up", "file": "w.c", "line": 2}],
        },
        {"signal": True, "address": 4096},
        {"module": "/bin/shop", "offset": 48},
        {"address": 4660},
    ]
}  # fmt: skip


def test_the_outermost_frame_comes_first() -> None:
    one = summary("sum", {"key": ["cat", STACK, 7], "value": 42}, {"key": [STACK], "value": 0})
    assert list(folded_lines([one])) == [
        "cat;7;0x1234;shop+0x30;<signal handler called>;sell;wrap:up;malloc 42"
    ]
    assert list(folded_lines([one], top=1)) == list(folded_lines([one]))


@pytest.mark.parametrize(
    ("one", "reason"),
    [
        (summary("hist", {"key": [STACK], "count": 1}), "m is a hist"),
        (summary("count", {"key": ["cat"], "value": 1}), "m has no stacks in its keys"),
    ],
)
def test_what_cannot_be_folded(one: SummaryMap, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        list(folded_lines([one]))
