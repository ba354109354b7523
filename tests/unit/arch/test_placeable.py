"""Which engine can serve an instruction, as its bytes tell."""

from __future__ import annotations

import pytest
from iced_x86 import Decoder

from dprobed.arch.x86_64.placeable import ModuleSpan, Way, way

#: A module of an executable; its heap is behind it.
SPAN = ModuleSpan(0x1000, 0x5000, -(1 << 31), 1 << 28)


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("b8 01 00 00 00", Way.JUMP),  # mov eax,1
        ("55 48 89 e5 41 57", Way.PUN),  # push rbp; behind it a jump's displacement
        ("c3 00 00 00 00", Way.SIGNAL),  # into the module itself
        ("c3 00 00 00 01", Way.SIGNAL),  # where the heap may be
        ("c3 00 00 00 71", Way.PUN),
        ("c3 00 00 00 81", Way.PUN),  # before it
        ("0f 05 00 00 00 00 00", Way.TRAP),  # syscall
        ("f3 48 ab 00 00 00 00", Way.TRAP),  # rep stosq
        ("9c 00 00 00 71", Way.TRAP),  # pushf
        ("66 9c 00 00 71 71", Way.TRAP),  # pushf, of 16 bits
        ("9d 00 00 00 71", Way.NONE),  # popf
        ("66 9d 00 00 71 71", Way.NONE),
        ("cd 03 00 00 00 71", Way.NONE),  # int 3
        ("06", Way.NONE),  # no instruction
    ],
)
def test_how_a_probe_can_be_there(code: str, found: Way) -> None:
    text = bytes.fromhex(code) + bytes(16)
    instruction = Decoder(64, text, ip=0x2000).decode()
    assert way(text, instruction, SPAN)[0] == found
