"""Cores: to have one written, to list and to remove them.

The folder is the user's own, so listing and removing need no daemon.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dprobe.lib.connection import Connection
from dprobe.lib.errors import NoDaemonError, UserError
from dprobe.view.tables import show
from dprobed.wire import messages

if TYPE_CHECKING:
    from dprobed.corefile import store

_COLUMNS = (
    ("core", "name"),
    ("pid", "pid"),
    ("command", "command"),
    ("probe", "probe"),
    ("threads", "threads"),
    ("bytes", "bytes"),
)


@contextlib.contextmanager
def _any_daemon(path: Path | None) -> Iterator[Connection]:
    """The daemon that runs, or one for this command."""
    try:
        daemon = Connection.open(path or messages.default_socket(os.getuid()))
    except NoDaemonError:
        if path is not None:
            raise
    else:
        with daemon:
            yield daemon
        return
    from dprobe.lib.private import PrivateDaemon

    with PrivateDaemon() as private, private.connect() as daemon:
        yield daemon


def dump(path: Path | None, pid: int, *, zstd: bool, json: bool) -> None:
    """Have a core of ``pid`` written, and print its path."""
    with _any_daemon(path) as daemon:
        daemon.request(lambda number: messages.Attach(id=number, pid=pid), messages.Attached)
        done = daemon.request(
            lambda number: messages.Dump(id=number, pid=pid, zstd=zstd), messages.Dumped
        )
    if json:
        show([done], (), json=True, empty="")
    else:
        print(done.path)


def _row(core: store.Core) -> dict[str, Any]:
    about = core.about
    probe = about.get("probe") or {}
    place = f"{probe.get('program', '?')} {probe.get('place', '?')}" if probe else ""
    return {
        "name": core.name,
        "path": str(core.path),
        "pid": about.get("pid", 0),
        "command": about.get("command", "?"),
        "probe": place,
        "threads": len(about.get("threads", ())),
        "bytes": core.bytes,
        "pause_ns": about.get("pause_ns", 0),
        "how": about.get("how", "?"),
        "time": about.get("time", 0),
    }


def show_cores(*, json: bool) -> None:
    """The cores of this user."""
    from dprobed.corefile import store

    try:
        folder = store.limits().folder
        rows = [_row(core) for core in store.cores(folder)]
    except store.StoreError as error:
        raise UserError(str(error)) from None
    show(rows, _COLUMNS, json=json, empty=f"there are no cores in {folder}")


def remove(names: Sequence[str], *, json: bool) -> None:
    """Remove these cores; none given: all."""
    from dprobed.corefile import store

    try:
        folder = store.limits().folder
        chosen = names or [core.name for core in store.cores(folder)]
        rows = [_row(store.remove(folder, name)) for name in chosen]
    except store.StoreError as error:
        raise UserError(str(error)) from None
    show(rows, _COLUMNS, json=json, empty=f"there are no cores in {folder}")
