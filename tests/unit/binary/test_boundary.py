"""Instruction boundaries, compared with objdump byte by byte."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from dprobed.binary import boundary
from dprobed.binary.errors import LocationError
from dprobed.binary.file import Binary
from dprobed.binary.places import Place, place_at, resolve
from tests.unit.location_files import LIBC, objcopy, open_path, program, run


def disassembled(path: Path | str, *options: str) -> set[int]:
    """The addresses of instructions that objdump shows."""
    text = run("objdump", "-d", "--no-show-raw-insn", "-w", *options, path)
    return {int(match, 16) for match in re.findall(r"^ *([0-9a-f]+):\t", text, re.MULTILINE)}


def at(elf: Binary, vaddr: int) -> str:
    """``ok``, ``unknown`` or ``inside``."""
    try:
        return place_at(elf, vaddr).boundary
    except LocationError as error:
        assert "inside an instruction" in error.message
        return "inside"


@pytest.mark.parametrize("strip", [False, True])
def test_every_byte_of_a_function(strip: bool) -> None:
    """With symbols, and by unwind entries alone."""
    whole = program("-rdynamic")
    path = objcopy(whole, "allbytes", "--strip-all") if strip else whole
    elf = open_path(str(path))
    starts = disassembled(whole)
    for name in ("main", "location_main.c:helper", "location_other", "strong_function"):
        (place,) = resolve(open_path(str(whole)), name)
        for vaddr in range(place.vaddr, place.vaddr + place.size):
            assert at(elf, vaddr) == ("ok" if vaddr in starts else "inside"), hex(vaddr)


@pytest.mark.parametrize("name", ["malloc", "vfprintf", "qsort"])
def test_functions_of_libc(name: str) -> None:
    elf = open_path(LIBC)
    (place,) = resolve(elf, name)
    end = place.vaddr + place.size
    starts = disassembled(LIBC, f"--start-address={place.vaddr}", f"--stop-address={end}")
    for vaddr in range(place.vaddr, end):
        assert at(elf, vaddr) == ("ok" if vaddr in starts else "inside"), hex(vaddr)


def test_stripped_program_of_debian() -> None:
    """gdb has 15 MB of code, of which unwind entries alone say where functions begin."""
    elf = open_path(str(Path(shutil.which("gdb", path="/usr/bin") or "/usr/bin/gdb").resolve()))
    segment = next(segment for segment in elf.segments if segment.executable)
    for start in range(segment.vaddr + 0x10000, segment.vaddr + segment.file_size, 0x80000):
        found = sorted(
            disassembled(elf.path, f"--start-address={start}", f"--stop-address={start + 256}")
        )
        # objdump starts in the middle of something: after 64 bytes it is in step, until its end
        # cuts an instruction.
        known = [at(elf, vaddr) for vaddr in found if start + 64 < vaddr < start + 240]
        assert "inside" not in known
        assert "ok" in known or set(known) <= {"unknown"}


def test_large_functions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that are not remembered give the same answers."""
    monkeypatch.setattr(boundary, "_REMEMBERED", 8)
    elf = open_path(str(program("-DLARGE")))
    starts = disassembled(elf.path)
    (place,) = resolve(elf, "main")
    for vaddr in range(place.vaddr, place.vaddr + place.size):
        assert at(elf, vaddr) == ("ok" if vaddr in starts else "inside")
    assert not elf.boundaries.known


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boundary, "_MOST_BYTES", 1000)
    elf = open_path(LIBC)
    places: list[Place] = []
    for name in ("malloc", "free", "calloc", "realloc", "fopen", "fclose", "qsort", "strtol"):
        places += resolve(elf, f"{name}+0")
        at(elf, places[-1].vaddr + 1)
        assert (
            len(elf.boundaries.known) <= 1 or sum(map(len, elf.boundaries.known.values())) <= 1000
        )


def test_message_says_where_instructions_begin() -> None:
    with pytest.raises(LocationError) as caught:
        resolve(open_path(str(program())), "bare_label+3")
    assert "bare_label+0x3 is inside an instruction (mov eax,11223344h)" in caught.value.message
    assert "3 bytes before, the next one 2 bytes after" in caught.value.hint
    for spec in ("bare_label", "bare_label+5"):
        assert resolve(open_path(str(program())), spec)[0].boundary == "ok"


def test_bytes_that_are_no_instruction_prove_nothing(tmp_path: Path) -> None:
    source = tmp_path / "mixed.c"
    # 0x06 is no instruction in 64-bit mode: what follows it cannot be judged.
    source.write_text(
        '__asm__(".globl mixed\\n.type mixed, @function\\nmixed: ret\\n.byte 0x06, 0x06\\n"\n'
        '        "movl $1, %eax\\nret\\n.size mixed, .-mixed\\n");\n'
        "int main(void) { return 0; }\n"
    )
    run("gcc", source, "-o", tmp_path / "mixed")
    elf = open_path(str(tmp_path / "mixed"))
    assert resolve(elf, "mixed+3")[0].boundary == "unknown"
    assert resolve(elf, "mixed+4")[0].boundary == "unknown"
