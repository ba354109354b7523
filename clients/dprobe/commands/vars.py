"""``dprobe vars``: local and global variables of programs."""

from __future__ import annotations

from collections.abc import Sequence

import click

from dprobe.commands import complete, options
from dprobe.commands import pids as processes
from dprobe.lib.connection import Connection
from dprobe.lib.errors import UserError
from dprobe.view.tables import Listing, show
from dprobed.wire import messages

_LISTING = Listing(
    "variable", (("index", "index"), ("name", "name"), ("value", "value"), ("hex", "hex"))
)


@click.command(
    "vars",
    cls=processes.PidsCommand,
    epilog="""\b
examples:
  dprobe vars 3              # all local variables of program 3
  dprobe vars alloc 0-7      # eight of them, by the program's name
  dprobe vars alloc calls    # the one of that name
  dprobe vars 3 -p 1234      # of program 3 in one of several processes
  dprobe vars --global 1234  # the global variables in process 1234
""",
)
@click.option(
    "--global",
    "globals_",
    type=options.pid_or_kernel_type,
    metavar="PID",
    help="Globals of PID; 0: of the kernel.",
)
@processes.only
@click.option("--reset", is_flag=True, help="Set those shown to 0.")
@options.listing(_LISTING)
@click.argument(
    "what",
    nargs=-1,
    metavar="[PROGRAM] [FIRST[-LAST]|NAME]",
    shell_complete=complete.programs_and_variables,
)
@click.pass_context
def vars_command(
    ctx: click.Context,
    what: tuple[str, ...],
    globals_: int | None,
    pids: tuple[int, ...],
    reset: bool,
    json: bool,
    only: tuple[str, ...],
) -> None:
    """Show the local variables of a program in a process, or the global ones of a process.

    `dprobe query` shows the sums over all processes of a program.
    """
    wanted = 1 if globals_ is None else 0
    if not wanted <= len(what) <= wanted + 1 or (globals_ is not None and pids):
        raise click.UsageError("name one program, or a process with --global", ctx)
    program = what[0] if globals_ is None else None
    which = what[wanted] if len(what) > wanted else None
    with options.running(ctx.obj) as daemon:
        number, pid, names = None, globals_, []
        if program is not None:
            found = _find(daemon, program, pids)
            number, pid, names = found.number, found.pid, found.names
        first, count = (names.index(which), 1) if which in names else parse_range(which, names)
        words = daemon.request(
            lambda request: messages.Vars(
                id=request, number=number, pid=pid, first=first, count=count, reset=reset
            ),
            messages.Words,
        )
    rows = [
        {
            "index": index,
            "name": names[index] if index < len(names) else "",
            "value": word,
            "hex": f"{word:#x}",
        }
        for index, word in enumerate(words.words, words.first)
    ]
    if not rows:
        raise UserError("there are no such variables")
    show(rows, _LISTING, json=json, empty="", only=only)


def _find(daemon: Connection, program: str, pids: tuple[int, ...]) -> messages.ProgramInfo:
    """A program in one process; raises UserError."""
    answers = [
        daemon.request(
            lambda number, select=select: messages.Programs(id=number, select=select),  # type: ignore[misc]
            messages.Listing,
        )
        for select in options.selections((program,), pids)
    ]
    found = [one for each in answers for one in each.programs]
    if not found:
        deployed = [one for each in answers for one in each.deployments]
        if not deployed:
            raise UserError(f"there is no program {program}")
        if any(each.processes for each in deployed):
            raise UserError(f"{program} goes into several processes; say which by --pid")
        raise UserError(f"{program} is in no process now; `dprobe query` has its sums")
    numbers = sorted({each.number for each in found})
    if len(numbers) > 1:
        them = ", ".join(map(str, numbers))
        raise UserError(f"several programs are called {program}; give a number: {them}")
    if len(found) > 1:
        them = ", ".join(str(each.pid) for each in found)
        raise UserError(f"program {program} is in several processes; give --pid: {them}")
    return found[0]


def parse_range(text: str | None, names: Sequence[str] = ()) -> tuple[int, int | None]:
    """``3``, ``3-7`` or nothing as first index and count; raises UserError.

    ``names``: what could have been written instead.
    """
    if text is None:
        return 0, None
    first, dash, last = text.partition("-")
    if not first.isdecimal() or (dash and not last.isdecimal()):
        others = f", or a name: {', '.join(names)}" if names else ""
        raise UserError(f"{text} is no range of indices; write 3 or 3-7{others}")
    end = int(last) if dash else int(first)
    if end < int(first) or end > 1 << 15:
        raise UserError(f"{text} is no range of indices; the second must not be the smaller")
    return int(first), end - int(first) + 1
