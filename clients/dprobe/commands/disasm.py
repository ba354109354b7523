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
  dprobe disasm -e 'malloc { @ = hist(arg0); }'
""",
)
@options.define
@options.expression
@click.argument("words", metavar="FILE [ARG]...", nargs=-1, type=options.program_file)
@click.pass_context
def disasm_command(
    ctx: click.Context, words: tuple[str, ...], expression: str | None, defines: tuple[str, ...]
) -> None:
    """Show a program (.rpn or .dpb) as source that assembles to the same bytes; a script (.bt, .btb
    or -e) as the programs that it becomes."""
    script = options.script_of(expression, words)
    if script is not None:
        # Imported where there is one: what it needs, programs do without.
        from dprobe.commands.scripts import show_compiled

        show_compiled(script)
        return
    if len(words) != 1:
        raise click.UsageError("name one FILE", ctx)
    (file,) = words
    try:
        source = disassemble(load(file, parse_defines(defines)))
    except ProgramError as error:
        raise UserError(str(error)) from None
    except OSError as error:
        raise UserError(f"{file}: {os_error_text(error)}") from None
    print(printable(source, LAYOUT), end="")
