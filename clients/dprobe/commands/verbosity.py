"""``-q`` and ``-v``: how much is said. They may stand before a command and behind it."""

from __future__ import annotations

import sys
from typing import Final

import click

from dprobe.lib import quiet as chosen
from dprobed.printable import LAYOUT, printable

#: Where a command line's choice is noted, for the commands below.
_NOTE: Final = "dprobe.verbosity"
_QUIET: Final = ("-q", "--quiet")
_VERBOSE: Final = ("-v", "--verbose")


def say(text: str) -> None:
    """Tell the user."""
    print(f"dprobe: {printable(text, LAYOUT)}", file=sys.stderr)


def _choose(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if ctx.parent is None:
        chosen.quiet = value if param.name == "quiet" else chosen.quiet
    if not value:
        return
    if ctx.meta.setdefault(_NOTE, param.name) != param.name:
        raise click.UsageError("--quiet and --verbose exclude each other", ctx)
    if param.name == "quiet":
        chosen.quiet = True
    else:
        chosen.detail = say


quiet: Final = click.option(
    *_QUIET,
    is_flag=True,
    expose_value=False,
    callback=_choose,
    help="Say what is wrong, and no more; also behind a command.",
)
verbose: Final = click.option(
    *_VERBOSE,
    is_flag=True,
    expose_value=False,
    callback=_choose,
    help="Say through which daemon, and what it is asked; also behind a command.",
)


def taking(command: click.Command) -> click.Command:
    """The command, and those below it, with these options; where one has such a letter for
    something of its own, it keeps that."""
    taken = {name for param in command.params for name in param.opts}
    for names in (_QUIET, _VERBOSE):
        free = [name for name in names if name not in taken]
        if free:
            command.params.append(
                click.Option(free, is_flag=True, expose_value=False, callback=_choose, hidden=True)
            )
    if isinstance(command, click.Group):
        for each in command.commands.values():
            taking(each)
    return command
