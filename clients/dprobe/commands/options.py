"""Options and arguments that several commands share."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click

from dprobe.commands.budget import BudgetType, chosen
from dprobed.wire.engines import AUTO, ENGINES

if TYPE_CHECKING:
    from dprobed.wire import messages
    from dprobed.wire.limits import Limits

F = TypeVar("F", bound=Callable[..., Any])


def complain(text: str) -> None:
    """As ``view.output.complain``, which is imported only then."""
    from dprobe.view.output import complain as say

    say(text)


class _Pids(click.ParamType):  # type: ignore[type-arg]
    """Numbers that a process can have, and so how many there can be. Help shows no range."""

    name = "whole number"
    _range = click.IntRange(1, 1 << 22)
    _range.name = name

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        """The number (click)."""
        return int(self._range(value, param, ctx))


pid_type = _Pids()


class Seconds(click.FloatRange):
    """A number of seconds. `nan` is in every range for click, as it compares false."""

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """The number (click)."""
        number = float(super().convert(cast(float, value), param, ctx))
        if math.isnan(number):
            self.fail(f"{value} is not a number of seconds.", param, ctx)
        return number


define = click.option(
    "-D", "defines", multiple=True, metavar="NAME=VALUE", help="Define a name for the preprocessor."
)
group = click.option(
    "--group", "groups", multiple=True, type=int, metavar="N", help="Only probes of this group."
)
type_ = click.option(
    "--type", "types", multiple=True, type=int, metavar="N", help="Only probes of this type."
)
no_opcode_check = click.option(
    "--no-opcode-check", is_flag=True, help="Do not compare a probe's place with its `opcode`."
)
follow_forks = click.option(
    "-f",
    "--follow-forks",
    is_flag=True,
    help="Follow forks: children of the process, and theirs, have the probes from their start.",
)
budget = click.option(
    "--budget",
    type=BudgetType(),
    metavar="5%,1000/s",
    help="What each program may cost a process: a share of its time, hits a second, or both.",
)
over_budget = click.option(
    "--over-budget",
    "over",
    type=click.Choice(["throttle", "remove"]),
    help="What to do with one that costs more: let it sleep for a while (default), or remove it.",
)
engine = click.option(
    "--engine",
    type=click.Choice(ENGINES),
    default=AUTO,
    show_default=True,
    help="How probes fire: as suits each place (auto), or always by a breakpoint (trap).",
)
format_ = click.option(
    "--format",
    "form",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="Lines for people, or one JSON object a line.",
)
missing = click.option(
    "--missing",
    type=click.Choice(["refuse", "warn"]),
    default="refuse",
    show_default=True,
    help="What to do about a probe whose place is not in the program or its libraries.",
)
json = click.option("--json", is_flag=True, help="One JSON object a line.")
pid_option = click.option("--pid", type=pid_type, metavar="PID", help="Only in this process.")
program_file = click.Path(dir_okay=False)


def output(default: str) -> Callable[[F], F]:
    """``-o FILE``, where ``default`` says where records go without it."""
    return click.option(
        "-o",
        "path",
        metavar="FILE",
        type=click.Path(dir_okay=False, allow_dash=True),
        help=f"Write records to FILE (- is standard output); else to {default}.",
    )


def selecting(function: F) -> F:
    """The options of ``run``, ``attach`` and ``insert`` about their programs; as ``choice``."""

    @functools.wraps(function)
    def collected(
        *arguments: Any,
        defines: tuple[str, ...],
        groups: tuple[int, ...],
        types: tuple[int, ...],
        budget: Limits | None,
        over: str | None,
        engine: str,
        **rest: Any,
    ) -> Any:
        from dprobe.lib.programs import Choice, parse_defines

        choice = Choice(parse_defines(defines), groups, types, chosen(budget, over), engine)
        return function(*arguments, choice=choice, **rest)

    for option in (engine, over_budget, budget, type_, group, define):
        collected = option(collected)
    return cast("F", collected)


def inserting(function: F) -> F:
    """The options of ``run``, ``attach`` and ``insert`` about putting programs in."""
    for option in (no_opcode_check, follow_forks):
        function = option(function)
    return function


def selection(
    program: str | None,
    *,
    module: str | None = None,
    program_id: int | None = None,
    pid: int | None = None,
) -> messages.Select:
    """The programs that are meant; ``program`` is a number or a name of ``dprobe programs``."""
    from dprobed.wire import messages

    number = int(program) if program is not None and program.isdecimal() else None
    return messages.Select(
        number=number,
        label=program if number is None else None,
        module=module,
        program_id=program_id,
        pid=pid,
    )
