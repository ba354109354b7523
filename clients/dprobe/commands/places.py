"""``dprobe places``: what in a file can be probed by name."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Any

import click

from dprobe.commands import complete, options
from dprobe.commands.engine_shares import LISTING as SHARES
from dprobe.commands.engine_shares import reasons, shares
from dprobe.lib.debug_info import told
from dprobe.lib.errors import UserError, os_error_text
from dprobe.lib.loader import find_module
from dprobe.lib.mapped import open_file
from dprobe.view.tables import Listing, encoded, show
from dprobe.view.variables import (
    function_rows,
    functions_text,
    type_row,
    type_text,
    visible_row,
    visible_text,
)
from dprobed.binary.errors import LocationError
from dprobed.binary.file import Binary
from dprobed.binary.places import list_places
from dprobed.printable import printable
from dprobed.proc.kernel_symbols import PATH, KernelSymbol, symbols
from dprobed.program.model import STATIC

_LISTING = Listing(
    "place",
    (("address", "address"), ("size", "size"), ("kind", "kind"), ("place", "place")),
    ("file_offset", "source", "module"),
)
_KERNEL = Listing(
    "kernel_place",
    (("address", "address"), ("kind", "kind"), ("module", "module"), ("place", "place")),
)
_STATIC = Listing(
    "static_probe",
    tuple((name, name) for name in ("place", "arguments", "semaphore", "address")),
    ("provider", "name", "offset", "module"),
)


@click.command(
    "places",
    epilog="""\b
examples:
  dprobe places libc.so.6 'mem*'
  dprobe places /usr/bin/python3 --json
  dprobe places -v ./server handle       # arguments, types, inlined copies
  dprobe places -v ./server server.c:120 # every variable there, and where
  dprobe places --usdt libstdc++.so.6    # static probes
  dprobe places --engine libc.so.6       # what each engine can serve of it
  dprobe places --kernel 'vfs_*'         # functions and data of the kernel
  dprobe places --kernel 'loop:*'        # of its module loop
  dprobe places --kernel 'tracepoint:*'
