"""Runs inside gdb: stops a program at addresses, and writes what gdb says of its variables.

    gdb -batch -x variables_in_gdb.py PROGRAM   with DPROBED_STOPS (addresses of the file, one a
    line) and DPROBED_FOLDER in its environment

For each stop FOLDER/N.json has registers, mappings and variables, FOLDER/N.mem the memory that can
be written.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

import gdb  # type: ignore[import-untyped]

NAMES = ["rax", "rdx", "rcx", "rbx", "rsi", "rdi", "rbp", "rsp", *(f"r{n}" for n in range(8, 16))]
#: Elements of arrays, and how deep members are looked at.
MOST, DEEPEST = 64, 12
CONSTANTS = gdb.SYMBOL_LOC_CONST, gdb.SYMBOL_LOC_CONST_BYTES


def flat(value: Any, depth: int = 0) -> Any:
    """A value as nested lists of numbers; None: optimized out."""
    if value.is_optimized_out:
        return None
    kind = value.type.strip_typedefs()
    code = kind.code
    if code in (gdb.TYPE_CODE_REF, gdb.TYPE_CODE_RVALUE_REF):
        address = value.referenced_value().address
        return "other" if address is None else int(address)
    if code in (gdb.TYPE_CODE_STRUCT, gdb.TYPE_CODE_UNION):
        if depth > DEEPEST:
            return "deep"
        fields = [field for field in kind.fields() if hasattr(field, "bitpos")]
        return [flat(value[field], depth + 1) for field in fields]
    if code == gdb.TYPE_CODE_ARRAY:
        low, high = kind.range()
        return [flat(value[at], depth + 1) for at in range(low, min(high, low + MOST - 1) + 1)]
    if code == gdb.TYPE_CODE_FLT:
        return repr(float(value))
    if code in (gdb.TYPE_CODE_COMPLEX, gdb.TYPE_CODE_METHODPTR, gdb.TYPE_CODE_MEMBERPTR):
        return "other"
    if code == gdb.TYPE_CODE_PTR:
        return int(value.cast(gdb.lookup_type("unsigned long")))
    return int(value)


def told(symbol: Any, frame: Any) -> Any:
    """A variable's value, or the error that gdb has for it."""
    try:
        value = symbol.value(frame)
        if not value.is_optimized_out:
            value.fetch_lazy()  # a base class of what is not yet read makes gdb 13 abort
        return flat(value)
    except gdb.error as error:
        text = str(error)
        return None if "optimized out" in text else {"error": text}


def of_frame(frame: Any) -> list[tuple[str, Any]]:
    """The variables of one frame, innermost block first."""
    found = []
    block = frame.block()
    while block is not None:
        found += [
            (symbol.name, told(symbol, frame))
            for symbol in block
            if symbol.is_variable or symbol.is_argument or symbol.addr_class in CONSTANTS
            if symbol.addr_class != gdb.SYMBOL_LOC_UNRESOLVED
        ]
        if block.function is not None:
            break
        block = block.superblock
    return found


def outside(frame: Any) -> list[tuple[str, Any]]:
    """Static and global variables of the unit."""
    block = frame.block()
    return [
        (symbol.name, told(symbol, frame))
        for part in (block.static_block, block.global_block)
        for symbol in part
        if symbol.is_variable and symbol.addr_class != gdb.SYMBOL_LOC_UNRESOLVED
    ]


def mappings(pid: int) -> Iterator[tuple[int, int, str, str]]:
    with open(f"/proc/{pid}/maps") as file:
        for line in file:
            parts = line.split(None, 5)
            start, _, end = parts[0].partition("-")
            yield int(start, 16), int(end, 16), parts[1], parts[5].strip() if len(parts) > 5 else ""


def save(number: int, folder: str, bias: int) -> None:
    frame = gdb.newest_frame()
    pid = gdb.selected_inferior().pid
    registers = [int(frame.read_register(name)) & (1 << 64) - 1 for name in NAMES]
    registers.append(frame.pc())
    vectors = []
    for number_of in range(16):
        halves = frame.read_register(f"xmm{number_of}")["v2_int64"]
        low, high = (int(halves[half]) & (1 << 64) - 1 for half in (0, 1))
        vectors.append(low | high << 64)
    frames = []
    each = frame
    while each is not None:
        frames.append((each.name(), of_frame(each) if each.function() else []))
        if each.type() != gdb.INLINE_FRAME:
            break
        each = each.older()
    kept = []
    with open(f"{folder}/{number}.mem", "wb") as out, open(f"/proc/{pid}/mem", "rb") as memory:
        for start, end, flags, path in mappings(pid):
            if (flags.startswith("r") and "w" in flags) or path == os.path.realpath(PROGRAM):
                try:
                    memory.seek(start)
                    data = memory.read(end - start)
                except (OSError, ValueError, OverflowError):
                    continue
                kept.append((start, end, out.tell()))
                out.write(data)
    with open(f"{folder}/{number}.json", "w") as out:
        json.dump(
            {
                "pc": frame.pc() - bias,
                "bias": bias,
                "registers": registers,
                "vectors": vectors,
                "fs": int(frame.read_register("fs_base")),
                "frames": frames,
                "outside": outside(frame),
                "memory": kept,
            },
            out,
        )


PROGRAM = gdb.current_progspace().filename


def main() -> None:
    folder = os.environ["DPROBED_FOLDER"]
    addresses = [int(line, 16) for line in os.environ["DPROBED_STOPS"].split()]
    for line in ("set confirm off", "set pagination off", "set disable-randomization on",
                 "set print entry-values no", "set breakpoint pending off", "set width 0",
                 "set debuginfod enabled off"):  # fmt: skip
        gdb.execute(line)
    gdb.execute("starti > /dev/null", to_string=True)
    pid = gdb.selected_inferior().pid
    own = [each for each in mappings(pid) if each[3] == os.path.realpath(PROGRAM)]
    bias = own[0][0] if os.environ.get("DPROBED_PIE") else 0
    for address in addresses:
        gdb.execute(f"tbreak *{address + bias:#x}", to_string=True)
    number = 0
    while True:
        gdb.execute("continue", to_string=True)
        if not gdb.selected_inferior().pid:
            break
        save(number, folder, bias)
        number += 1


main()
