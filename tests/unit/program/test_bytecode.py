"""``.dpb`` files: read back as written, the same in every version, and never trusted."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from dprobed.program.bytecode import decode, encode
from dprobed.program.model import ProgramError, Written, select
from dprobed.program.rpn.parser import assemble

GOLDEN = Path(__file__).parents[2] / "programs" / "golden"
PREFIX = 16
#: Where the probes begin in it.
PROBES = 137

PROGRAM = assemble((GOLDEN / "everything.rpn").read_text(), "everything.rpn")
DATA = encode(PROGRAM)


def sealed(rest: bytes, version: int = 4, flags: int = 0) -> bytes:
    """These bytes with a first part that is right for them."""
    first = struct.pack("<4sHHII", b"\x89DPB", version, flags, PREFIX + len(rest), zlib.crc32(rest))
    return first + rest


def damaged(at: int, byte: int) -> bytes:
    """The golden file with another byte."""
    return sealed(DATA[PREFIX:at] + bytes((byte,)) + DATA[at + 1 :])


def refused(data: bytes) -> str:
    with pytest.raises(ProgramError) as caught:
        decode(data, "x.dpb")
    assert caught.value.diagnostics
    return str(caught.value)


def test_golden_file() -> None:
    """The format does not change by accident: a new layout needs a new version number."""
    assert (GOLDEN / "everything.dpb").read_bytes() == DATA


def test_layout_is_as_drawn() -> None:
    assert DATA[:8] == b"\x89DPB\x04\x00\x00\x00"
    assert struct.unpack_from("<II", DATA, 8) == (len(DATA), zlib.crc32(DATA[16:]))
    assert struct.unpack_from("<BBHHHHH", DATA, 16) == (1, 3, 7, 8, 3, 2, 0)
    assert struct.unpack_from("<IIII", DATA, 28) == (1000, 2048, 512, 4096)
    counts = struct.unpack_from("<IIIII", DATA, 44)
    assert counts == (3, 2, len(PROGRAM.code), 1, len(PROGRAM.lines))
    assert DATA[64:75] == b"\x09\x00libc.so.6"
    assert DATA[75:95] == b"\x05\x00calls\x05\x00bytes\x04\x00last"
    assert DATA[95:97] == b"\x01\x00"
    assert struct.unpack_from("<BBBBI3q", DATA, 97) == (8, 1, 2, 3, 300, -4, 100, 8)
    assert DATA[129:137] == b"\x06\x00spread"
    first = struct.unpack_from("<IIIIIIHHHHBBBI", DATA, PROBES)
    assert first == (0, 0, PROGRAM.probes[0].end, 5, 6, 128, 2, 3, 4, 0x2FFF, 255, 5, 3, 0)
    assert DATA[PROBES + 39 : PROBES + 42] == b"\x55\x48\x89"
    assert DATA[PROBES + 42 : PROBES + 54] == b"\x0a\x00malloc+0x4"
    places = struct.unpack("<" + 4 * "HIH", DATA[-32:])
    at = [PROGRAM.name_at, *PROGRAM.probes_at]
    assert places == tuple(number for place in at if place is not None for number in place)
    last = struct.unpack("<IHIH", DATA[-44:-32])
    assert last == (*PROGRAM.lines[-1], PROGRAM.columns[-1])


def test_round_trip() -> None:
    assert decode(DATA) == PROGRAM
    part = select(PROGRAM, frozenset({3}))
    assert len(part.probes) == 1
    assert decode(encode(part)) == part


def test_names_of_values_come_back() -> None:
    source = "name = x\noffset = f\n    push 1\n    log i32 result\n    push 2\n    log u8 n\n"
    program = assemble(source, "x.rpn")
    assert program.names == ("result", "n")
    assert decode(encode(program)) == program


def test_a_program_without_places_comes_back_without() -> None:
    bare = replace(PROGRAM, columns=(), name_at=None, probes_at=())
    assert decode(encode(bare)) == bare
    unknown = encode(bare)[PREFIX:-1]
    assert "a place in its source has a value" in refused(sealed(unknown + b"\x01"))
    beyond = replace(PROGRAM, name_at=Written(7, 1, 1))
    assert "a place's line or source file does not exist" in refused(encode(beyond))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "it does not begin as one"),
        (b"\x7fELF" + bytes(100), "it does not begin as one"),
        (DATA[:10], "cut short in its first 16 bytes"),
        (DATA[:-1], f"it says {len(DATA)} bytes, and there are {len(DATA) - 1}"),
        (DATA + b"\0", f"it says {len(DATA)} bytes, and there are {len(DATA) + 1}"),
        (sealed(DATA[16:] + b"\0"), "there are bytes after its end"),
        (sealed(DATA[16:], version=3), "it has version 3; version 4 is known"),
        (sealed(DATA[16:], version=5), "it has version 5; version 4 is known"),
        (sealed(DATA[16:], flags=1), "it has unknown flags"),
        (DATA[:20] + b"\xff" + DATA[21:], "its check sum is wrong"),
        (sealed(b""), "cut short in its header"),
        (sealed(b"\x03" + DATA[17:]), "its header has a value that is not known"),
        (sealed(DATA[16:26] + b"\xff\xff" + DATA[28:]), "cut short in its names"),
        (sealed(DATA[16:44] + b"\xff" * 4 + DATA[48:]), "cut short in its probes"),
        (sealed(DATA[16:52] + b"\xff" * 4 + DATA[56:]), "cut short in its code"),
        (sealed(DATA[16:17] + b"\x07" + DATA[18:]), "its header has a value that is not known"),
        (sealed(DATA[16:77] + b"\xff" + DATA[78:]), "its names is not UTF-8 text"),
        (sealed(DATA[16:66] + b"\xff" + DATA[67:]), "its name is not UTF-8 text"),
        (sealed(DATA[16:95] + b"\xff\xff" + DATA[97:]), "cut short in its maps"),
        (sealed(DATA[16:97] + b"\x63" + DATA[98:]), "a map has a value that is not known"),
        (sealed(DATA[16:98] + b"\x02" + DATA[99:]), "a map has a value that is not known"),
        (damaged(PROBES + 32, 9), "a probe has a value that is not known"),
        (damaged(PROBES + 33, 0x80), "a probe has a value that is not known"),
    ],
)
def test_what_is_no_dpb_file(data: bytes, message: str) -> None:
    text = refused(data)
    assert text.startswith(f"x.dpb: error: not a usable .dpb file: {message}\n")
    assert "dprobe compile" in text


def test_every_file_that_is_cut_short_is_refused() -> None:
    for length in range(len(DATA)):
        refused(DATA[:length])
        refused(sealed(DATA[PREFIX:length]))


def test_every_byte_may_be_wrong() -> None:
    """With a check sum that holds: what is still accepted is another program, verified."""
    for place in range(PREFIX, len(DATA)):
        for flip in (0x01, 0x80, 0xFF):
            rest = bytearray(DATA[PREFIX:])
            rest[place - PREFIX] ^= flip
            try:
                program = decode(sealed(bytes(rest)))
            except ProgramError as error:
                assert error.diagnostics
            else:
                assert program != PROGRAM
                assert encode(program) == sealed(bytes(rest))


@settings(max_examples=200)
@given(
    st.lists(st.tuples(st.integers(PREFIX, len(DATA) - 1), st.binary(max_size=8)), max_size=6),
)
def test_any_bytes_are_judged(changes: list[tuple[int, bytes]]) -> None:
    data = bytearray(DATA)
    for place, new in changes:
        data[place : place + len(new)] = new
    try:
        program = decode(sealed(bytes(data[PREFIX:])))
    except ProgramError as error:
        assert error.diagnostics
    else:
        assert encode(program) == sealed(bytes(data[PREFIX:]))


def test_a_length_of_thousands_of_digits_is_refused() -> None:
    probe = replace(PROGRAM.probes[0], offset=None, address="a:" + "9" * 5000, watchpoint=None)
    text = refused(encode(replace(PROGRAM, probes=(probe, *PROGRAM.probes[1:]))))
    assert "`address` is longer than 4096 characters" in text
    assert "only a watchpoint has a length" in text
