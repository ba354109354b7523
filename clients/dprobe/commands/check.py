"""``dprobe check``: assemble and verify programs without inserting them."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

import click

from dprobe.commands import complete, options
from dprobe.lib import facilities
from dprobe.lib.errors import UserError, os_error_text
from dprobe.lib.programs import load, parse_defines
from dprobe.view.output import complain
from dprobe.view.tables import Listing, diagnostic, show
from dprobed.printable import readable
from dprobed.program.model import Diagnostic, ProgramError

if TYPE_CHECKING:
    from dprobe.lib.mapped import File
    from dprobe.lib.script.source import Script

_COLUMNS = (("file", "file"), ("ok", "ok"), ("probes", "probes"), ("bytes of code", "bytes"))
_LISTING = Listing("checked", _COLUMNS)
_PLACED = Listing("checked", (*_COLUMNS, ("placed", "placed"), ("pending", "pending")))


@click.command(
    "check",
    epilog="""\b
examples:
  dprobe check *.rpn
  dprobe check --in 1234 alloc.rpn         # are its places in process 1234?
  dprobe check --in nginx *.rpn            # in what nginx maps at its start?
  dprobe check -e 'malloc { @ = hist(arg0); }' --in ls
""",
)
@options.define
@click.option(
    "--in",
    "where",
    metavar="PID|EXECUTABLE",
    shell_complete=complete.modules,
    help="Look for the places, too: in a process, or in an executable and its libraries.",
)
@options.expression
@options.json
@click.argument("files", nargs=-1, type=options.program_file)
@click.pass_context
def check_command(
    ctx: click.Context,
    expression: str | None,
    files: tuple[str, ...],
    defines: tuple[str, ...],
    where: str | None,
    json: bool,
) -> None:
    """Assemble and verify FILES; show all faults, with exit status 2 if there are any.

    Scripts (.bt, or -e) are compiled; FILES are the arguments of one of -e.

    `exit NAME` must name a facility that is registered with the running daemon; where none runs,
    one that every daemon has.

    In JSON each file has its `diagnostics`: file, line, column, message, hint.

    With --in each place is looked for, too. `pending` counts probes for modules that are not mapped
    there (yet). No process is touched.
    """
    if not files and expression is None:
        raise click.UsageError("name at least one of FILES", ctx)
    known = parse_defines(defines)
    mapped = None if where is None else _files(where)
    rows = []
    faults: list[Diagnostic] = []
    for path in files if expression is None else (None,):
        script = options.script_of(expression, files if path is None else (path,))
        if script is not None:
            row, own = _checked(script, mapped)
            rows.append({**row, "ok": not own, "diagnostics": list(map(diagnostic, own))})
            faults += own
            continue
        assert path is not None
        row, own = _row(path, mapped), ()
        try:
            program = load(path, known)
            row["probes"], row["bytes"] = len(program.probes), len(program.code)
            if mapped is not None:
                # Imported where it is needed: it reads ELF files.
                from dprobe.lib import places

                found = places.find(program, mapped, path)
                row["placed"], row["pending"], own = found.placed, found.pending, found.faults
            own += facilities.unknown(ctx.obj, program, path)
        except ProgramError as error:
            own = error.diagnostics
        except OSError as error:
            own = (Diagnostic(path, 0, 0, os_error_text(error)),)
        rows.append({**row, "ok": not own, "diagnostics": list(map(diagnostic, own))})
        faults += own
    show(rows, _LISTING if mapped is None else _PLACED, json=json, empty="")
    if faults:
        sys.stdout.flush()
        raise UserError("\n".join(map(str, faults)))


def _row(path: str, mapped: list[File] | None) -> dict[str, Any]:
    row: dict[str, Any] = {"file": readable(path), "ok": True, "probes": 0, "bytes": 0}
    return row if mapped is None else {**row, "placed": 0, "pending": 0}


def _checked(
    script: Script, mapped: list[File] | None
) -> tuple[dict[str, Any], tuple[Diagnostic, ...]]:
    """A script's row, and what is wrong with it."""
    # Imported where there is one: what it needs, programs do without.
    from dprobe.lib import places
    from dprobe.lib.programs import Choice
    from dprobe.lib.script import source
    from dprobe.lib.script.world import FileWorld

    row = _row(script.file, mapped)
    try:
        bundle = source.bundle_of(script, FileWorld(lambda: mapped or ()))
    except ProgramError as error:
        return row, error.diagnostics
    faults: tuple[Diagnostic, ...] = ()
    executable = mapped[0].module.path if mapped else ""
    for each in source.loaded(bundle, script, Choice(), executable or "the executable"):
        row["probes"] += len(each.program.probes)
        row["bytes"] += len(each.program.code)
        if mapped is not None:
            found = places.find(each.program, mapped, script.file)
            row["placed"] += found.placed
            row["pending"] += found.pending
            faults += found.faults
    return row, faults


def _files(where: str) -> list[File]:
    """The files of a process, or of an executable; raises UserError."""
    from dprobe.lib import loader, mapped

    if where.isdecimal():
        return mapped.files_of_process(int(where))
    path = loader.find_module(where)
    known = loader.files_of_command(path, dict(os.environb))
    if not known.files:
        raise UserError(f"{path}: not an executable whose files are known")
    if not known.complete:
        complain(f"{path}: not all of its libraries are known; probes in others are `pending`")
    return known.files
