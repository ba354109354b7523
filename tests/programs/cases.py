"""The case files beside this module: what they look like, and how an executor is held to them.

A case is a program, the thread and memory it finds, and what must come of it. Nothing in it is
about one executor: give ``check`` another ``Run``. Lines that begin in the first column are
directives, ``#`` begins a comment; indented lines belong to the ``program:`` above them::

    case: what it shows
    header: logmax=16 vars=2          # keywords of the program
    probe: ex_mask=0x3fff             # and of its probe
    facilities: dump=2 mine=9         # what `exit NAME` may name
    symbols: environ=0x1000           # where `push addr` finds them; `push tls`: from fs_base
    lost: mine                        # of them, those that are gone when it runs
    thread: tid=7 comm="cat"          # pid tid uid gid cpu time comm; frames: of its stack
    registers: rdi=1 xmm0=0x1ff       # the others are 0
    memory 0x1000 rw: "abc" 00 5*ff   # r or rw; bytes in hex, strings, repetitions
    map: calls, count, keys=1         # a map of the program; a line for each
    arguments: 1 -2 fault=0x10        # of a static probe, or where they cannot be read
    kept: 1 2                         # what an entry part has left; where the program has one, it
                                      # runs first at each hit, and leaves this or that
    locals: 1 2                       # at the beginning
    globals: 5
    runs: 3                           # hits; what is expected is of the last one
    program:
        push r,rdi
        log 1
    ends: exit                        # exit | abort | rem | budget | facility N | dump once |
                                      # exception CODE PARM1 PARM2
    record: major=1 minor=1
    thread after: suspend resume
    log: words 1 2                    # one line an item, in order: words, locals, globals: numbers;
    log: value NAME i32 -5            # (- is no name);
    log: string "abc"                 # memory: address, bytes; fault: address; or it is JSON
    log bytes: 01 03 00 "abc"         # the log as it is encoded
    registers after: rax=5            # all others are as they were,
    memory after 0x1000: "xyz"        # and so are memory
    locals after: 3 2                 # and variables
    map after: calls (7 "cat") 2 5    # what maps have at a key, in all; at no key: ()
    lost after: calls 3               # updates of a map that found no room

With ``probe: at=return`` the program may have the parts `entry:` and `return:`. Where the first one
does not end by `exit`, what is said of the end is said of it, and the other one does not run.

Instead of what follows ``program:`` a case may have ``refused: part of the message`` or
``accepted:`` (it is assembled, and only a kernel could run it).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from dprobed.program.exceptions import ExCode
from dprobed.program.exec.interface import (
    Context,
    Executor,
    MemoryFault,
    Outcome,
    Reader,
    Registers,
)
from dprobed.program.exits import ABORT, BUDGET, DUMP_ONCE, EXCEPTION, EXIT, REM
from dprobed.program.isa import KEPT_WORDS, WORD_MASK
from dprobed.program.model import Program
from dprobed.program.registers import USER_REGS
from dprobed.program.user_stack import StackEnd, UserStack, frame_word, module_bytes
from dprobed.record.log import decode_log, typed_value, with_text

FOLDER = Path(__file__).parent
_FIELDS = {"fcw": (0, 2), "fsw": (2, 2), "ftw": (4, 1), "mxcsr": (24, 4), "mxcsr_mask": (28, 4)}
_FIELDS |= {f"fr{n}": (32 + 16 * n, 10) for n in range(8)}
_FIELDS |= {f"xmm{n}": (160 + 16 * n, 16) for n in range(16)}
_THREAD = {"pid": 100, "tid": 101, "uid": 1000, "gid": 1001, "cpu": 3, "time": 5_000_000_000}


#: By name of the map: key → cell.
MapsAfter = dict[str, dict[tuple[int | bytes, ...], list[int]]]


@dataclass
class Region:
    """A run of the target's memory."""

    start: int
    data: bytearray
    writable: bool


