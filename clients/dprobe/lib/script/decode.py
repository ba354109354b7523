"""What a record of a script says: its actions, with their arguments as values.

A log is a row of tokens (``program.bt.bundle``): each word is one, and each item with a prefix.
What is cut off at the end of a record (its exit says why) is not shown.
"""

from __future__ import annotations

import os
import pwd
import signal
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, Protocol, TypeAlias

import msgspec

from dprobe.lib.script.values import Address, Buffer, NamedNumber, Shown, StackText
from dprobed.program.bt import bundle as bt
from dprobed.program.bt.conversions import time_parts
from dprobed.program.maps import STACK_MARK
from dprobed.record.log import stack_value

#: A word; or an item: a text, bytes, a stack.
Token: TypeAlias = "int | str | bytes | dict[str, Any]"


class Names(Protocol):
    """Names what is at addresses of processes."""

    def learn(self, pid: int, comm: str) -> None:
        """Look at a process while it is there."""

    def symbol(self, pid: int, address: int, comm: str, *, offset: bool) -> str:
        """``function+12``, or without ``offset`` its name alone; hexadecimal if it has none."""

    def frames(self, stack: dict[str, Any], pid: int, mode: str) -> tuple[str, ...]:
        """A line for each frame of a stack, as ``decode_log`` has it."""


class Hit(msgspec.Struct, frozen=True):
    """A record, as far as scripts look at it. ``time``: monotonic nanoseconds."""

    pid: int
    tid: int
    comm: str
    log: list[dict[str, Any]]
    exit: str
    exception: dict[str, Any] | None = None
    program: str = ""
    place: str = ""
    time: int = 0


class Act(msgspec.Struct, frozen=True):
    """An action, and its arguments. ``pid``: of the process that hit; ``tokens``: those of the
    arguments as they came."""

    number: int
    action: bt.Action
    values: tuple[Shown, ...]
    tokens: tuple[Token, ...] = ()
    pid: int = 0


class _End(Exception):
    """The record has no more."""


def tokens(log: Sequence[dict[str, Any]]) -> Iterator[Token]:
    """The tokens of a log, as ``decode_log`` has it."""
    for item in log:
        if "words" in item:
            yield from item["words"]
        elif "string" in item:
            raw = item.get("bytes")
            if raw is None:
                yield item["string"]
            else:
                yield bytes.fromhex(raw).decode("utf-8", "surrogateescape")
        elif "memory" in item:
            yield bytes.fromhex(item["memory"])
        elif "ustack" in item:
            yield item
        elif "value" in item:
            yield item["value"]
        # A fault is the end of what stands before it.


