"""The command line of ``dprobe``. Only ``main`` turns exceptions into exit statuses."""

from __future__ import annotations

import importlib
import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dprobe.commands import verbosity
from dprobe.commands.group import refuse_unknown
from dprobe.commands.options import FilePath
from dprobe.commands.verbosity import say
from dprobe.lib.errors import DprobeError, os_error_text
from dprobe.lib.launch import occupy_standard_descriptors, take_signals
from dprobed import __version__
from dprobed.proc.helper import HELPER

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

#: Command (its module in ``commands`` has its name) → one line for the list of commands.
_COMMANDS = {
    "run": "Start a command with probes in it.",
    "attach": "Put probes into a running process for a while.",
    "bpftrace": "Run a script as bpftrace does, with its options.",
    "logpoint": "Show values at a line of a running program.",
    "snapshot": "Show the stack with its variables at a line.",
    "insert": "Put programs into processes, to stay.",
    "remove": "Take programs out of processes.",
    "query": "Show probes: states, engines, hits, missed, dropped.",
    "status": "Show the daemon's state, and what it lost or throttles.",
    "top": "Watch hits and overhead live, and what dprobed uses.",
    "programs": "List the programs that are in.",
    "vars": "Show (and reset) variables of programs.",
    "maps": "Show (and reset) maps: counts, sums, histograms by key.",
    "log": "Show records.",
    "resume": "Let held threads and processes go on.",
    "debug": "List processes held for a debugger; start gdb on one.",
    "handlers": "Show who handles records of `exit NAME`; arm, disarm.",
    "policy": "Show and check who may do what to which process.",
    "trace": "Write records to files or the journal; read and draw them.",
    "dump": "Write a core of a running process, which goes on.",
    "dumps": "List cores, remove them, or open gdb on one.",
    "compile": "Assemble a program to a .dpb file.",
    "check": "Check programs, and whether their places are there.",
    "disasm": "Show a program as source.",
    "places": "List what can be probed in a file, by name.",
    "doctor": "Show what works on this machine, and why not.",
    "lsp": "Tell an editor about scripts (needs pygls).",
    "help": "Show the help of a command.",
    "completion": "Print the completion script for a shell.",
}

#: Seconds for which a command waits for a file system: a disk may have to start first.
_PATIENCE = 3.0

_EPILOG = """\b
examples:
  dprobe run alloc.rpn -- sort /etc/services
  dprobe attach -p $(pidof nginx) --for 10s --json alloc.rpn
  dprobe places libc.so.6 'mal*'
  dprobed &            # then: insert, query, log -f, remove
"""


class _Commands(click.Group):
    """Imports a command's module when the command is used, so that `--version` is quick."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module = importlib.import_module(f"dprobe.commands.{cmd_name}")
        return verbosity.taking(getattr(module, f"{cmd_name}_command"))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that is meant (click); one that is not there may be nearly another."""
        refuse_unknown(self, ctx, args)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Names of commands, from the table: a TAB must not import them all."""
        from click.shell_completion import CompletionItem

        names = [
            CompletionItem(name, help=text)
            for name, text in _COMMANDS.items()
            if name.startswith(incomplete)
        ]
        return [*names, *click.Command.shell_complete(self, ctx, incomplete)]


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=_EPILOG,
    no_args_is_help=True,
)
@click.version_option(__version__, prog_name="dprobe", message="%(prog)s %(version)s")
@click.option(
    "--socket",
    type=FilePath(path_type=Path),
    envvar="DPROBE_SOCKET",
    help="The daemon's control socket, where it is not at its usual place.",
)
@verbosity.quiet
@verbosity.verbose
@click.pass_context
def cli(ctx: click.Context, socket: Path | None) -> None:
    """Put small verified programs into running programs, and see what they report.

    `run`, `attach` and `dump` need nothing set up; those from `insert` to `trace` talk to a running
    `dprobed`; the others read files only.
    """
    ctx.obj = socket


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says; the exit status. All output is written then."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    occupy_standard_descriptors()
    sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)
    take_signals()
    HELPER.be_patient(_PATIENCE)
    try:
        return _done(arguments)
    except click.ClickException as error:
        say(_one_line(error))
        return error.exit_code
    except DprobeError as error:
        say(str(error))
        return error.status
    except (KeyboardInterrupt, click.Abort):
        return 130
    except BrokenPipeError:
        return 141  # Nobody reads our output any more.
    except OSError as error:
        name = f"{error.filename}: " if error.filename else ""
        say(f"{name}{os_error_text(error)}")
        return 1


def _done(arguments: Sequence[str] | None) -> int:
    status: object
    stdout = sys.stdout
    try:
        status = cli.main(arguments, prog_name="dprobe", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        print(error.format_message())
        status = 2
    except SystemExit as end:  # click's completion, or what click makes of a broken pipe
        # At a broken pipe click puts something else in the place of the stream.
        status = end.code if sys.stdout is stdout else 141
    sys.stdout.flush()
    return status if isinstance(status, int) else 0


def _one_line(error: click.ClickException) -> str:
    text = " ".join(error.format_message().split())
    context = getattr(error, "ctx", None)
    return f"{text} (see: {context.command_path} --help)" if context is not None else text