class FakeContext:
    """A thread and its memory, as a ``Context``."""

    def __init__(self, regions: list[Region], thread: dict[str, Any]) -> None:
        self.buffer = bytearray(8 * len(USER_REGS))
        self.words = memoryview(self.buffer).cast("Q")
        self.regs = cast(Registers, self.words)
        self.fp = bytearray(512)
        self.fp_dirty = False
        self.kept = [0] * KEPT_WORDS
        self.arguments: Sequence[Reader] = ()
        self.regions = regions
        self.pid, self.tid = thread["pid"], thread["tid"]
        self.uid, self.gid = thread["uid"], thread["gid"]
        self.cpu: int = thread["cpu"]
        self.comm: bytes = thread["comm"]
        self._time: int = thread["time"]
        self.frames: int = thread.get("frames", 5)

    def fpregs(self) -> bytearray:
        return self.fp

    def now(self) -> int:
        return self._time

    def user_stack(self, depth: int) -> UserStack:
        """``frames`` frames: in the program, at its probe; in it again, in a library without a
        build-id, in code without a file, and so on."""
        places = [(1, 0x1000), (1, 0x1105), (2, 0x2205), (0, 0x3305)]
        found = [places[number % 4] for number in range(min(self.frames, depth))]
        words = [
            frame_word(module, address, exact=not number)
            for number, (module, address) in enumerate(found)
        ]
        modules = [module_bytes("/bin/target", "abcd"), module_bytes("/lib/c.so", "")]
        end = StackEnd.DEPTH if depth < self.frames else StackEnd.WHOLE
        return UserStack(end, modules[: max((module for module, _ in found), default=0)], words)

    def _region(self, address: int) -> Region | None:
        for region in self.regions:
            if region.start <= address < region.start + len(region.data):
                return region
        return None

    def read_partial(self, address: int, length: int) -> bytes:
        assert 0 <= address < 1 << 57, "only addresses that a user may have are asked for"
        found = bytearray()
        while len(found) < length and (region := self._region(address + len(found))):
            at = address + len(found) - region.start
            found += region.data[at : at + length - len(found)]
        return bytes(found)

    def read(self, address: int, length: int) -> bytes:
        data = self.read_partial(address, length)
        if len(data) < length:
            raise MemoryFault(address + len(data))
        return data

    def write(self, address: int, data: bytes) -> None:
        for at in range(address, address + len(data)):
            if not self.writable(at):
                raise MemoryFault(at)
        for at, byte in enumerate(data, address):
            region = self._region(at)
            assert region is not None
            region.data[at - region.start] = byte

    def writable(self, address: int) -> bool:
        region = self._region(address)
        return region is not None and region.writable

    def set_register(self, name: str, value: int) -> None:
        if name in _FIELDS:
            offset, size = _FIELDS[name]
            self.fp[offset : offset + size] = value.to_bytes(size, "little")
        else:
            self.regs[USER_REGS.index("eflags" if name == "rflags" else name)] = value


@dataclass
class Case:
    """One case; what is None or empty is not said in the file."""

    name: str
    place: str
    header: dict[str, str] = field(default_factory=dict)
    probe: dict[str, str] = field(default_factory=dict)
    maps: list[str] = field(default_factory=list)
    facilities: dict[str, int] = field(default_factory=dict)
    symbols: dict[str, int] = field(default_factory=dict)
    lost: list[str] = field(default_factory=list)
    thread: dict[str, Any] = field(default_factory=lambda: {**_THREAD, "comm": b"target"})
    registers: dict[str, int] = field(default_factory=dict)
    memory: list[Region] = field(default_factory=list)
    arguments: list[Reader] = field(default_factory=list)
    kept: list[int] = field(default_factory=list)
    locals: list[int] = field(default_factory=list)
    globals: list[int] = field(default_factory=list)
    runs: int = 1
    program: list[str] = field(default_factory=list)
    ends: list[str] = field(default_factory=list)
    record: dict[str, int] = field(default_factory=dict)
    flags: set[str] = field(default_factory=set)
    log: list[dict[str, Any]] = field(default_factory=list)
    log_bytes: bytes | None = None
    registers_after: dict[str, int] = field(default_factory=dict)
    memory_after: list[Region] = field(default_factory=list)
    locals_after: list[int] | None = None
    globals_after: list[int] | None = None
    maps_after: MapsAfter = field(default_factory=dict)
    lost_after: dict[str, int] = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)
    accepted: bool = False

    def source(self) -> str:
        """The program file."""
        header = {"name": "target", **self.header}
        probe = {"offset": "0x1000", **self.probe}
        lines = [f"{key} = {value}" for key, value in header.items()]
        lines += [f"map = {each}" for each in self.maps]
        lines += [f"{key} = {value}" for key, value in probe.items()]
        return "\n".join([*lines, *self.program, ""])

    def context(self) -> FakeContext:
        """The thread as the program finds it."""
        regions = [Region(r.start, bytearray(r.data), r.writable) for r in self.memory]
        context = FakeContext(regions, self.thread)
        for name, value in self.registers.items():
            context.set_register(name, value)
        context.kept[: len(self.kept)] = self.kept
        context.arguments = self.arguments
        return context


@dataclass
class Result:
    """What an executor did of a case."""

    outcome: Outcome
    context: FakeContext
    locals: list[int]
    globals: list[int]
    maps: MapsAfter = field(default_factory=dict)
    lost: dict[str, int] = field(default_factory=dict)


