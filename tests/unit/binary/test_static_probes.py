"""Static probes, compared with readelf."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from dprobed.binary.errors import LocationError
from dprobed.binary.static_probes import StaticProbe, static_probes
from tests.unit.location_files import open_path, run

#: What ``<sys/sdt.h>`` of SystemTap writes, by hand.
SOURCE = r"""
unsigned short semaphore __attribute__((section(".probes")));
#define PROBE(provider, name, semaphore, arguments)                              \
    __asm__ volatile("990: nop\n"                                                \
        ".pushsection .note.stapsdt,\"?\",\"note\"\n"                            \
        ".balign 4\n .4byte 992f-991f, 994f-993f, 3\n"                           \
        "991: .asciz \"stapsdt\"\n 992: .balign 4\n"                             \
        "993: .8byte 990b\n .8byte _.stapsdt.base\n .8byte " semaphore "\n"      \
        ".asciz \"" provider "\"\n .asciz \"" name "\"\n .asciz \"" arguments "\"\n" \
        "994: .balign 4\n .popsection\n"                                         \
        ".ifndef _.stapsdt.base\n"                                               \
        ".pushsection .stapsdt.base,\"aG\",\"progbits\",.stapsdt.base,comdat\n"  \
        ".weak _.stapsdt.base\n.hidden _.stapsdt.base\n"                         \
        "_.stapsdt.base: .space 1\n.size _.stapsdt.base,1\n.popsection\n.endif\n")
int main(void)
{
    PROBE("shop", "sold", "0", "-4@%edi 8@-16(%rbp)");
    PROBE("shop", "closed", "semaphore", "");
    return 0;
}
"""


@pytest.fixture
def marked(tmp_path: Path) -> Path:
    """A program with two static probes, one of them with a semaphore."""
    (tmp_path / "marked.c").write_text(SOURCE)
    run("gcc", "-no-pie", "-o", tmp_path / "marked", tmp_path / "marked.c")
    return tmp_path / "marked"


def by_readelf(path: Path | str) -> list[StaticProbe]:
    """What readelf tells of the same notes."""
    found = re.findall(
        r"Provider: (.*)\n\s+Name: (.*)\n\s+Location: (\w+), Base: (\w+), Semaphore: (\w+)\n"
        r"\s+Arguments: ?(.*)",
        run("readelf", "-nW", path),
    )
    return [
        StaticProbe(provider, name, int(place, 16), int(base, 16), int(semaphore, 16), arguments)
        for provider, name, place, base, semaphore, arguments in found
    ]


def test_probes_of_a_program(marked: Path) -> None:
    elf = open_path(str(marked))
    sold, closed = static_probes(elf)
    assert (sold.provider, sold.name, sold.arguments) == ("shop", "sold", "-4@%edi 8@-16(%rbp)")
    assert (closed.provider, closed.name, closed.arguments) == ("shop", "closed", "")
    assert elf.read_vaddr(sold.address, 1) == b"\x90"
    (symbol,) = elf.symbols.find("semaphore")
    assert (sold.semaphore, closed.semaphore) == (0, symbol.value)
    assert [sold, closed] == by_readelf(marked)


def test_addresses_move_with_the_base(marked: Path, tmp_path: Path) -> None:
    """As prelink does it: the sections move, the notes stay as they are."""
    before = static_probes(open_path(str(marked)))
    section = open_path(str(marked)).section(".stapsdt.base")
    assert section is not None
    moved = tmp_path / "moved"
    raw = bytearray(marked.read_bytes())
    # The section's address, in its header.
    where = raw.rfind(section.address.to_bytes(8, "little") + section.offset.to_bytes(8, "little"))
    raw[where : where + 8] = (section.address + 0x1000).to_bytes(8, "little")
    moved.write_bytes(raw)
    after = static_probes(open_path(str(moved)))
    assert [each.address for each in after] == [each.address + 0x1000 for each in before]
    assert [each.semaphore for each in after] == [0, before[1].semaphore + 0x1000]


def test_probes_of_debians_libraries() -> None:
    path = next(Path("/usr/lib/x86_64-linux-gnu").glob("libstdc++.so.6"), None)
    if path is None or not (expected := by_readelf(path)):
        pytest.skip("libstdc++ has no static probes here")
    found = static_probes(open_path(str(path)))
    now = open_path(str(path)).section(".stapsdt.base")
    assert found == expected
    assert now is None or {each.base for each in found} == {now.address}


def test_files_without_any(tmp_path: Path) -> None:
    (tmp_path / "plain.c").write_text("int main(void) { return 0; }\n")
    run("gcc", "-o", tmp_path / "plain", tmp_path / "plain.c")
    assert static_probes(open_path(str(tmp_path / "plain"))) == []


@pytest.mark.slow
@pytest.mark.parametrize("byte", [0, 0x7F, 0xFF])
def test_damaged_notes_raise_nothing_else(byte: int, marked: Path, tmp_path: Path) -> None:
    section = open_path(str(marked)).section(".note.stapsdt")
    assert section is not None
    for at in range(section.offset, section.offset + section.size):
        raw = bytearray(marked.read_bytes())
        raw[at] = byte
        path = tmp_path / "damaged"
        path.write_bytes(raw)
        try:
            assert all(0 <= each.address < 1 << 64 for each in static_probes(open_path(str(path))))
        except LocationError as error:
            assert "\n" not in error.message
        path.unlink()
