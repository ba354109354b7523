"""Options and arguments that several commands share."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

import click

from dprobe.commands import complete
from dprobe.commands.budget import BudgetType, chosen
from dprobed.durations import seconds
from dprobed.wire.engines import ENGINES, KERNEL, TRAP

if TYPE_CHECKING:
    from pathlib import Path

    from click.shell_completion import CompletionItem

    from dprobe.lib.connection import Connection
    from dprobe.lib.script.source import Script
    from dprobe.view.tables import Listing
    from dprobed.wire import messages
    from dprobed.wire.limits import Limits

F = TypeVar("F", bound=Callable[..., Any])
#: The largest ``max_hits`` that a program can have (program/keywords.py).
_MOST_HITS: Final = (1 << 31) - 1


def complain(text: str) -> None:
    """As ``view.output.complain``, which is imported only then."""
    from dprobe.view.output import complain as say

    say(text)


class _Pids(click.ParamType):  # type: ignore[type-arg]
    """Numbers that a process can have, and so how many there can be. Help shows no range."""

    name = "whole number"

    def __init__(self, least: int = 1) -> None:
        self._range = click.IntRange(least, 1 << 22)
        self._range.name = self.name

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        """The number (click)."""
        return int(self._range(value, param, ctx))


pid_type = _Pids()
#: A process, or 0: the kernel.
pid_or_kernel_type = _Pids(0)


class Duration(click.ParamType):  # type: ignore[type-arg]
    """A duration, in seconds: ``30``, ``500ms``, ``10m``; more than nothing."""

    name = "duration"

    def __init__(self, least: float = 0.0, most: float = 1e12) -> None:
        self._least = least
        self._most = most

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """The number of seconds (click)."""
        number = float(value) if isinstance(value, int | float) else seconds(str(value))
        if number is None:
            self.fail(f"{value} is no duration; write it like 30s, 500ms or 10m", param, ctx)
        if not (self._least or math.ulp(0)) <= number <= self._most:
            at_least = f"at least {self._least:g} s" if self._least else "more than 0"
            self.fail(f"{value}: it is {at_least}, and at most {self._most:g} s", param, ctx)
        return number


class FilePath(click.Path):
    """A file, which is looked at by who reads or writes it: its file system may not answer."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The path as it is (click)."""
        return self.coerce_path_result(value)


_EVERYWHERE: Final = (
    "--engine kernel is for every process that maps the program's module: `dprobe insert --engine "
    "kernel --all`"
)

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
    help="Follow forks: children of the process, and theirs, have the probes from their start. "
    "Nobody else (such as a debugger in the command) can trace them then.",
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
for_ = click.option(
    "--for",
    "--duration",
    "seconds",
    type=Duration(),
    metavar="TIME",
    help="Take the programs out after this time (30s, 10m, 2h), if they are still in.",
)
max_hits = click.option(
    "--max-hits",
    type=click.IntRange(1, _MOST_HITS),
    metavar="N",
    help="Disable each probe after N hits in a process, or earlier if its `max_hits` says so.",
)
engine = click.option(
    "--engine",
    type=click.Choice(ENGINES),
    default=TRAP,
    show_default=True,
    help="How probes fire: by a breakpoint, at which the tracer runs the program (trap); by native "
    "code in the process itself, to which a jump leads (inline) or, where none fits, a breakpoint "
    "(signal); by the fastest of these that can serve a program (auto); or by the kernel "
    "(`dprobe insert --all` only).",
)
missing = click.option(
    "--missing",
    type=click.Choice(["refuse", "warn"]),
    default="refuse",
    show_default=True,
    help="What to do about a probe whose place is not in the program or its libraries.",
)
private = click.option(
    "--private", is_flag=True, help="Through a daemon of its own, whether or not one runs."
)
program_file = FilePath()


def formats(*more: str, also: str = "") -> Callable[[F], F]:
    """``--format`` and ``--json``, as ``form``: text, json, or one of ``more``, which the help text
    says ``also``."""

    def add(function: F) -> F:
        @functools.wraps(function)
        def merged(*arguments: Any, form: str | None, as_json: bool, **rest: Any) -> Any:
            if as_json and form not in (None, "json"):
                raise click.UsageError(f"--json and --format {form} exclude each other")
            return function(*arguments, form="json" if as_json else form or "text", **rest)

        same = click.option("--json", "as_json", is_flag=True, help="The same as --format json.")
        form = click.option(
            "--format",
            "form",
            type=click.Choice(["text", "json", *more]),
            help=f"Lines for people (text, the default), or one JSON object a line{also}.",
        )
        return cast("F", form(same(merged)))

    return add


def format_(function: F) -> F:
    """The two formats of most commands."""
    return formats()(function)


