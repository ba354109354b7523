"""Core files without a process: memory and notes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile

from dprobed.arch.x86_64.core_notes import portable_xstate
from dprobed.arch.x86_64.paging import PAGE
from dprobed.corefile.areas import Area, dumped_size, parse_smaps, without
from dprobed.corefile.writer import (
    Memory,
    ProcessImage,
    ThreadImage,
    layout,
    write_pieces,
)
from dprobed.tracer.dump.dumper import Sparse

SMAPS = b"""\
00400000-00402000 r--p 00000000 fe:00 77 /bin/x (deleted)
Anonymous:             0 kB
Swap:                  0 kB
VmFlags: rd mr mw me sd
00402000-00404000 rw-p 00002000 fe:00 77 /bin/x (deleted)
Anonymous:             4 kB
Swap:                  0 kB
VmFlags: rd wr mr mw me sd
01000000-01008000 rw-p 00000000 00:00 0 [heap]
Anonymous:             0 kB
Swap:                 12 kB
VmFlags: rd wr mr mw me sd
02000000-02004000 rw-p 00000000 00:00 0
Anonymous:            16 kB
Swap:                  0 kB
VmFlags: rd wr mr mw me dd sd
03000000-03001000 rw-s 00000000 00:01 9 /dev/zero (deleted)
Anonymous:             0 kB
Swap:                  0 kB
VmFlags: rd wr sh mr mw me ms sd
04000000-04001000 rw-s 00000000 fe:00 5 /data
Anonymous:             0 kB
Swap:                  0 kB
VmFlags: rd wr sh mr mw me ms sd
05000000-05200000 rw-p 00000000 00:0f 8 /anon_hugepage (deleted)
Anonymous:             0 kB
Swap:                  0 kB
VmFlags: rd wr mr mw me ht sd
06000000-06001000 rw-s 00000000 00:05 6 /dev/card
Anonymous:             0 kB
Swap:                  0 kB
VmFlags: rd wr sh mr mw me ms io sd
07000000-07002000 r-xp 00000000 00:00 0 [vdso]
Anonymous:             0 kB
Swap:                  0 kB
VmFlags: rd ex mr mw me de sd
"""


@pytest.mark.parametrize(
    ("wanted", "sizes"),
    [
        (0x33, [0x1000, 0x2000, 0x8000, 0, 0x1000, 0, 0x200000, 0, 0x2000]),
        (0x00, [0, 0, 0, 0, 0, 0, 0, 0, 0x2000]),
        (0x01, [0, 0x2000, 0x8000, 0, 0, 0, 0, 0, 0x2000]),
        (0x04, [0x2000, 0x2000, 0, 0, 0, 0, 0, 0, 0x2000]),
        (0x08, [0, 0, 0, 0, 0, 0x1000, 0, 0, 0x2000]),
    ],
)
def test_coredump_filter(wanted: int, sizes: list[int]) -> None:
    areas = parse_smaps(SMAPS)
    assert [dumped_size(area, wanted, area.offset == 0) for area in areas] == sizes


@pytest.mark.parametrize(("resident", "full"), [(b"32", True), (b"28", False), (b"0", False)])
def test_where_every_page_is_there(resident: bytes, full: bool) -> None:
    """Then none needs to be looked for."""
    text = (
        b"01000000-01008000 rw-p 00000000 00:00 0 [heap]\nRss:    "
        + resident
        + b" kB\nPss: 32 kB\n"
    )
    assert [area.full for area in parse_smaps(text)] == [full]


def test_resident_areas_are_left_out() -> None:
    areas = parse_smaps(SMAPS)[:3]
    left = list(without(areas, [(0x401000, 0x402000), (0x1002000, 0x1003000)]))
    assert [(area.start, area.end, area.offset) for area in left] == [
        (0x400000, 0x401000, 0),
        (0x402000, 0x404000, 0x2000),
        (0x1000000, 0x1002000, 0),
        (0x1003000, 0x1008000, 0),
    ]


def image(tid: int = 7) -> ProcessImage:
    thread = ThreadImage(tid, bytes(216), fpregs=bytes(512))
    return ProcessImage([thread], "R", 0, 0, 1, 2, (7, 1, 7, 7), b"x", b"/bin/x", bytes(16))


def whole(area: Area, low: int, high: int) -> list[tuple[int, int]]:
    """All of it may be other than zero."""
    return [(low, high)] if low < high else []


def test_more_segments_than_a_header_can_count(tmp_path: Path) -> None:
    """elf(5), PN_XNUM: the count is in section header 0."""
    heap = parse_smaps(SMAPS)[2]
    head, pieces, size = layout(image(), [(heap, 0)] * 70_000, whole)
    (tmp_path / "core").write_bytes(head)
    assert not pieces
    assert size % PAGE == 0
    with (tmp_path / "core").open("rb") as file:
        elf = ELFFile(file)
        assert elf.num_segments() == 70_001
        assert elf.get_segment(70_000)["p_vaddr"] == heap.start


def test_memory_with_holes_and_without_our_breakpoints(tmp_path: Path) -> None:
    source = tmp_path / "mem"
    start = 0x400000
    with source.open("wb") as file:
        file.seek(start)
        file.write(b"\xcc" + bytes(PAGE - 1) + bytes(PAGE) + b"\x90\xcc" + bytes(PAGE - 2))
    area = next(iter(without(parse_smaps(SMAPS)[:1], [])))
    text = parse_smaps(SMAPS)[1]
    opened = os.open(source, os.O_RDONLY)
    core = os.open(tmp_path / "core", os.O_RDWR | os.O_CREAT)
    memory = Memory(opened, opened, original={start: 0x55, start + 2 * PAGE + 1: 0x66})
    head, pieces, size = layout(image(), [(area, 2 * PAGE), (text, PAGE)], whole)
    sink = Sparse(core, lambda: None)
    sink.put(0, head)
    write_pieces(sink, pieces, memory, whole)
    sink.finish(size)
    content = (tmp_path / "core").read_bytes()
    assert content[-3 * PAGE] == 0x55
    assert content[-PAGE : -PAGE + 2] == b"\x90\x66"
    assert len(content) == size
    assert os.fstat(core).st_blocks * 512 < size
    os.close(opened)
    os.close(core)


def test_vector_registers_where_debuggers_look() -> None:
    """AMD's processors keep AVX-512 elsewhere, and a core does not tell."""
    amd = bytearray(2440)
    amd[464:472] = (0x2E7).to_bytes(8, "little")
    amd[832:896], amd[896:2432] = b"k" * 64, b"z" * 1536
    amd[2432:] = b"pkru...."
    moved = portable_xstate(bytes(amd))
    assert (moved[1088:1152], moved[1152:2688]) == (b"k" * 64, b"z" * 1536)
    assert moved[2688:] == b"pkru...."
    assert portable_xstate(bytes(amd[:832])) == bytes(amd[:832])
