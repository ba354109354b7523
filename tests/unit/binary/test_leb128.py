"""Numbers of variable length, as the DWARF standard gives them (7.6)."""

from __future__ import annotations

import pytest

from dprobed.binary.leb128 import sleb, uleb


@pytest.mark.parametrize(
    ("raw", "unsigned", "signed"),
    [
        ("02", 2, 2),
        ("7f", 127, -1),
        ("ff00", 127, 127),
        ("8001", 128, 128),
        ("807f", 16256, -128),
        ("ff7e", 16255, -129),
        ("80" * 9 + "01", 1 << 63, -(1 << 63)),
        ("ff" * 9 + "7f", (1 << 64) - 1, -1),
        ("ff" * 10 + "7f", (1 << 64) - 1, -1),
    ],
)
def test_numbers(raw: str, unsigned: int, signed: int) -> None:
    data = bytes.fromhex("00" + raw + "00")
    behind = len(data) - 1
    assert uleb(data, 1) == (unsigned, behind)
    assert sleb(data, 1) == (signed, behind)


@pytest.mark.parametrize("raw", ["", "80", "ff" * 12 + "00"])
def test_what_does_not_end(raw: str) -> None:
    for read in (uleb, sleb):
        with pytest.raises(IndexError):
            read(bytes.fromhex(raw), 0)
