"""What ``log`` prints: a line of text, or JSON with each value by what it is written as."""

from __future__ import annotations

import time
from collections.abc import Sequence
from fnmatch import fnmatchcase
from itertools import zip_longest

from dprobe.lib.script.decode import Hit
from dprobe.lib.script.values import Shown, StackText
from dprobe.view.script import values
from dprobed.printable import LAYOUT, printable
from dprobed.program.bt import bundle as bt
from dprobed.program.bt.functions_log import REDACTED


def text(act: bt.Log, arguments: Sequence[Shown], hit: Hit | None) -> str:
    """The line; ``hit``: its time, process and thread stand before it."""
    head = ""
    if hit is not None:
        nanoseconds = _epoch() + hit.time
        clock = time.strftime("%H:%M:%S", time.localtime(nanoseconds // 10**9))
        head = f"{clock}.{nanoseconds // 10**6 % 1000:03} {printable(hit.comm)}[{hit.pid}] "
    return f"{head}{_message(act, arguments)}\n"


def as_json(act: bt.Log, arguments: Sequence[Shown], hit: Hit | None) -> str:
    """The line as an object."""
    shown = (_redacted(each, act.redacted) for each in arguments)
    named = ", ".join(
        f"{values.quoted(name)}: {values.as_json(each)}"
        for name, each in zip(act.names, shown, strict=False)
    )
    about = ""
    if hit is not None:
        about = (
            f', "time_ns": {_epoch() + hit.time}, "pid": {hit.pid}, "tid": {hit.tid}, '
            f'"comm": {values.quoted(hit.comm)}, "place": {values.quoted(hit.place)}'
        )
    message = values.quoted(_message(act, arguments))
    return f'{{"type": "log", "data": {{"message": {message}, "values": {{{named}}}{about}}}}}\n'


def _message(act: bt.Log, arguments: Sequence[Shown]) -> str:
    shown = (
        printable(
            values.text(_redacted(each, act.redacted)),
            LAYOUT if isinstance(each, StackText) else "",
        )
        for each in arguments
    )
    pairs = zip_longest(act.texts, shown, fillvalue="")
    return "".join(f"{before}{value}" for before, value in pairs)


def _redacted(value: Shown, patterns: Sequence[str]) -> Shown:
    """The value without members that are not to be shown."""
    if isinstance(value, dict):
        return {
            name: REDACTED
            if any(fnmatchcase(name.lower(), each.lower()) for each in patterns)
            else _redacted(each, patterns)
            for name, each in value.items()
        }
    if isinstance(value, list):
        return [_redacted(each, patterns) for each in value]
    return value


def _epoch() -> int:
    """The calendar's time when the monotonic clock began, in nanoseconds."""
    return time.time_ns() - time.monotonic_ns()
