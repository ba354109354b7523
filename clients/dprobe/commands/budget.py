"""``--budget``: what a program may cost each process that it is in."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from dprobed.wire.limits import Limits

#: Hits a second: no process comes near it.
_MOST = 1_000_000_000
_FORM = "say a share of the time, hits a second, or both: 5%, 1000/s, 5%,1000/s"


class BudgetType(click.ParamType):  # type: ignore[type-arg]
    """``5%``, ``1000/s`` or both."""

    name = "budget"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> Limits:
        """The budget that the text means (click)."""
        from dprobed.wire.limits import Limits

        share: float | None = None
        hits: float | None = None
        for part in str(value).split(","):
            number, unit = part.strip().rstrip("%s/"), part.strip().lstrip("0123456789.")
            try:
                amount = float(number)
            except ValueError:
                self.fail(f"{value!r} is no budget: {_FORM}", param, ctx)
            if unit == "%" and share is None and 0 < amount <= 100:
                share = amount / 100
            elif unit == "/s" and hits is None and 0 < amount <= _MOST:
                hits = amount
            else:
                self.fail(f"{value!r} is no budget: {_FORM}", param, ctx)
        return Limits(share=share, hits=hits)


def chosen(budget: Limits | None, over: str | None) -> Limits | None:
    """What the two options say together; raises click.UsageError."""
    if budget is None:
        if over is not None:
            raise click.UsageError("--over-budget needs --budget")
        return None
    from dprobed.wire.limits import Limits

    return Limits(share=budget.share, hits=budget.hits, remove=over == "remove")
