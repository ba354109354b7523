"""What a benchmark reports, and how it is shown."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Figure:
    """One measured number: ``value`` in ``unit``, beside what it is compared to.

    ``peer`` names the other side, ``against`` is its value in the same unit; ``ratio`` is what the
    comparison comes to, and must be at most ``at_most`` and at least ``at_least`` where given.
    """

    what: str
    value: float
    unit: str
    peer: str = ""
    against: float | None = None
    ratio: float | None = None
    at_most: float | None = None
    at_least: float | None = None

    @property
    def bounded(self) -> float:
        """What the bounds are about: the ratio where there is one, else the value."""
        return self.value if self.ratio is None else self.ratio

    @property
    def kept(self) -> bool:
        """Whether the figure is within its bounds."""
        low = self.at_least is None or self.bounded >= self.at_least
        return low and (self.at_most is None or self.bounded <= self.at_most)

    @property
    def bound(self) -> str:
        """The bounds in words; empty where the figure is for information."""
        if self.at_most is not None:
            return f"at most {self.at_most:g}"
        return "" if self.at_least is None else f"at least {self.at_least:g}"


def ratio_of_medians(ours: list[float], theirs: list[float]) -> float:
    """How many times ``theirs`` is ``ours``, by medians: one slow round changes nothing."""
    return median(ours) / median(theirs)


def processor() -> str:
    """The model of this machine's processors, and how many of them there are for us."""
    lines = (line.partition(":") for line in Path("/proc/cpuinfo").read_text().splitlines())
    models = (value.strip() for key, _, value in lines if key.strip() == "model name")
    return f"{next(models, 'unknown processor')}, {len(os.sched_getaffinity(0))} CPUs"


def show(title: str, figures: list[Figure], notes: list[str]) -> None:
    """Print the figures as a table, with the processor that they are of, and what explains them
    below it."""
    table = Table(title=f"{title}\n{processor()}", title_justify="left")
    for name in ("what", "unit", "ours", "theirs", "beside", "ratio", "bound", ""):
        table.add_column(name, justify="right" if name in ("ours", "theirs", "ratio") else "left")
    for figure in figures:
        table.add_row(
            figure.what,
            figure.unit,
            _number(figure.value),
            _number(figure.against),
            figure.peer,
            _number(figure.ratio),
            figure.bound,
            "" if not figure.bound else "kept" if figure.kept else "NOT KEPT",
        )
    console = Console(width=None if Console().is_terminal else 132, soft_wrap=False)
    console.print(table)
    for note in notes:
        console.print("  " + note, highlight=False)


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
