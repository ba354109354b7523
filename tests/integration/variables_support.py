"""Compares what debug information says of a program's variables with what gdb says of them."""

from __future__ import annotations

import json
import math
import os
import re
import struct
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from dprobed.binary.file import Binary
from dprobed.binary.places import resolve
from dprobed.binary.variables.information import DebugInformation
from dprobed.program.showing.nodes import Shown
from dprobed.program.showing.values import Viewer
from dprobed.program.showing.variables import shown_variable
from dprobed.program.showing.viewing import ShowLimits
from dprobed.program.types import (
    ArrayType,
    EnumType,
    FloatType,
    IntegerType,
    PointerType,
    StructType,
    Types,
    plain,
    size_of,
)
from dprobed.program.variables import (
    SourceVariable,
    StoppedThread,
    Unreadable,
    Visible,
    bytes_of,
    run,
)

SCRIPT = Path(__file__).with_name("variables_in_gdb.py")
MOST, DEEPEST = 64, 12


class Differs(NamedTuple):
    """A variable of which gdb says something else."""

    address: int
    name: str
    gdb: Any
    ours: Any
    location: str

    def __str__(self) -> str:
        return (
            f"{self.address:#x} {self.name}: gdb {self.gdb!r}, here {self.ours!r} {self.location}"
        )


class Compared(NamedTuple):
    """What came of it: variables that were compared, of them those with a value, those of which
    only the caller knows the value (which gdb asks) or gdb shows what is nowhere, and differences.
    """

    stops: int
    variables: int
    values: int
    callers: int
    differences: list[Differs]


