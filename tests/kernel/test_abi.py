"""The structures in Python are those of the header, and so are the numbers."""

from __future__ import annotations

import ctypes
import re
import subprocess
from pathlib import Path

import pytest

from dprobed.kernel.abi import ABI, REQUESTS, STRUCTURES, Kind, Refusal, Reset, State
from dprobed.kernel.isa_checksum import ISA
from kernel_bridge.isa_header import HEADER, checksum, header
from tests.kernel.machine import BRIDGE

UAPI = BRIDGE / "uapi" / "dprobes.h"


def _evaluate(folder: Path, expressions: list[str]) -> list[int]:
    """What C says that expressions are."""
    lines = "\n".join(f'printf("%llu\\n", (unsigned long long)({e}));' for e in expressions)
    source = folder / "numbers.c"
    source.write_text(
        f"#include <stddef.h>\n#include <stdio.h>\n#include <{UAPI}>\nint main(void){{{lines}}}\n"
    )
    program = folder / "numbers"
    subprocess.run(["gcc", "-Wall", "-Werror", str(source), "-o", str(program)], check=True)
    text = subprocess.run([str(program)], capture_output=True, text=True, check=True).stdout
    return list(map(int, text.split()))


def test_structures_and_numbers(tmp_path: Path) -> None:
    wanted: dict[str, int] = {"DPROBES_ABI": ABI, **REQUESTS}
    for name, mirror in STRUCTURES.items():
        wanted[f"sizeof(struct {name})"] = ctypes.sizeof(mirror)
        for field, *_ in mirror._fields_:
            at = f"struct {name}, {str(field).removesuffix('_')}"
            wanted[f"offsetof({at})"] = getattr(mirror, field).offset
            wanted[f"sizeof((({at.replace(', ', '*)0)->')})"] = getattr(mirror, field).size
    for number in (*Refusal, *Kind, *State, *Reset):
        wanted[f"DPROBES_{number.name}"] = number
    found = dict(zip(wanted, _evaluate(tmp_path, list(wanted)), strict=True))
    assert found == wanted


def test_nothing_of_the_header_is_left_out() -> None:
    text = UAPI.read_text()
    assert set(re.findall(r"^struct (\w+) \{", text, re.MULTILINE)) == STRUCTURES.keys()
    assert set(re.findall(r"#define (\w+)\s+_IO", text)) == REQUESTS.keys()
    for name, mirror in STRUCTURES.items():
        body = re.search(rf"^struct {name} \{{(.*?)^\}};", text, re.MULTILINE | re.DOTALL)
        assert body is not None
        fields = re.findall(r"(\w+)(?:\[\w+\])?;", body[1])
        assert fields == [str(field).removesuffix("_") for field, *_ in mirror._fields_]
    for enum, numbers in (("refusal", Refusal), ("kind", Kind), ("state", State),
                          ("reset", Reset)):  # fmt: skip
        body = re.search(rf"^enum dprobes_{enum} \{{(.*?)^\}};", text, re.MULTILINE | re.DOTALL)
        assert body is not None
        assert re.findall(r"\tDPROBES_(\w+),", body[1]) == [each.name for each in numbers]


def test_no_structure_has_a_hole() -> None:
    for name, mirror in STRUCTURES.items():
        sizes = [getattr(mirror, field).size for field, *_ in mirror._fields_]
        assert sum(sizes) == ctypes.sizeof(mirror), name


@pytest.mark.parametrize("word", ["DP_OP_PUSH_MEM_U8 = 0x4d", "DP_STACK_WORDS 1024"])
def test_the_instruction_table_is_current(word: str) -> None:
    assert HEADER.read_text() == header()
    assert checksum() == ISA
    assert word in header()
