"""``dprobe check``: assemble and verify programs without inserting them."""

from __future__ import annotations

import sys

import click

from dprobe.commands import options
from dprobe.lib.errors import UserError, os_error_text
from dprobe.lib.programs import parse_defines
from dprobe.view.tables import show
from dprobed.printable import readable
from dprobed.program.model import ProgramError
from dprobed.program.rpn.parser import load_file


@click.command(
    "check",
    epilog="""\b
example:
  dprobe check *.rpn
""",
)
@options.define
@options.json
@click.argument("files", nargs=-1, required=True, type=options.program_file)
def check_command(files: tuple[str, ...], defines: tuple[str, ...], json: bool) -> None:
    """Assemble and verify FILES; exit status 2 and all that is wrong where one is refused."""
    known = parse_defines(defines)
    rows = []
    errors = []
    for path in files:
        row = {"file": readable(path), "ok": True, "probes": 0, "bytes": 0, "error": ""}
        try:
            program = load_file(path, known)
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
