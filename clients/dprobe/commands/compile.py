"""``dprobe compile``: a program's source to a .dpb file."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from dprobe.commands import options
from dprobe.lib.errors import UserError, os_error_text
from dprobe.lib.programs import load, parse_defines
from dprobed.proc import far
from dprobed.program.bytecode import encode
from dprobed.program.model import ProgramError


@click.command(
    "compile",
    epilog="""\b
example:
  dprobe compile -D MIN=4096 alloc.rpn -o alloc4k.dpb
""",
)
@options.define
@click.option(
    "-o",
    "output",
    type=options.FilePath(),
    help="Default: FILE.dpb beside it; - is standard output.",
)
@click.argument("source", type=options.program_file)
def compile_command(source: str, output: str | None, defines: tuple[str, ...]) -> None:
    """Assemble SOURCE (- is standard input) to a .dpb file, which needs its source no more."""
    target = Path(output) if output else Path(source).with_suffix(".dpb")
    if not output and source == "-":
        raise UserError("name the output of what comes from standard input by -o")
    if not output and target == Path(source):
        raise UserError(f"{source} is compiled already; name the output by -o")
    try:
        code = encode(load(source, parse_defines(defines)))
    except ProgramError as error:
        raise UserError(str(error)) from None
    except OSError as error:
        raise UserError(f"{source}: {os_error_text(error)}") from None
    if output == "-":
        sys.stdout.buffer.write(code)
        return
    try:
        with far.open_writing(str(target)) as file:
            file.write(code)
    except OSError as error:
        raise UserError(f"{target}: {os_error_text(error)}") from None
