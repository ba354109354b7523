"""Durations as people write them."""

from __future__ import annotations

import pytest

from dprobed.durations import seconds


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("10", 10),
        ("0.35", 0.35),
        ("500ms", 0.5),
        ("30s", 30),
        (" 1.5 m ", 90),
        ("2h", 7200),
        ("1d", 86400),
        ("", None),
        ("ms", None),
        ("-1", None),
        ("1e3", None),
        ("nan", None),
        ("1w", None),
        ("1" * 400, None),
    ],
)
def test_durations(text: str, number: float | None) -> None:
    assert seconds(text) == number
