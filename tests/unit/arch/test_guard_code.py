"""The guard's handler: its listing, and what is around it."""

from __future__ import annotations

from dprobed.arch.x86_64.guard_code import CODE, DEFAULT_ACTION, HANDLER, TABLE, entry, image
from dprobed.arch.x86_64.signal_frame import RESTORER_CODE
from tests.unit.arch.listing import decoded


def test_the_listing_says_what_the_code_does() -> None:
    assert decoded(HANDLER) == list(CODE)


def test_the_image() -> None:
    data = image(0x7000)
    assert len(data) == TABLE
    assert data.startswith(HANDLER)
    handler, _, restorer, mask = (
        int.from_bytes(data[at : at + 8], "little") for at in range(0x100, 0x120, 8)
    )
    assert handler == 0x7000
    assert data[restorer - handler :].startswith(RESTORER_CODE)
    assert mask == (1 << 64) - 1
    assert not any(data[DEFAULT_ACTION:])
    assert entry(0x1234, 0x5678) == b"\x34\x12".ljust(8, b"\0") + b"\x78\x56".ljust(8, b"\0")
