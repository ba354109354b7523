"""``dprobe compile``: a program's source to a .dpb file."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dprobe.commands import options
from dprobe.lib.errors import DprobeError, UserError, os_error_text
from dprobe.lib.programs import load, parse_defines
from dprobed.proc import far
from dprobed.program.bytecode import encode
from dprobed.program.model import ProgramError

if TYPE_CHECKING:
    from dprobe.lib.script.source import Script


@click.command(
    "compile",
    epilog="""\b
example:
  dprobe compile -D MIN=4096 alloc.rpn -o alloc4k.dpb
  dprobe compile slow.bt -o slow.btb         # a script, with its arguments
""",
)
@options.define
@click.option(
    "-o",
    "output",
    type=options.FilePath(),
    help="Default: FILE.dpb beside it; - is standard output.",
)
@options.expression
@click.argument("words", metavar="SOURCE [ARG]...", nargs=-1, type=options.program_file)
@click.pass_context
def compile_command(
    ctx: click.Context,
    words: tuple[str, ...],
    expression: str | None,
    output: str | None,
    defines: tuple[str, ...],
) -> None:
    """Assemble SOURCE (- is standard input) to a .dpb file, which no longer needs its
    source; a script (.bt, or -e) to a .btb file, with the arguments that follow it."""
    script = options.script_of(expression, words)
    if script is not None:
        _compile_script(script, output)
        return
    if len(words) != 1:
        raise click.UsageError("name one SOURCE", ctx)
    (source,) = words
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
    _write(code, output, target)


def _compile_script(script: Script, output: str | None) -> None:
    # Imported where there is one: what it needs, programs do without.
    from dprobe.lib.script import source
    from dprobe.lib.script.world import FileWorld
    from dprobed.program.bt.bundle import encode as encode_bundle

    if not output and script.file == source.COMMAND_LINE:
        raise UserError("name the output by -o")
    if output is not None and output != "-" and not output.endswith(source.COMPILED):
        raise UserError(f"{output}: a compiled script's name ends with {source.COMPILED}")
    bundle = source.compiled(script, FileWorld(tuple), unsafe=True)
    _write(
        encode_bundle(bundle),
        output,
        Path(output) if output else Path(script.file).with_suffix(source.COMPILED),
    )


def _write(code: bytes, output: str | None, target: Path) -> None:
    if output == "-":
        sys.stdout.buffer.write(code)
        return
    there = True
    try:
        there = far.kind(str(target)) != 0
        with far.open_writing(str(target)) as file:
            file.write(code)
    except OSError as error:
        if not there:
            # Half a program is none.
            far.remove(str(target))
        raise DprobeError(f"{target}: {os_error_text(error)}") from None