""",
)
@click.option("--usdt", is_flag=True, help="Static probes (USDT), which the module's authors set.")
@click.option(
    "-v",
    "--verbose",
    is_flag=True,
    help="Of what PATTERN names: arguments or variables with their types, and where they are;"
    " lines, inlined copies; members of types.",
)
@click.option("--kernel", is_flag=True, help="What the kernel and its modules have.")
@click.option("--engine", is_flag=True, help="The share of its code that each engine can serve.")
@options.listing(_LISTING, _STATIC, _KERNEL, SHARES)
@click.argument("module", required=False, shell_complete=complete.modules)
@click.argument("pattern", required=False, shell_complete=complete.symbols)
def places_command(
    module: str | None,
    pattern: str | None,
    usdt: bool,
    verbose: bool,
    kernel: bool,
    engine: bool,
    json: bool,
    only: tuple[str, ...],
) -> None:
    """List what of MODULE (a path, a library, a command) can be probed by name.

    Code is for `offset`, data for `address` with a `watchpoint`. A static probe has a line for each
    of its places; `offset = usdt:provider:name` means all of them. Its arguments (`push a,0` is the
    first) are written as the compiler left them: size@place, with a minus before it if signed.

    PATTERN may have * and ? in it; for static probes it stands for provider:name, or for the name
    alone. With -v, which reads debug information, PATTERN is a function (`ns::Class::method` in
    C++, with the types of its parameters where it is overloaded), a pattern of names, a place
    (server.c:120, handle+16, usdt:provider:name), a global variable or a type (`struct node`). Of
    each argument it says where it is at the function's first instruction; if it is not kept there,
    at which addresses it is.

    With --kernel a PATTERN is all that is given: for names of the kernel itself, for module:name,
    or for tracepoint:name. Places of a module are for programs with `modtype = kmod`. Addresses in
    the kernel are listed only for those to whom it shows them.
    """
    if kernel:
        if usdt or verbose or pattern is not None:
            what = "--usdt" if usdt else "-v" if verbose else "a MODULE"
            raise UserError(f"--kernel goes without {what}: `dprobe places --kernel 'vfs_*'`")
        _list_kernel(module or "*", json=json, only=only)
        return
    if module is None:
        raise click.UsageError("Missing argument 'MODULE'.")
    path = find_module(module)
    if verbose:
        if usdt:
            raise UserError("-v goes without --usdt: name the probe, usdt:provider:name")
        if pattern is None:
            raise UserError(f"-v needs a function or a place: `dprobe places -v {module} main`")
        _tell(path, pattern, json=json)
        return
    pattern = pattern or "*"
    try:
        elf = open_file(path)
        if engine:
            rows = [{**row, "module": path} for row in shares(elf)]
            show(rows, SHARES, json=json, empty="", only=only)
            if not json and not only:
                for line in reasons(rows):
                    print(line)
            return
        rows = _usdt(elf, pattern) if usdt else _named(elf, pattern)
    except LocationError as error:
        raise UserError(str(error)) from None
    rows = [{**row, "module": path} for row in rows]
    what = "no static probe" if usdt else "nothing"
    listing = _STATIC if usdt else _LISTING
    if not rows:
        raise UserError(f"{what} in {path} matches {pattern}")
    show(rows, listing, json=json, empty="", only=only)


def _tell(path: str, spec: str, *, json: bool) -> None:
    """What debug information says of functions or a place."""
    try:
        found = told(open_file(path), spec)
    except LocationError as error:
        raise UserError(str(error)) from None
    if not found:
        raise UserError(f"no function in {path} that its debug information tells of matches {spec}")
    for number, each in enumerate(found):
        if json:
            rows = function_rows(each.functions) if each.functions is not None else []
            for row in rows:
                print(encoded("function", {**row, "module": path}))
            for name, visible in each.visible:
                print(encoded("variables", {**visible_row(name, visible), "module": path}))
            if each.type is not None:
                print(encoded("data_type", {**type_row(each.type), "module": path}))
            continue
        if number:
            print()
        if each.functions is not None:
            print("\n".join(functions_text(each.functions)))
        if each.type is not None:
            print("\n".join(type_text(each.type)))
        for name, visible in each.visible:
            if visible.frames:
                print(printable(f"{name} at {visible.address:#x}"))
            print("\n".join(visible_text(visible)))


def _list_kernel(pattern: str, *, json: bool, only: tuple[str, ...]) -> None:
    module, _, name = pattern.rpartition(":")
    # Modules are called `a-b` as files, and `a_b` in the kernel.
    module = module if "[" in module else module.replace("-", "_")
    try:
        rows = [
            {
                "place": each.place,
                "kind": each.kind,
                "module": each.module or "kernel",
                "address": f"{each.address:#x}" if each.address else "",
            }
            for each in symbols()
            if each.kind and _is_meant(each, module, name)
        ]
    except OSError as error:
        raise UserError(f"{PATH}: {os_error_text(error)}") from None
    if not rows:
        raise UserError(f"nothing in the kernel matches {pattern}")
    show(rows, _KERNEL, json=json, empty="", only=only)


def _is_meant(symbol: KernelSymbol, module: str, name: str) -> bool:
    if symbol.kind == "tracepoint":
        return fnmatchcase(symbol.place, f"{module or '*'}:{name}")
    return fnmatchcase(symbol.name, name) and fnmatchcase(symbol.module, module)


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
    for probe in elf.static_probes:
        names = (probe.name, f"{probe.provider}:{probe.name}")
        if not any(fnmatchcase(name, pattern) for name in names):
            continue
        offset = elf.vaddr_to_offset(probe.address)
        rows.append(
            {
                "place": f"{STATIC}{probe.provider}:{probe.name}",
                "provider": probe.provider,
                "name": probe.name,
                "address": f"{probe.address:#x}",
                "offset": "" if offset is None else f"{offset:#x}",
                "arguments": probe.arguments,
                "semaphore": f"{probe.semaphore:#x}" if probe.semaphore else "",
            }
        )
    return rows