def hit(executor: Executor[Any], context: FakeContext) -> Outcome:
    """What comes of one hit of a program's first probe, its entry part included."""
    entry_part = executor.entry_part(0)
    outcome = None if entry_part is None else entry_part(context)
    return executor.entry(0)(context) if outcome is None or outcome.exit == EXIT else outcome


#: Runs a case's program ``case.runs`` times.
Run = Callable[[Case, Program], Result]

_TOKEN = re.compile(r'(?:(\d+)\*)?(?:([0-9a-fA-F]{2})|("(?:[^"\\]|\\.)*"))(?:\s+|$)')
_PAIR = re.compile(r'(\w+)=("(?:[^"\\]|\\.)*"|\S+)(?:\s+|$)')


def _string(text: str) -> bytes:
    return text[1:-1].encode().decode("unicode_escape").encode("latin-1")


def parse_bytes(text: str) -> bytes:
    """``"abc" 00 5*ff`` as bytes."""
    found = bytearray()
    at = 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        assert match is not None, f"not bytes: {text[at:]!r}"
        times, pair, string = match.groups()
        found += (bytes.fromhex(pair) if pair else _string(string)) * int(times or 1)
        at = match.end()
    return bytes(found)


def _pairs(text: str) -> dict[str, str]:
    pairs = {}
    at = 0
    while at < len(text):
        match = _PAIR.match(text, at)
        assert match is not None, f"not key=value: {text[at:]!r}"
        pairs[match[1]] = match[2]
        at = match.end()
    return pairs


def _number(text: str) -> int:
    return int(text, 0)


def _numbers(text: str) -> list[int]:
    return [_number(word) for word in text.split()]


def _number_pairs(text: str) -> dict[str, int]:
    return {key: _number(value) for key, value in _pairs(text).items()}


def _thread(text: str) -> dict[str, Any]:
    return {
        key: _string(value) if key == "comm" else _number(value)
        for key, value in _pairs(text).items()
    }


def _item(text: str) -> dict[str, Any]:
    if text.startswith("{"):
        item: dict[str, Any] = json.loads(text)
        return item
    kind, _, rest = text.partition(" ")
    if kind == "string":
        return {"string": _string(rest).decode("latin-1")}
    if kind == "fault":
        return with_text({"fault": _number(rest)})
    if kind == "value":
        name, kind, number = rest.split()
        value = float(number) if kind[0] == "f" else int(number, 0)
        return typed_value(kind, value, "" if name == "-" else name)
    if kind == "memory":
        address, _, data = rest.partition(" ")
        return {"memory": parse_bytes(data).hex(), "address": _number(address)}
    assert kind in ("words", "locals", "globals"), f"not an item: {text}"
    return with_text({kind: list(_numbers(rest))})


def _memory(words: list[str], text: str) -> Region:
    """``memory ADDRESS r|rw`` or ``memory after ADDRESS``."""
    return Region(_number(words[1 if words[0] == "memory" else 0]), bytearray(parse_bytes(text)),
                  words[-1] == "rw")  # fmt: skip


_MAP_AFTER = re.compile(r"(\w+) \((.*)\)((?: -?\w+)*)")
_KEY_ITEM = re.compile(r'("(?:[^"\\]|\\.)*")|(\w+)')


def _map_after(case: Case, text: str) -> None:
    """``NAME (ITEM ITEM) WORD WORD``."""
    match = _MAP_AFTER.fullmatch(text)
    assert match is not None, f"not what a map has: {text}"
    key = tuple(
        _string(string) if string else _number(number)
        for string, number in _KEY_ITEM.findall(match[2])
    )
    case.maps_after.setdefault(match[1], {})[key] = _numbers(match[3])


def _reader(text: str) -> Reader:
    """What reads an argument of a static probe."""
    fault = text.removeprefix("fault=")

    def read(_: Context) -> int:
        if fault != text:
            raise MemoryFault(_number(fault))
        return _number(text) & WORD_MASK

    return read


