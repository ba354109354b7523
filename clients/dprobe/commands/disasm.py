"""``dprobe disasm``: a program as source."""

from __future__ import annotations

import click

from dprobe.commands import options
from dprobe.lib.errors import UserError, os_error_text
from dprobe.lib.programs import load, parse_defines
from dprobed.printable import LAYOUT, printable
from dprobed.program.disassembler import disassemble
from dprobed.program.model import ProgramError


@click.command(
    "disasm",
    epilog="""\b
example:
  dprobe disasm alloc.dpb
""",
)
@options.define
@click.argument("file", type=options.program_file)
def disasm_command(file: str, defines: tuple[str, ...]) -> None:
    """Show a program (.rpn or .dpb) as source that assembles to the same bytes."""
    try:
        source = disassemble(load(file, parse_defines(defines)))
    except ProgramError as error:
        raise UserError(str(error)) from None
    except OSError as error:
        raise UserError(f"{file}: {os_error_text(error)}") from None
    print(printable(source, LAYOUT), end="")
