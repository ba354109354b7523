"""``dprobe places``: what in a file can be probed by name."""

from __future__ import annotations

import click

from dprobe.commands import options
from dprobe.lib.errors import UserError
from dprobe.lib.loader import find_module
from dprobe.view.tables import show
from dprobed.binary.errors import LocationError
from dprobed.binary.file import open_path
from dprobed.binary.places import list_places


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
    path = find_module(module)
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
