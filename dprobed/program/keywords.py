"""The keywords of the header and of probe definitions: what each means and what it may be.

Assembler, verifier, disassembler and the reference page go by these two tables. A keyword is a
field of ``Header`` or ``ProbeDefinition`` of the same name.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import Enum
from typing import Final

import msgspec

from dprobed.program.exceptions import ExCode
from dprobed.program.isa import MAX_VARIABLES
from dprobed.program.model import STATIC, Header, ProbeDefinition
from dprobed.program.values import MAX_NAME

_POSITIVE = (1 << 31) - 1


class Value(Enum):
    """What kind of value a keyword takes."""

    NUMBER = "number"
    NUMBER_OR_NAMES = "number, or names"
    YES_NO = "yes or no"
    WORD = "word"
    TEXT = "name"
    PLACE = "place"
    ADDRESS = "address"
    BYTES = "bytes"
    MAP = "name, kind"


class Keyword(msgspec.Struct, frozen=True):
    """``low``..``high``: of a number; ``choices``: of a word. ``repeats``: it may be there several
    times, and has all of its values."""

    name: str
    value: Value
    meaning: str
    low: int = 0
    high: int = 0
    choices: tuple[str, ...] = ()
    repeats: bool = False

    @property
    def range(self) -> str:
        """What it may be, in words."""
        if self.value is Value.NUMBER:
            return f"{self.low}..{self.high}"
        if self.value is Value.NUMBER_OR_NAMES:
            return f"{self.low}..{self.high}, or names"
        return ", ".join(self.choices) if self.choices else self.value.value


def _number(name: str, low: int, high: int, meaning: str) -> Keyword:
    return Keyword(name, Value.NUMBER, meaning, low, high)


HEADER: Final[dict[str, Keyword]] = {
    keyword.name: keyword
    for keyword in (
        Keyword(
            "name",
            Value.TEXT,
            "The module: path, base name, soname or build-id of an executable or library; the "
            "kernel or the name of a kernel module.",
        ),
        Keyword(
            "modtype", Value.WORD, "What the module is.", choices=("user", "kernel", "kmod")
        ),
        _number("major", 1, 0xFFFF, "Identifies the program's records; `setmaj` changes it."),
        _number("id", 0, 0xFFFF, "A number to ask for the program by."),
        _number("jmpmax", 0, _POSITIVE, "Jumps taken in one hit at most."),
        _number("logmax", 0, 0x10000, "Bytes of log a hit."),
        _number("ex_logmax", 0, 0x10000, "Bytes of exception trace a hit."),
        Keyword(
            "vars",
            Value.NUMBER_OR_NAMES,
            "Local variables: words that all probes of the program share and that last. So many, "
            "or their names: with `vars = calls, bytes` one says `inc lv,calls`.",
            low=0,
            high=MAX_VARIABLES,
        ),
        _number(
            "gvars", 0, MAX_VARIABLES,
            "Global variables that the program needs: all programs of a target share them, and "
            "there are as many as the program that needs most of them says.",
        ),
        Keyword(
            "map",
            Value.MAP,
            "A [map](#keys-and-maps): `NAME, KIND`, then as wanted `keys=N` (items of its key), "
            "`size=M` (keys at most), `signed`. Once for each map.",
            repeats=True,
        ),
        _number("heapmax", 0, 1 << 20, "The most that a probe's `heap` may be."),
        Keyword("autostacktrace", Value.YES_NO, "Every exception appends a stack trace."),
    )
}  # fmt: skip

PROBE: Final[dict[str, Keyword]] = {
    keyword.name: keyword
    for keyword in (
        Keyword(
            "offset",
            Value.PLACE,
            "Where the probe is: `symbol`, `symbol+n`, `symbol-n`, `file.c:line`, an offset in the "
            "file or `usdt:provider:name`, each place of a static probe; in the kernel `symbol`, "
            "`symbol+n`, `tracepoint:name` or `hook:name`.",
        ),
        Keyword(
            "address",
            Value.ADDRESS,
            "In place of `offset`: a symbol or an absolute address; for a watchpoint with its "
            "length, `symbol:length`.",
        ),
        Keyword(
            "watchpoint",
            Value.WORD,
            "Makes it a data probe that fires when the data at `address` is executed (x), "
            "written (w), read or written (rw), or an I/O port is used (io: kernel only).",
            choices=("x", "w", "rw", "io"),
        ),
        Keyword(
            "at",
            Value.WORD,
            "When it fires: when its place is come to (entry), or when the function that begins "
            "there is left (return), in the thread that called it. What stands between the labels "
            "`entry:` and `return:` then runs at the entry.",
            choices=("entry", "return"),
        ),
        Keyword(
            "opcode",
            Value.BYTES,
            "The bytes (1 to 15) expected there. Others: state *mismatch*, and not inserted. Those "
            "of a whole instruction also stand for the file's, where the process changed its code.",
        ),
        _number("minor", 1, 0xFFFF, "Identifies the probe's records; `setmin` changes it."),
        _number("group", 0, 0xFFFF, "To select a part of the program at insertion."),
        _number("type", 0, 0xFFFF, "To select a part of a group at insertion."),
        _number("pass_count", 0, _POSITIVE, "Hits passed over before the program runs."),
        _number(
            "max_hits", 0, _POSITIVE,
            "Hits run before the probe is *disabled*; 0: no limit.",
        ),
        Keyword(
            "logonfault", Value.YES_NO, "Keep the log also when the probed instruction faults."
        ),
        _number("ex_mask", 0, 0xFFFF, "Which exceptions reach handlers."),
        _number("heap", 0, 1 << 20, "Bytes of heap of a hit, at most `heapmax`."),
        Keyword(
            "always",
            Value.YES_NO,
            "Under a budget it is not put to sleep with the others of the program, as long as it "
            "does not cost so much by itself: for one that reports what others counted.",
        ),
    )
}  # fmt: skip

#: The keywords that begin a probe definition.
STARTERS: Final = ("offset", "address")
#: The labels of the two parts of a return probe.
ENTRY_PART: Final = "entry"
RETURN_PART: Final = "return"
PARTS: Final = (ENTRY_PART, RETURN_PART)
MAX_OPCODE: Final = 15

#: Before the name of a tracepoint of the kernel, which is a place.
TRACEPOINT: Final = "tracepoint:"
#: Before the name of a hook that a kernel module has declared (kernel_bridge/hooks.h).
HOOK: Final = "hook:"
_NUMBER = r"(?:0[xX][0-9a-fA-F]+|0|[1-9][0-9]*)"
_SYMBOL = r"[A-Za-z_.$?][\w.$@?]*"
#: ``symbol``, or ``file.c:symbol`` for a local one, and an offset into it.
_IN_SYMBOL = rf"(?:[\w./+-]+\.[A-Za-z0-9+]+:)?{_SYMBOL}(?:[+-]{_NUMBER})?"
#: Patterns, compiled by who reads source text: daemons and tracers import this, too, and do not.
_PLACE = (
    rf"{_NUMBER}|{_IN_SYMBOL}|[^\s:\"]+:[1-9][0-9]*"
    rf"|(?:{TRACEPOINT}|{HOOK})[A-Za-z_]\w*|{STATIC}[\w.-]+:[\w.-]+"
)
_ADDRESS = rf"(?:{_NUMBER}|{_IN_SYMBOL})(?::[1-9][0-9]*)?"
_PLAIN = re.compile(r"[\w.$@?+/:~-]+")
_VARIABLE = re.compile(rf"[A-Za-z_]\w{{0,{MAX_NAME - 1}}}", re.ASCII)
#: What is a number in every expression.
_CONSTANTS = frozenset(f"EX_{code.name}" for code in ExCode)
#: Characters of a place or a name; what quoting can hold.
MAX_TEXT: Final = 4096


def defaults(kind: type[Header] | type[ProbeDefinition]) -> dict[str, object]:
    """Field → default of a model class, without those that have none."""
    fields = msgspec.structs.fields(kind)
    return {f.name: f.default for f in fields if f.default is not msgspec.NODEFAULT}


def text_error(keyword: Keyword, text: str) -> str | None:
    """What is wrong with the text of a TEXT, PLACE or ADDRESS value, or None."""
    if not text:
        return f"`{keyword.name}` is empty"
    if len(text) > MAX_TEXT:
        return f"`{keyword.name}` is longer than {MAX_TEXT} characters"
    # The name of a file may have these.
    lines = str.maketrans("", "", "\n\t" if keyword.name == "name" else "")
    if not text.translate(lines).isprintable():
        return f"`{keyword.name}` has a control character in it"
    return None


def plain_place_error(keyword: Keyword, text: str) -> str | None:
    """What is wrong with a place that was written without quotes, or None."""
    if keyword.value is Value.PLACE and not re.fullmatch(_PLACE, text, re.ASCII):
        return f"`{text}` is not a place"
    if keyword.value is Value.ADDRESS and not re.fullmatch(_ADDRESS, text, re.ASCII):
        return f"`{text}` is not an address"
    return None


def quoted(keyword: Keyword, text: str) -> str:
    """The text as a source file has it: in quotes where it would not be read back as it is."""
    plain = plain_place_error(keyword, text) is None and _PLAIN.fullmatch(text) is not None
    # "//" would begin a comment.
    if plain and text.isascii() and "//" not in text:
        return text
    return quote(text)


def quote(text: str) -> str:
    """The text as a string token."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def variable_names_error(names: Sequence[str]) -> str | None:
    """What is wrong with the names of variables, or None."""
    if len(names) > MAX_VARIABLES:
        return f"`vars` is at most {MAX_VARIABLES} names, not {len(names)}"
    for name in names:
        if _VARIABLE.fullmatch(name) is None or name in _CONSTANTS:
            return f"`{name}` cannot name a variable: letters, digits and _, {MAX_NAME} at most"
    twice = [name for index, name in enumerate(names) if name in names[:index]]
    return f"`{twice[0]}` is there twice" if twice else None