def _directive(case: Case, key: str, text: str) -> None:
    words = key.split()
    if words[:2] == ["memory", "after"]:
        case.memory_after.append(_memory(words[2:], text))
        return
    if words[0] == "memory":
        case.memory.append(_memory(words, text))
        return
    actions: dict[str, Callable[[], object]] = {
        "header": lambda: case.header.update(_pairs(text)),
        "probe": lambda: case.probe.update(_pairs(text)),
        "facilities": lambda: case.facilities.update(_number_pairs(text)),
        "symbols": lambda: case.symbols.update(_number_pairs(text)),
        "map": lambda: case.maps.append(text),
        "map after": lambda: _map_after(case, text),
        "lost after": lambda: case.lost_after.update({text.split()[0]: _number(text.split()[1])}),
        "lost": lambda: case.lost.extend(text.split()),
        "thread": lambda: case.thread.update(_thread(text)),
        "registers": lambda: case.registers.update(_number_pairs(text)),
        "arguments": lambda: case.arguments.extend(map(_reader, text.split())),
        "kept": lambda: case.kept.extend(_numbers(text)),
        "locals": lambda: case.locals.extend(_numbers(text)),
        "globals": lambda: case.globals.extend(_numbers(text)),
        "runs": lambda: setattr(case, "runs", _number(text)),
        "program": lambda: None,
        "ends": lambda: case.ends.extend(text.split()),
        "record": lambda: case.record.update(_number_pairs(text)),
        "thread after": lambda: case.flags.update(text.split()),
        "log": lambda: case.log.append(_item(text)),
        "log bytes": lambda: setattr(case, "log_bytes", parse_bytes(text)),
        "registers after": lambda: case.registers_after.update(_number_pairs(text)),
        "locals after": lambda: setattr(case, "locals_after", _numbers(text)),
        "globals after": lambda: setattr(case, "globals_after", _numbers(text)),
        "refused": lambda: case.refused.append(text),
        "accepted": lambda: setattr(case, "accepted", True),
    }
    actions[key]()


def parse(text: str, file: str) -> Iterator[Case]:
    """The cases of a file; an AssertionError says where it is wrong."""
    case: Case | None = None
    for number, line in enumerate(text.splitlines(), 1):
        place = f"{file}:{number}"
        if not line.strip() or line.startswith("#"):
            continue
        if line.startswith("case:"):
            if case is not None:
                yield case
            case = Case(line.partition(":")[2].strip(), place)
            continue
        assert case is not None, f"{place}: before the first case"
        if line[0].isspace():
            case.program.append(line)
            continue
        key, colon, rest = line.partition(":")
        try:
            assert colon, "no directive"
            _directive(case, key.strip(), rest.strip())
        except (AssertionError, KeyError, ValueError) as error:
            raise AssertionError(f"{place}: {error}") from error
    if case is not None:
        yield case


def all_cases() -> list[Case]:
    """Every case of every file, in order."""
    return [
        case
        for path in sorted(FOLDER.glob("*.case"))
        for case in parse(path.read_text(encoding="utf-8"), path.name)
    ]


def _exit_code(words: list[str]) -> int:
    if words == ["dump", "once"]:
        return DUMP_ONCE
    codes = {"exit": 0, "abort": ABORT, "rem": REM, "budget": BUDGET, "exception": EXCEPTION}
    return _number(words[1]) if words[0] == "facility" else codes[words[0]]


def check(case: Case, program: Program, run: Run) -> None:
    """Assert that an executor does what a case says."""
    result = run(case, program)
    outcome = result.outcome
    assert case.ends, f"{case.place}: does not say how it ends"
    assert outcome.exit == _exit_code(case.ends), outcome
    triple = None
    if case.ends[0] == "exception":
        code = case.ends[1]
        triple = (ExCode[code] if code in ExCode.__members__ else _number(code),
                  *map(_number, case.ends[2:]))  # fmt: skip
    assert outcome.exception == triple
    assert decode_log(outcome.log, outcome.raw) == case.log
    if case.log_bytes is not None:
        assert outcome.log == case.log_bytes
    header = program.header
    wanted = {"major": header.major, "minor": program.probes[0].minor, **case.record}
    assert {"major": outcome.major, "minor": outcome.minor} == wanted
    flags = {name for name in ("suspend", "resume") if getattr(outcome, name)}
    assert flags == case.flags
    _check_state(case, result)


def _check_state(case: Case, result: Result) -> None:
    """What may have changed has changed as expected, and nothing else has."""
    before = case.context()
    for name, value in case.registers_after.items():
        before.set_register(name, value)
    for region in case.memory_after:
        for at, byte in enumerate(region.data, region.start):
            held = before._region(at)
            assert held is not None, f"{case.place}: {at:#x} is not in its memory"
            held.data[at - held.start] = byte
    context = result.context
    after = dict(zip(USER_REGS, context.words, strict=True))
    assert after == dict(zip(USER_REGS, before.words, strict=True))
    assert context.fp == before.fp
    assert context.fp_dirty == bool(_FIELDS.keys() & case.registers_after.keys())
    assert context.regions == before.regions
    locals_ = case.locals_after if case.locals_after is not None else case.locals
    assert result.locals[: len(locals_)] == locals_
    assert not any(result.locals[len(locals_) :])
    globals_ = case.globals_after if case.globals_after is not None else case.globals
    assert result.globals[: len(globals_)] == globals_
    assert not any(result.globals[len(globals_) :])
    assert {name: cells for name, cells in result.maps.items() if cells} == case.maps_after
    assert {name: lost for name, lost in result.lost.items() if lost} == case.lost_after
