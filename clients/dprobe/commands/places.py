"""``dprobe places``: what in a file can be probed by name."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Any

import click

from dprobe.commands import complete, options
from dprobe.lib.errors import UserError
from dprobe.lib.loader import find_module
from dprobe.lib.mapped import open_file
from dprobe.view.tables import Listing, show
from dprobed.binary.errors import LocationError
from dprobed.binary.file import Binary
from dprobed.binary.places import list_places
from dprobed.binary.static_probes import static_probes

_LISTING = Listing(
    "place",
    (("address", "address"), ("size", "size"), ("kind", "kind"), ("place", "place")),
    ("file_offset", "source", "module"),
)
_STATIC = Listing(
    "static_probe",
    tuple(
        (name, name) for name in ("provider", "name", "address", "offset", "arguments", "semaphore")
    ),
    ("module",),
)


@click.command(
    "places",
    epilog="""\b
examples:
  dprobe places libc.so.6 'mem*'
  dprobe places /usr/bin/python3 --json
  dprobe places --usdt libstdc++.so.6    # static probes
""",
)
@click.option("--usdt", is_flag=True, help="Static probes (USDT), which the module's authors set.")
@options.listing(_LISTING, _STATIC)
@click.argument("module", shell_complete=complete.modules)
@click.argument("pattern", default="*", shell_complete=complete.symbols)
def places_command(
    module: str, pattern: str, usdt: bool, json: bool, only: tuple[str, ...]
) -> None:
    """List what of MODULE (a path, a library, a command) can be probed by name.

    Code is for `offset`, data for `address` with a `watchpoint`. Of a static probe `offset` takes
    what is listed as such; its arguments are written as the compiler left them: size@place.

    PATTERN may have * and ? in it; for static probes it is of provider:name, or of the name alone.
    """
    path = find_module(module)
    try:
        elf = open_file(path)
        rows = _usdt(elf, pattern) if usdt else _named(elf, pattern)
    except LocationError as error:
        raise UserError(str(error)) from None
    rows = [{**row, "module": path} for row in rows]
    what = "no static probe" if usdt else "nothing"
    listing = _STATIC if usdt else _LISTING
    if not rows:
        raise UserError(f"{what} in {path} matches {pattern}")
    show(rows, listing, json=json, empty="", only=only)


def _named(elf: Binary, pattern: str) -> list[dict[str, Any]]:
    """Code and variables with names."""
    return [
        {
            "place": place.spec or place.name,
            "kind": place.kind,
            "size": place.size,
            "file_offset": place.file_offset,
            "address": f"{place.vaddr:#x}",
            "source": place.source,
        }
        for place in list_places(elf, pattern)
    ]


def _usdt(elf: Binary, pattern: str) -> list[dict[str, Any]]:
    """Static probes (USDT)."""
    rows = []
    for probe in static_probes(elf):
        names = (probe.name, f"{probe.provider}:{probe.name}")
        if not any(fnmatchcase(name, pattern) for name in names):
            continue
        offset = elf.vaddr_to_offset(probe.address)
        rows.append(
            {
                "provider": probe.provider,
                "name": probe.name,
                "address": f"{probe.address:#x}",
                "offset": "" if offset is None else f"{offset:#x}",
                "arguments": probe.arguments,
                "semaphore": f"{probe.semaphore:#x}" if probe.semaphore else "",
            }
        )
    return rows
