"""Damaged debug information ends with one line, in bounded time."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dprobed.binary.dwarf import constants as dw
from dprobed.binary.dwarf.debug import DebugFile
from dprobed.binary.elf import Section
from dprobed.binary.errors import LocationError
from dprobed.binary.variables.information import DebugInformation
from dprobed.program.types import type_name
from dprobed.program.variables import Functions, NamedType, Visible
from tests.unit.binary.dwarf.test_units import built
from tests.unit.location_files import open_path

SECTIONS = (".debug_info", ".debug_abbrev", ".debug_loclists", ".debug_rnglists", ".debug_str",
            ".debug_line", ".debug_aranges", ".debug_loc", ".debug_ranges")  # fmt: skip
#: One question is answered, or refused, in less; what is usual is some milliseconds.
SECONDS = 5.0


def ask(path: Path, vaddr: int) -> int:
    """Ask all questions; how many were answered. Raises what is not a LocationError."""
    answered = 0
    try:
        known = DebugInformation(open_path(str(path)))
    except LocationError:
        return 0
    questions: tuple[Callable[[], Functions | NamedType | Visible | None], ...] = (
        lambda: known.functions_named("handle"),
        lambda: known.functions_named("twice"),
        lambda: known.function_at(vaddr),
        lambda: known.visible(vaddr),
        lambda: known.type_named("struct node"),
        lambda: known.type_named("node_t"),
        lambda: known.global_named("total"),
    )
    for question in questions:
        began = time.process_time()
        try:
            found = question()
            answered += 1
            types = found.types if found is not None else ()
            for index in range(len(types)):
                type_name(types, index)
        except LocationError as error:
            assert "\n" not in error.message
        assert time.process_time() - began < SECONDS
    return answered


def section_of(path: Path, name: str) -> Section | None:
    return open_path(str(path)).section(name)


def address(path: Path) -> int:
    known = DebugInformation(open_path(str(path)))
    return known.functions_named("handle").functions[0].places[0].address + 0x20


def test_what_is_sound_is_answered() -> None:
    path = built("-O2", "-gdwarf-5")
    assert ask(path, address(path)) == 7


@pytest.mark.parametrize("version", ["-gdwarf-4", "-gdwarf-5"])
@pytest.mark.parametrize("section", SECTIONS)
def test_drawn_damage(tmp_path: Path, version: str, section: str) -> None:
    path = built("-O2", version)
    found = section_of(path, section)
    if found is None:
        return
    good = path.read_bytes()
    vaddr = address(path)
    draw = random.Random(f"{version} {section}")
    answered = 0
    for number in range(12):
        data = bytearray(good)
        for _ in range(draw.choice((1, 3, 20, 200))):
            at = found.offset + draw.randrange(found.size)
            size = draw.choice((1, 1, 2, 4, 8))
            value = draw.choice((0, 0xFF, 0x80, draw.randrange(256)))
            data[at : at + size] = bytes([value]) * min(size, found.offset + found.size - at)
        damaged = tmp_path / f"damaged{number}"
        damaged.write_bytes(data)
        answered += ask(damaged, vaddr)
    assert answered > 0  # not every byte matters


def test_sections_that_are_cut_off(tmp_path: Path) -> None:
    path = built("-O2", "-gdwarf-5")
    good = path.read_bytes()
    vaddr = address(path)
    elf = open_path(str(path))
    headers = int.from_bytes(good[0x28:0x30], "little")
    for number, section in enumerate(elf.sections):
        if section.name.startswith(".debug_"):
            data = bytearray(good)
            at = headers + 64 * number + 32
            data[at : at + 8] = (section.size // 3).to_bytes(8, "little")
            (tmp_path / section.name).write_bytes(data)
            ask(tmp_path / section.name, vaddr)


def test_types_that_refer_to_themselves(tmp_path: Path) -> None:
    """A typedef of itself, and a const of itself: no loop, and a name that ends."""
    path = built("-O2", "-gdwarf-5")
    debug = DebugFile(open_path(str(path)))
    unit = debug.unit(debug.headers()[0])
    info = section_of(path, ".debug_info")
    assert info is not None
    for tag in (dw.TYPEDEF, dw.CONST_TYPE, dw.POINTER_TYPE, dw.STRUCTURE_TYPE):
        data = bytearray(path.read_bytes())
        for entry in unit.entries(tag):
            value = entry.attributes.get(dw.TYPE)
            if value is None:
                continue
            # The reference is the last four bytes of such an entry.
            near = (entry.offset - unit.header.start).to_bytes(4, "little")
            assert isinstance(value[1], int)
            old = value[1].to_bytes(4, "little")
            at = data.find(old, info.offset + entry.offset, info.offset + entry.offset + 24)
            if at >= 0:
                data[at : at + 4] = near
        damaged = tmp_path / f"loop{tag:x}"
        damaged.write_bytes(data)
        ask(damaged, address(path))


def test_a_file_without_debug_information() -> None:
    with pytest.raises(LocationError, match="it has no debug information"):
        DebugInformation(open_path("/bin/true"))