def number_error(keyword: Keyword, value: int) -> str | None:
    """What is wrong with the value of a NUMBER keyword, or None."""
    if keyword.low <= value <= keyword.high:
        return None
    return f"`{keyword.name}` is {keyword.low} to {keyword.high}, not {value}"


def no_entry(place: str) -> bool:
    """Whether a place as written cannot be where a function begins."""
    into = re.search(rf"[+-]({_NUMBER})\Z", place, re.ASCII)
    named = (TRACEPOINT, HOOK, STATIC)
    return place.startswith(named) or (into is not None and int(into[1], 0) != 0)


def _has_length(address: str) -> bool:
    """Whether an address is ``symbol:length``."""
    return re.search(r":[1-9][0-9]*\Z", address, re.ASCII) is not None


def definition_errors(header: Header, probe: ProbeDefinition) -> Sequence[tuple[str, str, str]]:
    """Keywords of one probe that do not go together: (keyword, message, hint)."""
    found = []
    if (probe.offset is None) == (probe.address is None):
        found.append(("offset", "a probe has either an `offset` or an `address`", ""))
    if probe.watchpoint is not None and probe.address is None:
        found.append(
            ("watchpoint", "a watchpoint needs an `address`", "write address = symbol:length")
        )
    if probe.watchpoint is None and probe.address is not None and _has_length(probe.address):
        found.append(
            ("address", "only a watchpoint has a length", "add watchpoint = w, or drop the length")
        )
    if probe.watchpoint is not None and probe.opcode is not None:
        found.append(("opcode", "a watchpoint has no opcode to compare", "drop one of the two"))
    if probe.watchpoint == "io" and not header.kernel:
        found.append(
            ("watchpoint", "I/O ports can be watched by kernel programs only", "use x, w or rw")
        )
    if probe.watchpoint is not None and probe.returns:
        found.append(("at", "a watchpoint is no function that returns", "drop one of the two"))
    place = probe.offset or ""
    if probe.returns and no_entry(place or probe.address or ""):
        found.append(
            (
                "at",
                "only a function can be left: this place is none's entry",
                "write the function's name alone as its place",
            )
        )
    # A line of a file without extension could begin so.
    if not header.kernel and place.startswith((TRACEPOINT, HOOK)) and not place[-1:].isdigit():
        what = place.partition(":")[0]
        found.append(("offset", f"a process has no {what}s", "write modtype = kernel"))
    if header.kernel and probe.is_static:
        found.append(("offset", "only processes have static probes", "drop the modtype"))
    if probe.heap > header.heapmax:
        found.append(
            (
                "heap",
                f"the heap of {probe.heap} bytes is above heapmax = {header.heapmax}",
                f"write heapmax = {probe.heap} in the header",
            )
        )
    return found
