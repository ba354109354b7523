"""``dprobe completion``: the completion script for a shell."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class


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
    """Print the script that makes SHELL complete commands, options, processes and other names."""
    completion = get_completion_class(shell)
    assert completion is not None
    root = click.get_current_context().find_root().command
    script = completion(root, {}, "dprobe", "_DPROBE_COMPLETE").source()
    # A name may have a comma in it: several columns.
    print(script.replace('string split ","', 'string split --max 1 ","'))
