"""``dprobe lsp``: what editors ask about scripts, by the Language Server Protocol."""

from __future__ import annotations

import click

from dprobe.commands import pids as processes
from dprobe.lib.errors import UserError


@click.command(
    "lsp",
    epilog="""\b
examples:
  dprobe lsp                   # an editor starts it so
  dprobe lsp -p redis-server   # with the places of that process
""",
)
@click.option(
    "-p",
    "--pid",
    "pid",
    type=processes.OneProcess(),
    metavar="PID|NAME",
    help="The process that scripts are about: its functions, lines and variables are known.",
)
def lsp_command(pid: int | None) -> None:
    """Serve an editor on standard input and output: what is wrong with a script as it is written,
    completion, and what names mean.

    It needs the Python package pygls. Nothing is put into any process.
    """
    try:
        from dprobe.lsp.server import serve
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("pygls", "lsprotocol"):
            raise
        raise UserError("`dprobe lsp` needs the package pygls; run: pip install pygls") from None
    serve(pid)
