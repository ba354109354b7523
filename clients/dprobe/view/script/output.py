"""Where a script's output goes, and what it looks like: text or JSON, as bpftrace writes them.

After a failed write (full disk, broken pipe) one line says so and nothing more is written; the
processes with probes are never affected.
"""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
import time
from collections.abc import Sequence
from typing import Final, TypeVar

from dprobe.lib.script.decode import Hit
from dprobe.lib.script.values import Shown, ShownMap
from dprobe.view.output import OutputFile, write_all
from dprobe.view.script import logs, maps, values
from dprobe.view.script.formats import formatted
from dprobed.printable import LAYOUT, printable
from dprobed.proc import far
from dprobed.program.bt import bundle as bt
from dprobed.program.bt.text_bytes import decoded, encoded

T = TypeVar("T")

#: Bytes of a file that ``cat`` shows, where the script says nothing else.
_CAT: Final = 10240
#: Held back at most, in ``full`` mode.
_FULL: Final = 1 << 16
_PREFIX: Final = {"error": "ERROR: ", "warning": "WARNING: "}


class ScriptOutput:
    """What a script prints, to ``descriptor`` or to the file ``path`` (``-``: standard output).

    ``form``: text or json. ``bare``: without what bpftrace says of itself (how many probes are in,
    the empty lines before the maps at the end). ``mode``: when it is written: at the end of each
    batch (``line``), at once (``none``), or when there is much of it (``full``). ``cat_bytes``: how
    much of a file ``cat`` shows. ``dated``: time and process stand before what ``log`` prints, of
    which the first ``most_logs`` are written (0: all). Raises UserError when the file cannot be
    made.
    """

    def __init__(
        self,
        form: str,
        path: str | None,
        descriptor: int,
        *,
        bare: bool,
        mode: str = "line",
        warnings: bool = True,
        cat_bytes: int = _CAT,
        dated: bool = False,
        most_logs: int = 0,
    ) -> None:
        self._json: Final = form == "json"
        self._bare: Final = bare
        self._mode: Final = mode
        self._warnings: Final = warnings
        self._cat_bytes: Final = cat_bytes
        self._dated: Final = dated
        self._logs_left = most_logs if most_logs else -1
        self._sink: Final = OutputFile(path, descriptor, "nothing further is written")
        written = self._sink.descriptor
        self._to_terminal: Final = form != "json" and written >= 0 and os.isatty(written)
        #: What comes before it is said how many probes are in is printed after that.
        self._held = True
        self._parts: list[str] = []
        self._size = 0

    @property
    def broken(self) -> bool:
        """Whether something could not be written."""
        return self._sink.broken

    @property
    def status(self) -> int:
        """The exit status for that; 0 where all was written."""
        return self._sink.status

    @property
    def has_all_logs(self) -> bool:
        """Whether all lines of ``log`` that are wanted were written."""
        return self._logs_left == 0

    # -- what scripts do ------------------------------------------------------------------------

    def printf(self, act: bt.Printf, arguments: Sequence[Shown]) -> None:
        """``printf``, ``errorf`` or ``warnf``."""
        text = formatted(act.format, [self._harmless(each) for each in arguments])
        if act.to == "out":
            self.text("printf", text)
        elif act.to == "error" or self._warnings:
            self.flush()
            place = f"{act.place}: " if act.place else ""
            _to_stderr(f"{place}{_PREFIX.get(act.to, '')}{text}\n")

    def log(self, act: bt.Log, arguments: Sequence[Shown], hit: Hit | None) -> None:
        """A line of ``log``: in JSON with the values by what they are written as, and the hit."""
        if hit is not None:
            if self.has_all_logs:
                return
            self._logs_left -= 1
        if self._json:
            self._write(logs.as_json(act, arguments, hit))
        else:
            text = logs.text(act, arguments, hit if self._dated else None)
            self._write(self._harmless(text))

    def value(self, value: Shown) -> None:
        """A value and the end of a line."""
        if self._json:
            self._write(f'{{"type": "value", "data": {values.as_json(value)}}}\n')
        else:
            self._write(f"{self._harmless(values.text(value))}\n")

    def map(self, shown: ShownMap, top: int, divisor: int) -> None:
        """A map; nothing where keys are missing."""
        if shown.entries:
            form = maps.as_json if self._json else maps.text
            text = form(shown, top, divisor, time.time_ns() - time.monotonic_ns())
            self._write(self._harmless(text))

    def entry(self, shown: ShownMap) -> None:
        """One entry of a map."""
        self.map(shown, 0, 1)

    def plain(self, text: str) -> None:
        """Lines that are whole in themselves."""
        self._write(text)

    def text(self, kind: str, text: str) -> None:
        """Text as it is; in JSON with its kind."""
        if self._json:
            data = text.removesuffix("\n") if kind == "join" else text
            self._write(f'{{"type": "{kind}", "data": {values.quoted(data)}}}\n')
        else:
            self._write(self._harmless(text) if kind == "join" else text)

    def cat(self, act: bt.Cat, arguments: Sequence[Shown]) -> None:
        """The contents of a file."""
        name = formatted(act.format, arguments)
        try:
            with far.open_reading(_of_c(name)) as file:
                data = file.read(self._cat_bytes)
        except OSError as error:
            self._failed(f"failed to open file '{name}': {error.strerror}")
            return
        self.text("cat", self._harmless(decoded(data)))

    def system(self, act: bt.System, arguments: Sequence[Shown]) -> None:
        """What a command prints."""
        self.flush()
        command = formatted(act.format, arguments)
        shell = ["/bin/sh", "-c"]
        try:
            done = subprocess.run([*shell, _of_c(command)], stdout=subprocess.PIPE, check=False)
        except OSError as error:
            self._failed(f"failed to run '{command[:200]}': {error.strerror}")
            return
        self.text("syscall", decoded(done.stdout))

    def _failed(self, text: str) -> None:
        self.flush()
        _to_stderr("ERROR: {}\n".format(text.replace("\0", "\\0")))

    def _harmless(self, shown: T) -> T | str:
        """For a terminal: a text of a process without what a terminal would obey."""
        if self._to_terminal and isinstance(shown, str):
            return printable(shown, keep=LAYOUT)
        return shown

    # -- what is said of the script -------------------------------------------------------------

    def attached(self, probes: int, *, said: bool = True) -> None:
        """So many probes are in; ``said``: and that is printed."""
        self._held = False
        if self._bare or not said:
            return
        if self._json:
            line = f'{{"type": "attached_probes", "data": {{"probes": {probes}}}}}\n'
        else:
            line = f"Attached {probes} probe{'s' * (probes != 1)}\n"
        self._parts.insert(0, line)

    def lost(self, events: int) -> None:
        """So many records were lost."""
        if self._json:
            self._write(f'{{"type": "lost_events", "data": {{"events": {events}}}}}\n')
        else:
            self._write(f"Lost {events} events\n")

    def final(self) -> None:
        """Before what is printed at the end."""
        if not self._bare:
            self._write("\n\n")

    # -- writing --------------------------------------------------------------------------------

    def _write(self, text: str) -> None:
        if self.broken:
            return
        self._parts.append(text)
        self._size += len(text)
        if self._mode == "none" or self._size >= _FULL:
            self._flush()

    def flush(self) -> None:
        """Write what has come so far, unless much is to be gathered first."""
        if self._mode != "full":
            self._flush()

    def _flush(self) -> None:
        if not self._parts or self.broken or self._held:
            return
        data = encoded("".join(self._parts))
        self._parts.clear()
        self._size = 0
        self._sink.write(data)

    def close(self) -> None:
        """Write the rest, and close a file of our own; a full disk says so only then."""
        self._held = False
        self._flush()
        self._sink.close()


def _of_c(text: str) -> str:
    """What the system can be given; raises OSError where a NUL would end it."""
    if "\0" in text:
        raise OSError(errno.EINVAL, "there is a NUL in it")
    return text


def _to_stderr(text: str) -> None:
    with contextlib.suppress(OSError):
        write_all(2, encoded(text))