def stops_of(path: Path, most: int, source: str = "") -> list[int]:
    """Addresses of statements of a program, or of one of its source files, spread over it."""
    done = subprocess.run(
        ["readelf", "--debug-dump=decodedline", "-W", str(path)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    found: set[int] = set()
    for line in done.stdout.splitlines():
        match = re.match(r"\S+\s+\d+\s+(0x[0-9a-f]+)\s.*x$", line)
        if match and line.startswith(source):
            found.add(int(match[1], 16))
    listed = sorted(found)
    return listed[:: max(len(listed) // most, 1)][:most] if listed else []


def flat(types: Types, index: int, raw: bytes, depth: int = 0, whole: Whole | None = None) -> Any:
    """Bytes as nested lists of numbers, as ``variables_in_gdb.flat`` makes them. ``whole``: where
    they are, for what is found by way of memory."""
    match plain(types, index):
        case IntegerType(size=size, signed=signed):
            return int.from_bytes(raw[:size], "little", signed=signed)
        case EnumType(size=size, signed=signed):
            return int.from_bytes(raw[:size], "little", signed=signed)
        case PointerType():
            return int.from_bytes(raw[:8], "little")
        case FloatType(size=size):
            return repr(_float(raw[:size]))
        case ArrayType(of=of, count=count):
            size = size_of(types, of)
            return [
                flat(
                    types, of, raw[at * size : (at + 1) * size], depth + 1, _part(whole, at * size)
                )
                for at in range(min(count or 0, MOST))
            ]
        case StructType() as struct:
            if depth > DEEPEST:
                return "deep"
            if struct.variants:
                return _variant(types, struct, raw, depth)
            return [_member(types, each, raw, depth, whole) for each in struct.members]
    return "unknown"


class Whole(NamedTuple):
    """Memory, and the address in it of what is looked at."""

    read: Any
    address: int


class Choice(list[Any]):
    """What a Rust enum is now; gdb tells of other variants where it is not in memory."""


def _variant(types: Types, struct: StructType, raw: bytes, depth: int) -> Any:
    found = Choice()
    told = None
    if struct.discriminant is not None:
        size = size_of(types, struct.discriminant.type)
        told = int.from_bytes(raw[struct.discriminant.offset :][:size], "little")
        found.append(told)
    named = [each for each in struct.variants if each.values is not None and told in each.values]
    others = [each for each in struct.variants if each.values is None]
    for each in (named or others)[:1]:
        found.append(_member(types, each.member, raw, depth, None))
    return found


def _part(whole: Whole | None, offset: int) -> Whole | None:
    return whole._replace(address=whole.address + offset) if whole is not None else None


def _member(types: Types, member: Any, raw: bytes, depth: int, whole: Whole | None) -> Any:
    if member.virtual:
        assert whole is not None
        table = int.from_bytes(raw[:8], "little")
        told = whole.read(table + member.offset, 8)
        if told is None:
            return "unreadable"
        offset = int.from_bytes(told, "little", signed=True)
        size = size_of(types, member.type)
        part = whole.read(whole.address + offset, size)
        if part is None:
            return "unreadable"
        return flat(types, member.type, part, depth + 1, _part(whole, offset))
    if not member.bits:
        part = raw[member.offset : member.offset + size_of(types, member.type)]
        return flat(types, member.type, part, depth + 1, _part(whole, member.offset))
    number = int.from_bytes(raw[member.offset : member.offset + 9], "little") >> member.bit
    number &= (1 << member.bits) - 1
    kind = plain(types, member.type)
    if isinstance(kind, IntegerType | EnumType) and kind.signed and number >> (member.bits - 1):
        number -= 1 << member.bits
    return number


def _float(raw: bytes) -> float:
    if len(raw) in (4, 8):
        (value,) = struct.unpack("<f" if len(raw) == 4 else "<d", raw)
        return float(value)
    mantissa, head = struct.unpack("<QH", raw[:10])
    exponent = head & 0x7FFF
    sign = -1.0 if head & 0x8000 else 1.0
    if exponent == 0x7FFF:
        return sign * math.inf if not mantissa << 1 & (1 << 64) - 1 else math.nan
    try:
        return sign * math.ldexp(mantissa, exponent - 16383 - 63)
    except OverflowError:
        return sign * math.inf


class Stop:
    """One stop, as gdb wrote it."""

    def __init__(self, folder: Path, number: int, elf: Binary) -> None:
        self.told = json.loads((folder / f"{number}.json").read_text())
        self._data = (folder / f"{number}.mem").read_bytes()
        self._elf = elf
        self.thread = StoppedThread(self._register, self.read, self.told["bias"], self._local)

    def _register(self, number: int) -> int | None:
        registers: list[int] = self.told["registers"]
        vectors: list[int] = self.told["vectors"]
        if number < len(registers):
            return registers[number]
        return vectors[number - 17] if 17 <= number < 33 else None

    def read(self, address: int, size: int) -> bytes | None:
        for start, end, at in self.told["memory"]:
            if start <= address and address + size <= end:
                return self._data[at + address - start : at + address - start + size]
        return None

    def _local(self, offset: int) -> int | None:
        for kind, *_, memory_size, align in self._elf._headers.program:
            if kind == 7:
                size = -(-memory_size // max(align, 1)) * max(align, 1)
                return int(self.told["fs"]) - size + offset
        return None


def stopped(path: Path, folder: Path, stops: list[int]) -> Iterator[Stop]:
    """A program's stops when it comes to these addresses the first time, in its order."""
    folder.mkdir()
    elf = Binary(os.open(path, os.O_RDONLY), str(path))
    environment = dict(os.environ, DPROBED_FOLDER=str(folder),
                       DPROBED_STOPS="\n".join(map(hex, stops)))  # fmt: skip
    if elf.relocated:
        environment["DPROBED_PIE"] = "1"
    done = subprocess.run(
        ["gdb", "-nx", "-batch", "-x", str(SCRIPT), str(path)],
        env=environment, capture_output=True, text=True, errors="replace", timeout=120,
        stdin=subprocess.DEVNULL, cwd=folder,
    )  # fmt: skip
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    number = 0
    while (folder / f"{number}.json").exists():
        yield Stop(folder, number, elf)
        number += 1


def compare(path: Path, folder: Path, most: int = 30, source: str = "") -> Compared:
    """Stop a program at statements of it, and compare every visible variable with gdb's."""
    known = DebugInformation(Binary(os.open(path, os.O_RDONLY), str(path)))
    result = Compared(0, 0, 0, 0, [])
    for number, stop in enumerate(stopped(path, folder, stops_of(path, most, source)), 1):
        result = _at_stop(stop, known, result)._replace(stops=number)
    return result


def shown_at(path: Path, folder: Path, place: str, limits: ShowLimits) -> dict[str, Shown]:
    """What is shown of the variables of the functions at a place, when it is first come to; of
    several with one name the innermost."""
    elf = Binary(os.open(path, os.O_RDONLY), str(path))
    known = DebugInformation(elf)
    (stop,) = stopped(path, folder, [resolve(elf, place)[0].vaddr])
    visible = known.visible(stop.told["pc"])
    found: dict[str, Shown] = {}
    for variable in visible.variables:
        viewer = Viewer(visible.types, stop.read, limits)
        shown = shown_variable(viewer, variable.type, variable.location, stop.thread)
        found.setdefault(variable.name, shown)
    return found


def _at_stop(stop: Stop, known: DebugInformation, result: Compared) -> Compared:
    visible = known.visible(stop.told["pc"])
    frames = stop.told["frames"]
    # At the first instruction of an inlined function gdb shows the function around it.
    skipped = len(visible.frames) - len(frames)
    for number, (_, theirs) in enumerate(frames):
        ours = [each for each in visible.variables if each.frame == number + skipped]
        result = _compare_all(stop, visible, ours, theirs, result)
    ours = [each for each in visible.variables if each.frame < 0]
    declared = {name for name, _ in stop.told["outside"]}
    ours = [each for each in ours if each.name in declared]
    return _compare_all(stop, visible, ours, stop.told["outside"], result)


def _compare_all(
    stop: Stop, visible: Visible, ours: list[SourceVariable], theirs: list[Any], result: Compared
) -> Compared:
    by_name: dict[str, list[SourceVariable]] = defaultdict(list)
    for each in ours:
        by_name[each.name].append(each)
    values, callers, count = result.values, result.callers, result.variables
    differences = list(result.differences)
    for name, value in theirs:
        count += 1
        named = by_name.get(name)
        if not named:
            differences.append(Differs(visible.address, name, value, "no such variable", ""))
            continue
        variable = named.pop(0)
        got, reason = _value(stop, visible, variable)
        if got == value or _same(got, value):
            values += value is not None
        elif "only the caller" in reason or "what is not in memory" in reason:
            callers += 1
        else:
            differences.append(
                Differs(visible.address, name, value, got, f"{variable.location} {reason}")
            )
    for left in by_name.values():
        differences += [Differs(visible.address, each.name, "no such variable", "", "")
                        for each in left if _is_told(each)]  # fmt: skip
    return Compared(result.stops, count, values, callers, differences)


def _is_told(variable: SourceVariable) -> bool:
    """Whether gdb would tell of it: not what is declared only."""
    return "another file" not in variable.location.reason


def _same(ours: Any, theirs: Any) -> bool:
    """Whether two values are the same where gdb says less."""
    if isinstance(ours, Choice) and isinstance(theirs, list):
        return all(any(each == other or _same(each, other) for other in theirs) for each in ours)
    if isinstance(theirs, list) and isinstance(ours, list) and len(ours) == len(theirs):
        return all(
            each == other or other in ("other", "deep") or _same(each, other)
            for each, other in zip(ours, theirs, strict=True)
        )
    if isinstance(theirs, dict):
        # What gdb cannot read: neither can others, but for thread-local data without libpthread.
        error = theirs["error"]
        return ours is None or "Cannot access memory" in error or "thread-local" in error
    return bool(theirs == "other" or (theirs == "nan" and ours == "nan"))


def _value(stop: Stop, visible: Visible, variable: SourceVariable) -> tuple[Any, str]:
    size = size_of(visible.types, variable.type)
    try:
        raw = bytes_of(variable.location, size, stop.thread)
    except Unreadable as error:
        return None, str(error)
    whole = None
    if variable.location.kind == "memory":
        whole = Whole(stop.read, run(variable.location.steps, stop.thread))
    return flat(visible.types, variable.type, raw, 0, whole), ""


def check(path: Path, folder: Path, most: int = 30, source: str = "") -> Compared:
    """The same; raises AssertionError where gdb says something else, or nearly nothing."""
    found = compare(path, folder, most, source)
    assert not found.differences, "\n".join(map(str, found.differences))
    assert found.stops > 5 and found.values > 2 * found.stops
    return found


if __name__ == "__main__":
    compared = compare(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), *sys.argv[4:])
    print(*compared.differences[:20], sep="\n")
    print(compared._replace(differences=[]), len(compared.differences))
