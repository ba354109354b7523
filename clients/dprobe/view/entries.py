"""Shows entries of the journal: a line for each."""

from __future__ import annotations

from datetime import datetime

import msgspec

from dprobe.lib.systemd_journal import EntriesWanted, JournalEntry, entries
from dprobe.view import tables
from dprobe.view.output import Output
from dprobed.printable import LAYOUT, printable


def show_entries(wanted: EntriesWanted, output: Output, *, json: bool) -> int:
    """Write the entries that are wanted until there are no more, or Ctrl-C; the exit status."""
    try:
        for entry in entries(wanted):
            output.line(_json(entry) if json else _line(entry))
            if wanted.follow:
                output.flush()
            if output.broken:
                break
    except KeyboardInterrupt:
        pass
    output.flush()
    output.close()
    return output.status


def _json(entry: JournalEntry) -> str:
    return tables.encoded("entry", msgspec.to_builtins(entry))


def _line(entry: JournalEntry) -> str:
    moment = datetime.fromtimestamp(entry.time).astimezone().isoformat(timespec="microseconds")
    return f"{moment} {printable(entry.message, LAYOUT)}".replace("\n", "\n    ")
