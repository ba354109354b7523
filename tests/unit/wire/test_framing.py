"""LineBuffer out of bytes that come in any pieces. (Bodies with a length: test_protocol.)"""

from __future__ import annotations

import pytest

from dprobed.wire.framing import LineBuffer

DATA = b'{"one":1}\n\n{"three":3}\nunfinished'


def taken(lines: LineBuffer) -> list[bytes]:
    found = []
    while (line := lines.next()) is not None:
        found.append(line)
    return found


@pytest.mark.parametrize("size", [1, 2, 7, 100])
def test_lines_in_pieces(size: int) -> None:
    lines = LineBuffer()
    found = []
    for start in range(0, len(DATA), size):
        lines.feed(DATA[start : start + size])
        found += taken(lines)
    assert found == [b'{"one":1}', b"", b'{"three":3}']
    assert (len(lines), lines.whole, lines.unfinished) == (10, 0, 10)


def test_what_waits_is_counted() -> None:
    lines = LineBuffer()
    lines.feed(DATA)
    assert (len(lines), lines.whole, lines.unfinished) == (len(DATA), len(DATA) - 10, 10)
    assert lines.next() == b'{"one":1}'
    assert lines.whole == len(DATA) - 20
    lines.clear()
    assert (len(lines), lines.next()) == (0, None)
