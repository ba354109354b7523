"""Call frame information: rows as pyelftools has them, and what is damaged."""

from __future__ import annotations

import os
import random
import subprocess
from pathlib import Path
from typing import Any

import pytest
from elftools.dwarf.callframe import FDE, ZERO
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

from dprobed.binary.cfi import NO_RULE, UnwindRows
from dprobed.binary.cfi_program import (
    AT,
    COMPUTED,
    OFFSET,
    REGISTER,
    UNDEFINED,
    VALUE,
    Rule,
)
from dprobed.binary.elf import ElfFile
from dprobed.binary.errors import LocationError
from tests.conftest import BuildTarget

KINDS = {
    "UNDEFINED": UNDEFINED,
    "OFFSET": OFFSET,
    "VAL_OFFSET": VALUE,
    "REGISTER": REGISTER,
    "EXPRESSION": AT,
    "VAL_EXPRESSION": COMPUTED,
}


def rows_of(path: Path | str) -> UnwindRows:
    return UnwindRows(ElfFile(os.open(path, os.O_RDONLY | os.O_CLOEXEC), str(path)))


def rule_at(rows: UnwindRows, address: int) -> Rule | None:
    block = rows.block(address)
    assert block.start <= address < block.end
    assert block.addresses == sorted(set(block.addresses))
    found = NO_RULE
    for start, number in zip(block.addresses, block.rules, strict=True):
        if start <= address:
            found = number
    return None if found == NO_RULE else block.table[found]


def expected(row: dict[Any, Any], fde: Any) -> tuple[Any, ...]:
    """A row of pyelftools in our terms."""
    cfa = row["cfa"]
    base = (cfa.reg, cfa.offset, b"") if cfa.expr is None else (-1, 0, bytes(cfa.expr))
    registers = []
    for number, how in row.items():
        if isinstance(number, int) and number <= 16 and how.type in KINDS:
            argument = how.arg
            expression = bytes(argument) if isinstance(argument, list) else b""
            value = argument if isinstance(argument, int) else 0
            registers.append((number, KINDS[how.type], value, expression))
    signal = b"S" in fde.cie.header["augmentation"]
    return (*base, tuple(sorted(registers)), fde.cie["return_address_register"], signal)


def entries(path: Path | str, debug: bool) -> list[Any]:
    with open(path, "rb") as file:
        dwarf = ELFFile(file).get_dwarf_info(relocate_dwarf_sections=False)
        listed = dwarf.CFI_entries() if debug else dwarf.EH_CFI_entries()
        return [each for each in listed if isinstance(each, FDE) and not isinstance(each, ZERO)]


def compare(path: Path | str, some: int, debug: bool = False) -> int:
    """How many rows of some entries are the same."""
    rows, seen = rows_of(path), 0
    listed = entries(path, debug)
    for fde in random.Random(1).sample(listed, min(some, len(listed))):
        start, size = fde["initial_location"], fde["address_range"]
        try:
            table = fde.get_decoded().table
        except ValueError:
            continue  # it does not know DW_CFA_GNU_args_size, and cannot say so
        places = [row["pc"] for row in table] + [start + size]
        for row, end in zip(table, places[1:], strict=True):
            if row["pc"] < end:
                for address in {row["pc"], end - 1}:
                    rule = rule_at(rows, address)
                    assert rule is not None and tuple(rule) == expected(row, fde), hex(address)
                seen += 1
    return seen


@pytest.mark.parametrize("path", ["/lib/x86_64-linux-gnu/libc.so.6", "/usr/bin/bash"])
def test_the_same_as_pyelftools(path: str) -> None:
    assert compare(path, 300) > 1000


def test_debug_frame(build_target: BuildTarget) -> None:
    flags = ("-O2", "-fno-asynchronous-unwind-tables", "-fno-unwind-tables")
    program = build_target("stacks.c", *flags)
    assert compare(program, 100, debug=True) > 20


def test_what_has_no_entry_has_no_rule(build_target: BuildTarget) -> None:
    program = build_target("stacks.c", "-O2")
    elf = ElfFile(os.open(program, os.O_RDONLY | os.O_CLOEXEC), str(program))
    with open(program, "rb") as file:
        table = ELFFile(file).get_section_by_name(".symtab")
        assert isinstance(table, SymbolTableSection)
        bare, marked = (
            (table.get_symbol_by_name(each) or [])[0] for each in ("bare_frames", "marked")
        )
    rows = UnwindRows(elf)
    assert rule_at(rows, bare["st_value"]) is None
    assert rule_at(rows, marked["st_value"]) is not None
    for address in (0, 1, (1 << 64) - 2):
        assert rule_at(rows, address) is None


def test_a_file_without_any(tmp_path: Path, build_target: BuildTarget) -> None:
    program = build_target("stacks.c", "-O2")
    bare = tmp_path / "bare"
    removed = ("--remove-section=.eh_frame", "--remove-section=.eh_frame_hdr", "--strip-debug")
    subprocess.run(["objcopy", *removed, program, bare], check=True)
    block = rows_of(bare).block(0x1000)
    assert (block.start, block.addresses) == (0, [])


def test_damage_is_no_rule_and_never_an_error(tmp_path: Path, build_target: BuildTarget) -> None:
    """Whatever the bytes of the sections are: an answer that keeps to its form."""
    program = build_target("stacks.c", "-O2")
    data = program.read_bytes()
    elf = ElfFile(os.open(program, os.O_RDONLY | os.O_CLOEXEC), str(program))
    sections = [elf.section(name) for name in (".eh_frame", ".eh_frame_hdr")]
    drawn = random.Random(5)
    for number in range(300):
        damaged = bytearray(data)
        section = sections[number % 2]
        assert section is not None
        for _ in range(drawn.choice([1, 4, 40])):
            at = section.offset + drawn.randrange(section.size)
            damaged[at] = drawn.choice([0, 0xFF, drawn.randrange(256)])
        path = tmp_path / "damaged"
        path.write_bytes(damaged)
        try:
            rows = rows_of(path)
        except LocationError:
            continue  # it says that it is somewhere else
        for address in (0x1000, 0x1200, 0x1400, 0x1800):
            rule_at(rows, address)
