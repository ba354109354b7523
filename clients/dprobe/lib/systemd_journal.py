"""Entries of ours in the systemd journal, read by systemd-python."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import msgspec

from dprobe.lib.errors import UserError

if TYPE_CHECKING:
    from systemd.journal import Reader

#: Prefix of the fields that are ours.
_OURS: Final = "DPROBE_"


class EntriesWanted(msgspec.Struct, frozen=True):
    """Which entries: those of these programs and processes, ``since`` then (seconds since 1970),
    the last ``count`` of them, and with ``follow`` those to come. None or empty: all."""

    namespace: str = ""
    programs: tuple[str, ...] = ()
    pids: tuple[int, ...] = ()
    since: float | None = None
    count: int | None = None
    follow: bool = False


class JournalEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One entry. ``event``: which kind of event it tells of; empty for records and other lines.
    ``fields``: ours, in small letters."""

    time: float
    priority: int
    message: str
    event: str
    pid: int | None
    fields: dict[str, str]


def entries(wanted: EntriesWanted) -> Iterator[JournalEntry]:
    """The entries that are wanted, oldest first; raises UserError."""
    reader = _opened(wanted.namespace)
    reader.add_match(SYSLOG_IDENTIFIER="dprobed")
    for program in wanted.programs:
        reader.add_match(DPROBE_PROGRAM=program)
    for pid in wanted.pids:
        reader.add_match(OBJECT_PID=str(pid))
    if wanted.count is not None:
        reader.seek_tail()
        # Back by so many, and from there on.
        first = reader.get_previous(wanted.count) if wanted.count else {}
        if first and _is_since(first, wanted.since):
            yield _entry(first)
    elif wanted.since is not None:
        reader.seek_realtime(wanted.since)
    while True:
        for found in reader:
            if _is_since(found, wanted.since):
                yield _entry(found)
        if not wanted.follow:
            return
        reader.wait(1)  # not longer: it looks for no signal meanwhile


def _opened(namespace: str) -> Reader:
    # Here: it takes some milliseconds, and few commands need it.
    try:
        from systemd import journal
    except ImportError as error:
        raise UserError(f"the journal cannot be read: {error}") from None
    try:
        reader = journal.Reader(namespace=namespace) if namespace else journal.Reader()
    except OSError as error:
        raise UserError(f"the journal cannot be read: {error.strerror}") from None
    if not (reader.has_persistent_files() or reader.has_runtime_files()):
        where = f" of namespace {namespace}" if namespace else ""
        raise UserError(
            f"there is no journal{where}, or none that this user may read: members of group "
            "systemd-journal may"
        )
    return reader


def _is_since(found: dict[str, Any], since: float | None) -> bool:
    return since is None or found["__REALTIME_TIMESTAMP"].timestamp() >= since


def _entry(found: dict[str, Any]) -> JournalEntry:
    moment: datetime = found["__REALTIME_TIMESTAMP"]
    pid = found.get("OBJECT_PID")
    return JournalEntry(
        time=moment.timestamp(),
        priority=int(found.get("PRIORITY", 6)),
        message=_text(found.get("MESSAGE", "")),
        event=_text(found.get("DPROBE_EVENT", "")),
        pid=None if pid is None else int(_text(pid)),
        fields={
            name.removeprefix(_OURS).lower(): _text(value)
            for name, value in found.items()
            if name.startswith(_OURS) and name != "DPROBE_EVENT"
        },
    )


def _text(value: object) -> str:
    """A field's value; one that is there several times, the first of them."""
    if isinstance(value, list):
        value = value[0]
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
