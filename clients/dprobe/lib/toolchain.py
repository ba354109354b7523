"""What needs no daemon: compile, check, disasm, places."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from dprobe.lib.errors import UserError, os_error_text
from dprobe.view.tables import show
from dprobed.printable import LAYOUT, printable, readable

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


def compile_file(source: str, output: str | None, defines: Mapping[str, str]) -> None:
    """Assemble ``source`` to a ``.dpb`` file, beside it unless ``output`` says where."""
    from dprobed.program.bytecode import encode
    from dprobed.program.model import ProgramError
    from dprobed.program.rpn.parser import load_file

    target = Path(output) if output else Path(source).with_suffix(".dpb")
    if not output and target == Path(source):
        raise UserError(f"{source} is compiled already; name the output by -o")
    try:
        target.write_bytes(encode(load_file(source, defines)))
    except ProgramError as error:
        raise UserError(str(error)) from None
    except OSError as error:
        raise UserError(f"{error.filename or source}: {os_error_text(error)}") from None


def check(paths: Sequence[str], defines: Mapping[str, str], *, json: bool) -> None:
    """Assemble and verify; every file's result is shown, and UserError raised if one is refused."""
    from dprobed.program.model import ProgramError
    from dprobed.program.rpn.parser import load_file

    rows = []
    errors = []
    for path in paths:
        row = {"file": readable(path), "ok": True, "probes": 0, "bytes": 0, "error": ""}
        try:
            program = load_file(path, defines)
            row["probes"], row["bytes"] = len(program.probes), len(program.code)
        except ProgramError as error:
            row.update(ok=False, error=str(error))
        except OSError as error:
            row.update(ok=False, error=f"{path}: {os_error_text(error)}")
        rows.append(row)
        if not row["ok"]:
            errors.append(str(row["error"]))
    columns = (("file", "file"), ("ok", "ok"), ("probes", "probes"), ("bytes of code", "bytes"))
    show(rows, columns, json=json, empty="")
    if errors:
        sys.stdout.flush()
        raise UserError("\n".join(errors))


def disasm(path: str, defines: Mapping[str, str]) -> None:
    """Print a program as source that assembles to the same bytes."""
    from dprobed.program.disassembler import disassemble
    from dprobed.program.model import ProgramError
    from dprobed.program.rpn.parser import load_file

    try:
        print(printable(disassemble(load_file(path, defines)), LAYOUT), end="")
    except ProgramError as error:
        raise UserError(str(error)) from None
    except OSError as error:
        raise UserError(f"{path}: {os_error_text(error)}") from None


def find_module(name: str) -> str:
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


def places(module: str, pattern: str, *, json: bool) -> None:
    """List what of a file can be probed by name: code, and variables for watchpoints."""
    from dprobed.binary.errors import LocationError
    from dprobed.binary.file import open_path
    from dprobed.binary.places import list_places

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
