"""Commands with commands below them: what is said of one that is mistyped."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import click

#: How alike two names are that may be meant for each other: two of three letters.
_NEAR: Final = 0.66


class CommandGroup(click.Group):
    """A command with commands below it, which tells what a mistyped one may be."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that is meant (click)."""
        refuse_unknown(self, ctx, args)
        return super().resolve_command(ctx, args)


def refuse_unknown(group: click.Group, ctx: click.Context, args: Sequence[str]) -> None:
    """Raise UsageError where the first word is no command, with those that are nearly it."""
    name = args[0]
    known = group.list_commands(ctx)
    if name in known or name.startswith("-") or ctx.resilient_parsing:
        return
    from difflib import get_close_matches

    near = get_close_matches(name, known, 2, _NEAR) or [
        each for each in known if each.startswith(name)
    ]
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    raise click.UsageError(f"there is no command {name}{hint}", ctx)
