"""``dprobe help``: the help of a command."""

from __future__ import annotations

import click

from dprobe.commands import complete


@click.command(
    "help",
    epilog="""\b
examples:
  dprobe help attach
  dprobe help trace start
""",
)
@click.argument("words", nargs=-1, metavar="[COMMAND]...", shell_complete=complete.commands)
@click.pass_context
def help_command(ctx: click.Context, words: tuple[str, ...]) -> None:
    """Show the help of COMMAND, or of dprobe; as COMMAND --help does."""
    above = ctx.find_root()
    for word in words:
        command = above.command
        if not isinstance(command, click.Group):
            raise click.UsageError(f"{above.command_path} has no commands below it", above)
        _, found, _ = command.resolve_command(above, [word])
        assert found is not None
        above = click.Context(found, info_name=word, parent=above)
    print(above.get_help())
