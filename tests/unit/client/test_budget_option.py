"""`--budget` on the command line."""

from __future__ import annotations

import click
import pytest
from dprobe.commands.budget import BudgetType

from dprobed.wire.limits import Limits


@pytest.mark.parametrize(
    ("text", "share", "hits"),
    [
        ("5%", 0.05, None),
        ("100%", 1.0, None),
        ("0.5/s", None, 0.5),
        ("5%,1000/s", 0.05, 1000.0),
        ("1000/s, 5%", 0.05, 1000.0),
    ],
)
def test_budgets(text: str, share: float | None, hits: float | None) -> None:
    assert BudgetType().convert(text, None, None) == Limits(share=share, hits=hits)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "5",
        "%",
        "0%",
        "101%",
        "-1/s",
        "nan%",
        "inf/s",
        "5%,5%",
        "1e3/s",
        "5%,",
        "9" * 400 + "/s",
    ],
)
def test_what_is_no_budget(text: str) -> None:
    with pytest.raises(click.BadParameter, match="is no budget: say a share of the time"):
        BudgetType().convert(text, None, None)
