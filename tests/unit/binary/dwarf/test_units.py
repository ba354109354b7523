"""Entries of debug information, compared with pyelftools."""

from __future__ import annotations

from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile

from dprobed.binary.dwarf.debug import DebugFile
from dprobed.binary.dwarf.lists import ranges
from dprobed.binary.errors import LocationError
from tests.unit.location_files import FOLDER, TARGETS, open_path, run

FORMATS = ["-gdwarf-2", "-gdwarf-3", "-gdwarf-4", "-gdwarf-5", "-gdwarf64", "-gz=zlib",
           "-fdebug-types-section"]  # fmt: skip


def built(*flags: str, source: str = "variables.c") -> Path:
    """A program with debug information of a format."""
    made = FOLDER / f"units{'-'.join(flags).replace('=', '')}-{source}.out"
    if not made.exists():
        compiler = "g++" if source.endswith(".cc") else "gcc"
        run(compiler, "-g", *flags, TARGETS / source, "-o", made)
    return made


@pytest.mark.parametrize("version", FORMATS)
def test_every_entry_against_pyelftools(version: str) -> None:
    path = built("-O2", version)
    debug = DebugFile(open_path(str(path)))
    ours = {
        entry.offset: (entry.tag, {name: value for name, (_, value) in entry.attributes.items()})
        for header in debug.headers()
        for entry in debug.unit(header).entries(*range(0x5000))
    }
    with path.open("rb") as file:
        dwarf = ELFFile(file).get_dwarf_info()
        theirs = {
            die.offset: die
            for unit in dwarf.iter_CUs()
            for die in unit.iter_DIEs()
            if not die.is_null()
        }
        assert ours.keys() == theirs.keys() and len(ours) > 100
        for offset, die in theirs.items():
            _, found = ours[offset]
            assert len(found) == len(die.attributes)
            for value, attribute in zip(found.values(), die.attributes.values(), strict=True):
                if attribute.form in ("DW_FORM_flag_present", "DW_FORM_implicit_const"):
                    continue  # which pyelftools has no raw value of
                raw = attribute.raw_value
                assert value == (bytes(raw) if isinstance(raw, list) else raw), attribute


def test_what_is_within_what() -> None:
    debug = DebugFile(open_path(str(built("-O2", "-gdwarf-5"))))
    (unit,) = (debug.unit(header) for header in debug.headers())
    count = 0
    waiting = [unit.top]
    while waiting:
        entry = waiting.pop()
        children = list(entry.children())
        assert all(child.parent == entry for child in children)
        # Not known from above, it is looked for.
        assert all(unit.entry_at(child.offset).parent == entry for child in children)
        waiting += children
        count += 1
    assert count == len(list(unit.entries(*range(0x5000))))


@pytest.mark.parametrize("version", ["-gdwarf-4", "-gdwarf-5"])
def test_ranges(version: str) -> None:
    """Parts of a function that are not beside each other."""
    path = built("-O2", version)
    debug = DebugFile(open_path(str(path)))
    unit = debug.unit(debug.headers()[0])
    found = ranges(unit.top)
    symbols = run("nm", path)
    main = next(int(line.split()[0], 16) for line in symbols.splitlines() if line.endswith(" main"))
    assert len(found) > 1 and any(start <= main < end for start, end in found)


def test_a_reference_outside_of_its_unit_is_damage() -> None:
    debug = DebugFile(open_path(str(built("-O2", "-gdwarf-5"))))
    unit = debug.unit(debug.headers()[0])
    with pytest.raises(LocationError, match="damaged debug information: a reference to 0xffffff"):
        unit.entry_at(0xFFFFFF)
