"""Trampolines: whether flags are live."""

from __future__ import annotations

import pytest

from dprobed.arch.x86_64.trampoline import flags_are_live


@pytest.mark.parametrize(
    ("code", "live"),
    [
        ("4885ff c3", False),  # test rdi,rdi
        ("48 8d 47 01 4885ff c3", False),  # lea rax,[rdi+1]; test rdi,rdi
        ("74 10 90 90", True),  # je
        ("48 ff c0 4885ff", False),  # inc, which leaves the carry; test
        ("48 ff c0 72 10", True),  # inc; jb
        ("c3", True),
        ("e8 00 00 00 00 4885ff", True),  # call
        ("9c", True),  # pushf
        ("90 " * 20, True),
        ("06", True),  # no instruction
        ("", True),
    ],
)
def test_flags_that_are_written_before_they_are_read_are_not_live(code: str, live: bool) -> None:
    assert flags_are_live(bytes.fromhex(code), 0x1000) == live
