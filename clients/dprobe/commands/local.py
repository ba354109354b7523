"""The commands that need no daemon, on the command line."""

from __future__ import annotations

from pathlib import Path

import click

from dprobe.commands import options


@click.command(
    "compile",
    epilog="""\b
example:
  dprobe compile -D MIN=4096 alloc.rpn -o alloc4k.dpb
""",
)
@options.define
@click.option("-o", "output", type=click.Path(dir_okay=False), help="Default: FILE.dpb beside it.")
@click.argument("source", type=options.program_file)
def compile_command(source: str, output: str | None, defines: tuple[str, ...]) -> None:
    """Assemble SOURCE to a .dpb file, which can be inserted without its source."""
    from dprobe.lib import toolchain
    from dprobe.lib.session import parse_defines

    toolchain.compile_file(source, output, parse_defines(defines))


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
    from dprobe.lib import toolchain
    from dprobe.lib.session import parse_defines

    toolchain.check(files, parse_defines(defines), json=json)


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
    from dprobe.lib import toolchain
    from dprobe.lib.session import parse_defines

    toolchain.disasm(file, parse_defines(defines))


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
    from dprobe.lib import toolchain

    toolchain.places(module, pattern, json=json)


@click.command(
    "doctor",
    epilog="""\b
example:
  dprobe doctor
""",
)
@options.json
@click.pass_obj
def doctor_command(socket: Path | None, json: bool) -> int:
    """Show what works on this machine for this user, and why what does not does not.

    The exit status is 0 when everything that `run` and `attach` need works.
    """
    from dprobe.lib import doctor

    return doctor.report(socket, json=json)


@click.command(
    "completion",
    epilog="""\b
examples:
  eval "$(dprobe completion bash)"
  dprobe completion fish > ~/.config/fish/completions/dprobe.fish
""",
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion_command(shell: str) -> None:
    """Print the script that makes SHELL complete dprobe's commands and options."""
    from click.shell_completion import get_completion_class

    from dprobe.main import cli

    completion = get_completion_class(shell)
    assert completion is not None
    print(completion(cli, {}, "dprobe", "_DPROBE_COMPLETE").source())
