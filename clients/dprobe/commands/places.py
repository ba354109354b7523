"""``dprobe places``: what in a file can be probed by name."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import click

from dprobe.commands import options
from dprobe.lib.errors import UserError
from dprobe.view.tables import show
from dprobed.binary.elf import open_path
from dprobed.binary.errors import LocationError
from dprobed.binary.places import list_places

#: Where the dynamic linker of Debian looks by itself, besides its cache (ld.so(8)).
_LIBRARY_FOLDERS = (
    "/lib/x86_64-linux-gnu",
    "/usr/lib/x86_64-linux-gnu",
    "/usr/local/lib",
    "/lib64",
    "/usr/lib64",
    "/lib",
    "/usr/lib",
)


@click.command(
    "places",
    epilog="""\b
examples:
  dprobe places libc.so.6 'mem*'
  dprobe places /usr/bin/python3 --json
""",
)
@options.json
@click.argument("module")
@click.argument("pattern", default="*")
def places_command(module: str, pattern: str, json: bool) -> None:
    """List what of MODULE (a path, a library, a command) can be probed by name.

    Code is for `offset`, data for `address` with a `watchpoint`.

    PATTERN may have * and ? in it.
    """
    path = _find_module(module)
    try:
        found = list(list_places(open_path(path), pattern))
    except LocationError as error:
        raise UserError(str(error)) from None
    rows = [
        {
            "place": place.spec or place.name,
            "kind": place.kind,
            "size": place.size,
            "file_offset": place.file_offset,
            "address": f"{place.vaddr:#x}",
            "source": place.source,
            "module": path,
        }
        for place in found
    ]
    columns = (("address", "address"), ("size", "size"), ("kind", "kind"), ("place", "place"))
    show(rows, columns, json=json, empty=f"nothing in {path} matches {pattern}")


def _find_module(name: str) -> str:
    """The file that a module's name stands for: a path, a command, or a library.

    Raises UserError.
    """
    if "/" in name:
        return name
    commands = os.environ.get("PATH", "/bin:/usr/bin").split(":")
    for path in _candidates(name, (*_LIBRARY_FOLDERS, *commands)):
        if path.is_file():
            return str(path)
    if Path(name).is_file():
        return name
    raise UserError(f"{name}: no such library or command here; give its path")


def _candidates(name: str, folders: Iterable[str]) -> Iterable[Path]:
    for folder in folders:
        if folder:
            yield Path(folder) / name