class Decoder:
    """Decodes the records of one script. ``names``: of what is at addresses."""

    def __init__(self, bundle: bt.Bundle, names: Names) -> None:
        self._bundle: Final = bundle
        self._names: Final = names
        self._arguments: Final = [_arguments(action) for action in bundle.actions]
        #: What processes are called, where addresses in keys are named.
        self.comm_of: dict[int, str] = {}
        #: Nanoseconds between the beginnings of the clocks and of the calendar.
        self._epochs: Final = {
            "boot": time.time_ns() - time.clock_gettime_ns(time.CLOCK_BOOTTIME),
            "monotonic": time.time_ns() - time.monotonic_ns(),
            "tai": time.time_ns() - time.clock_gettime_ns(time.CLOCK_TAI),
        }

    def acts(self, log: Sequence[dict[str, Any]], pid: int, comm: str) -> Iterator[Act]:
        """The actions of a log, in their order."""
        reader = _Reader(list(tokens(log)), pid, comm)
        while reader.more:
            number = reader.word()
            if number >= len(self._arguments):
                return
            start = reader.at
            try:
                values = tuple(self._value(each, reader) for each in self._arguments[number])
            except _End:
                return
            yield Act(number, self._bundle.actions[number], values, reader.since(start), pid)

    def key(
        self, script_map: bt.Map, part: bt.Part, items: Sequence[int | str], whose: int = 0
    ) -> tuple[Shown, ...]:
        """The values of a map's key, of the items of one of its parts. ``whose``: the process that
        addresses are of, 0: it is not known."""
        reader = _Reader(list(items), whose, self.comm_of.get(whose, ""))
        constants = part.constant or (False,) * len(script_map.key)
        found: list[Shown] = []
        for value, constant in zip(script_map.key, constants, strict=False):
            if constant:
                found.append(self._constant(reader.word()))
            else:
                found.append(self._value(value, reader))
        return tuple(found)

    def cell(self, value: bt.Value, cell: Sequence[int], whose: int = 0) -> Shown:
        """What a map of values has. ``whose``: as of ``key``."""
        return self._value(value, _Reader(list(cell), whose, self.comm_of.get(whose, "")))

    def _constant(self, index: int) -> str:
        strings = self._bundle.strings
        return strings[index] if index < len(strings) else ""

    def _value(self, value: bt.Value, reader: _Reader) -> Shown:
        match value:
            case bt.Integer():
                return narrowed(reader.word(), value.size, signed=value.signed)
            case bt.String():
                token = reader.take()
                return self._constant(token) if isinstance(token, int) else _text(token)
            case bt.Pointer():
                return Address(reader.word())
            case bt.Tuple():
                items = tuple(self._value(each, reader) for each in value.items)
                return dict(zip(value.names, items, strict=False)) if value.names else items
            case bt.Stack():
                return self._stack(value, reader)
            case bt.Memory():
                return _memory(value.kind, reader.take())
            case bt.Strings():
                return _until_zero(reader)
            case bt.ShortText():
                return _words_text(reader, 2)
            case bt.HeldText():
                return _words_text(reader, value.size // 8)
            case bt.Struct() | bt.Array():
                return self._typed(value.of, reader.take())
        return self._of_word(value, reader.word(), reader)

    def _of_word(self, value: bt.Value, word: int, reader: _Reader) -> Shown:
        match value:
            case bt.Boolean():
                return bool(word)
            case bt.Float():
                return _float(word, value.size)
            case bt.Enum():
                number = narrowed(word, value.size, signed=value.signed)
                name = next((name for name, each in value.values if each == number), None)
                return number if name is None else NamedNumber(number, name)
            case bt.Symbol():
                return self._names.symbol(reader.pid, word, reader.comm, offset=value.offset)
            case bt.Time():
                epoch = self._epochs.get(value.clock, self._epochs["boot"])
                return moment(value.format, narrowed(word, 8, signed=True) + epoch)
            case bt.ErrorText():
                return _error_text(abs(narrowed(word, 4, signed=True)))
            case bt.SignalName():
                return _signal_name(word)
            case bt.UserName():
                return _user_name(word & 0xFFFFFFFF)
            case bt.InternetAddress():
                return ".".join(map(str, (word & 0xFFFFFFFF).to_bytes(4, "little")))
        return word

    def _stack(self, value: bt.Stack, reader: _Reader) -> Shown:
        token = reader.take()
        if isinstance(token, str) and token.startswith(STACK_MARK.decode()):
            token = stack_value(token.encode("latin-1")[len(STACK_MARK) :]) or {"ustack": []}
        if not isinstance(token, dict):
            return StackText(())
        lines = self._names.frames(token, reader.pid, value.mode)
        return StackText(lines, value.mode == "perf")

    def _typed(self, index: int, token: Token) -> Shown:
        if not isinstance(token, bytes):
            return None
        from dprobe.lib.script.typed import typed

        return typed(self._bundle.types, index, token)


class _Reader:
    """Tokens, one after the other."""

    def __init__(self, row: list[Token], pid: int, comm: str) -> None:
        self._row = row
        self.at = 0
        self.pid = pid
        self.comm = comm

    @property
    def more(self) -> bool:
        return self.at < len(self._row)

    def take(self) -> Token:
        """The next one; raises _End."""
        if self.at >= len(self._row):
            raise _End
        self.at += 1
        return self._row[self.at - 1]

    def word(self) -> int:
        """The next one, which is a word; raises _End."""
        token = self.take()
        if not isinstance(token, int):
            raise _End
        return token

    def since(self, start: int) -> tuple[Token, ...]:
        """Those that were taken from there on."""
        return tuple(self._row[start : self.at])


_KEYED: Final = (bt.PrintEntry, bt.Delete, bt.Fetch)


def _arguments(action: bt.Action) -> tuple[bt.Value, ...]:
    """The types of what follows the number of an action."""
    if isinstance(action, bt.Printf | bt.Log | bt.System | bt.Cat):
        return action.arguments
    if isinstance(action, bt.Print):
        return (action.argument,)
    if isinstance(action, _KEYED):
        return action.key
    if isinstance(action, bt.Join):
        return (bt.Strings(),)
    return (bt.Integer(),) if isinstance(action, bt.Exit | bt.Watch | bt.Unwatch) else ()


def narrowed(word: int, size: int, *, signed: bool) -> int:
    """So many bytes of a word, as a number."""
    bits = 8 * size
    number = word & ((1 << bits) - 1)
    return number - (1 << bits) if signed and number >> (bits - 1) else number


def _text(token: Token) -> str:
    if isinstance(token, bytes):
        return token.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")
    return token if isinstance(token, str) else ""


def _until_zero(reader: _Reader) -> list[Shown]:
    found: list[Shown] = []
    while reader.more:
        token = reader.take()
        if isinstance(token, int):
            break
        found.append(_text(token))
    return found


def _words_text(reader: _Reader, count: int) -> str:
    token = reader.take()
    if isinstance(token, int):
        rest = [reader.word() for _ in range(count - 1)]
        token = struct.pack(f"<{count}Q", token, *rest)
    return _text(token)


def _memory(kind: str, token: Token) -> Shown:
    data = token if isinstance(token, bytes) else b""
    if kind == "mac":
        return ":".join(f"{byte:02X}" for byte in data[:6])
    if kind == "inet":
        import ipaddress

        return str(ipaddress.ip_address(data)) if len(data) in (4, 16) else ""
    return Buffer(data)


def _float(word: int, size: int) -> float:
    code: Callable[[bytes], tuple[Any, ...]] = struct.Struct("<d" if size == 8 else "<f").unpack
    found: float = code(word.to_bytes(8, "little")[:size])[0]
    return found


def moment(form: str, nanoseconds: int) -> str:
    """A time of the calendar by a format of ``strftime``, in which %f is microseconds."""
    seconds, rest = divmod(nanoseconds, 1_000_000_000)
    when = time.localtime(seconds)
    shown = []
    for part, conversion in time_parts(form):
        if part == "%f":
            shown.append(f"{rest // 1000:06}")
        else:
            # What is no conversion is not for the C library: it may be in no encoding of its own.
            shown.append(time.strftime(part, when) if conversion else part)
    return "".join(shown)


def _error_text(number: int) -> str:
    # The least number has no positive one of 32 bits, which is all that the C library takes.
    return os.strerror(number) if number < 1 << 31 else f"Unknown error {number}"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