def json(function: F) -> F:
    """The same two, as ``json``: whether it is to be JSON."""

    @functools.wraps(function)
    def asked(*arguments: Any, form: str, **rest: Any) -> Any:
        return function(*arguments, json=form == "json", **rest)

    return cast("F", format_(asked))


def running(socket: Path | None) -> Connection:
    """The running daemon; raises NoDaemonError. One of another version is told of."""
    from dprobe.lib.connection import running
    from dprobe.view.output import complain
    from dprobed import __version__

    daemon = running(socket)
    if daemon.welcome.version != __version__:
        complain(f"this is {daemon.through}")
    return daemon


def expression(function: F) -> F:
    """``-e``: of commands that also take scripts."""
    return click.option(
        "-e",
        "expression",
        metavar="SCRIPT",
        shell_complete=complete.script,
        help="A script in bpftrace's language, in place of programs; other words are its "
        "arguments ($1…).",
    )(function)


def script(function: F) -> F:
    """``-e`` and ``--unsafe``: the options of commands that run scripts."""
    unsafe = click.option(
        "--unsafe", is_flag=True, help="Let a script run commands (`system`) as you."
    )
    return expression(unsafe(function))


def script_of(expression: str | None, words: Sequence[str]) -> Script | None:
    """The script that is meant: of -e, or of a .bt file (or a compiled one, .btb) that is named
    first; the other words are its arguments. None: there is none. Raises UserError."""
    if expression is None and not (words and words[0].endswith((".bt", ".btb"))):
        return None
    # Imported where there is one: what it needs, other commands do without.
    from dprobe.lib.script import source

    if expression is not None:
        return source.Script(expression, source.COMMAND_LINE, tuple(words))
    return source.read(words[0], words[1:])


class _Columns(click.ParamType):  # type: ignore[type-arg]
    """Names of columns, with commas between them."""

    name = "columns"

    def __init__(self, listings: tuple[Listing, ...]) -> None:
        self._names = list(dict.fromkeys(name for each in listings for name in each.names))

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        """The names (click)."""
        if isinstance(value, tuple):
            return value  # the default: all columns
        names = tuple(filter(None, (name.strip() for name in str(value).split(","))))
        for name in names:
            if name not in self._names:
                known = ", ".join(self._names)
                self.fail(f"there is no column {name}; there are: {known}", param, ctx)
        if not names:
            self.fail("name at least one column", param, ctx)
        return names

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Those that are not named yet (click)."""
        from click.shell_completion import CompletionItem

        before, comma, last = incomplete.rpartition(",")
        return [
            CompletionItem(before + comma + name)
            for name in self._names
            if name.startswith(last) and name not in before.split(",")
        ]


def listing(*listings: Listing) -> Callable[[F], F]:
    """``--json``, ``--format`` and ``-o``, as ``json`` and ``only``."""

    def options(function: F) -> F:
        column = click.option(
            "-o",
            "only",
            type=_Columns(listings),
            default=(),
            metavar="COLUMN,…",
            help="Only these columns, in this order; a wrong name gets the list of them.",
        )
        return json(column(function))

    return options


def output(default: str) -> Callable[[F], F]:
    """``-o FILE``, where ``default`` says where records go without it."""
    return click.option(
        "-o",
        "path",
        metavar="FILE",
        type=FilePath(),
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
        seconds: float | None,
        max_hits: int | None,
        **rest: Any,
    ) -> Any:
        from dprobe.lib.programs import Choice, parse_defines

        if engine == KERNEL and not rest.get("everything"):
            raise click.UsageError(_EVERYWHERE)
        limits = chosen(budget, over)
        choice = Choice(
            parse_defines(defines), groups, types, limits, engine, seconds, max_hits or 0
        )
        return function(*arguments, choice=choice, **rest)

    for option in (engine, over_budget, budget, max_hits, for_, type_, group, define):
        collected = option(collected)
    return cast("F", collected)


def inserting(function: F) -> F:
    """The options of ``run``, ``attach`` and ``insert`` about putting programs in."""
    for option in (no_opcode_check, follow_forks):
        function = option(function)
    return function


def selections(
    programs: Sequence[str],
    pids: Sequence[int],
    *,
    module: str | None = None,
    program_id: int | None = None,
) -> list[messages.Select]:
    """What is meant: each program (a number or a name of ``dprobe programs``) in each process."""
    from dprobed.wire import messages

    return [
        messages.Select(
            number=int(program) if program is not None and program.isdecimal() else None,
            label=program if program is not None and not program.isdecimal() else None,
            module=module,
            program_id=program_id,
            pid=pid,
        )
        for program in programs or (None,)
        for pid in pids or (None,)
    ]
