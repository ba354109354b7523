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
    found = {vaddr: at(elf, vaddr) for vaddr in range(place.vaddr, end)}
    for vaddr, known in found.items():
        assert known in ("ok" if vaddr in starts else "inside", "unknown"), hex(vaddr)
    # What is left is padding.
    assert sum(known == "unknown" for known in found.values()) < len(found) / 20


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


MIXED = {
    # A jump table behind the jump through it; its bytes look like the beginnings of instructions.
    "table": (
        "and $1, %edi\n lea 9f(%rip), %rdx\n movslq (%rdx,%rdi,4), %rax\n add %rdx, %rax\n"
        "jmp *%rax\n"
        "{data}: 9: .long 1f-9b, 2f-9b\n .byte 0x48, 0xb8, 0x0f\n"
        "1: mov $10, %eax\n ret\n2: mov $11, %eax\n ret\n"
    ),
    # Constants behind a return.
    "constants": "mov {data}(%rip), %rax\n ret\n{data}: .quad 0x1122334455667788, 0x90\n",
    # A text that is jumped over, or over which is called.
    "text": 'jmp 1f\n{data}: .ascii "mark me"\n1: mov $1, %eax\n{code}: ret\n',
    "called": 'call 1f\n{data}: .asciz "text"\n1: pop %rax\n{code}: ret\n',
    # Entered at two places, of which one has a prefix before it.
    "prefixed": "test %esi, %esi\n je {data}\n lock\n{data}: addl $1, (%rdi)\n{code}: ret\n",
}


@pytest.mark.parametrize("name", MIXED)
def test_data_in_code_is_not_taken_for_code(name: str, tmp_path: Path) -> None:
    body = MIXED[name].format(data="data_in_it", code="code_in_it")
    source = tmp_path / "mixed.S"
    source.write_text(
        f".text\n.globl mixed\n.type mixed, @function\nmixed:\n{body}.size mixed, .-mixed\n"
        ".globl main\n.type main, @function\nmain: ret\n.size main, .-main\n"
        '.section .note.GNU-stack,"",@progbits\n'
    )
    run("gcc", "-c", source, "-o", tmp_path / "mixed.o")
    symbols = run("nm", tmp_path / "mixed.o")
    offsets = {line.split()[2]: int(line.split()[0], 16) for line in symbols.splitlines()}
    run("strip", "-N", "data_in_it", "-N", "code_in_it", tmp_path / "mixed.o")
    run("gcc", tmp_path / "mixed.o", "-o", tmp_path / "mixed")
    elf = open_path(str(tmp_path / "mixed"))
    (place,) = resolve(elf, "mixed")
    base = place.vaddr - offsets["mixed"]
    assert at(elf, base + offsets["mixed"]) == "ok"
    if name == "prefixed":
        # A breakpoint there would be executed behind the prefix, which is no instruction.
        assert at(elf, base + offsets["data_in_it"]) == "inside"
    else:
        for vaddr in range(base + offsets["data_in_it"], base + offsets["data_in_it"] + 4):
            assert at(elf, vaddr) == "unknown"
    if "code_in_it" in offsets:
        assert at(elf, base + offsets["code_in_it"]) == "ok"


SWITCH = """
int chosen(int n, int m) {
    switch (n) {
    case 0: return m * 3; case 1: return m + 7; case 2: return m / 5; case 3: return m ^ 9;
    case 4: return m << 3; case 5: return m % 7; case 6: return -m; default: return 0;
    }
}
int main(int n, char **v) { (void)v; return chosen(n, n); }
"""


@pytest.mark.parametrize("flags", [("-fPIE", "-pie"), ("-fno-pie", "-no-pie")], ids=" ".join)
def test_cases_of_a_switch_are_reached(tmp_path: Path, flags: tuple[str, ...]) -> None:
    """Through the tables that gcc makes."""
    source = tmp_path / "switch.c"
    source.write_text(SWITCH)
    run("gcc", "-O2", "-fno-inline", *flags, source, "-o", tmp_path / "switch")
    elf = open_path(str(tmp_path / "switch"))
    (place,) = resolve(elf, "chosen")
    end = place.vaddr + place.size
    limits = (f"--start-address={place.vaddr}", f"--stop-address={end}")
    text = run("objdump", "-d", "--no-show-raw-insn", "-w", *limits, elf.path)
    assert re.search(r"jmp +\*", text)
    instructions = re.findall(r"^ *([0-9a-f]+):\t(.*)$", text, re.MULTILINE)
    padding = ("nop", "xchg", "data16", "cs nop")
    code = {int(vaddr, 16) for vaddr, what in instructions if not what.startswith(padding)}
    assert len(code) > 20
    assert [hex(vaddr) for vaddr in code if at(elf, vaddr) != "ok"] == []


def test_landing_pads_are_code(tmp_path: Path) -> None:
    """Nothing but the unwinder leads there."""
    source = tmp_path / "catches.cc"
    source.write_text(
        "extern int thrower(int);\nint other;\n"
        'extern "C" int catches(int n) {\n'
        "    try { return thrower(n); } catch (int e) { other += e; } catch (...) { other++; }\n"
        "    return other;\n}\n"
        "int thrower(int n) { if (n > 1) throw n; return n; }\n"
        "int main(int n, char **) { return catches(n); }\n"
    )
    run("g++", "-O1", "-fno-inline", source, "-o", tmp_path / "catches")
    elf = open_path(str(tmp_path / "catches"))
    (place,) = resolve(elf, "catches")
    end = place.vaddr + place.size
    starts = disassembled(elf.path, f"--start-address={place.vaddr}", f"--stop-address={end}")
    for vaddr in range(place.vaddr, end):
        assert at(elf, vaddr) == ("ok" if vaddr in starts else "inside"), hex(vaddr)
