"""``-p PID…|NAME``: the processes that a command is about."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from dprobe.lib.errors import UserError
from dprobed.proc import executables

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

F = TypeVar("F", bound=Callable[..., Any])

#: PID_MAX_LIMIT of the kernel (include/linux/threads.h).
_MOST = 1 << 22
_NAMES = ("-p", "--pid")


class PidsCommand(click.Command):
    """Whole numbers behind ``-p`` are further processes: ``-p $(pidof nginx)`` gives several."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Make one word of those numbers (click)."""
        return super().parse_args(ctx, gathered(args))


def gathered(args: Sequence[str]) -> list[str]:
    """The arguments, with a comma between the numbers that follow ``-p``."""
    words: list[str] = []
    numbers = False
    for index, word in enumerate(args):
        if word == "--":
            return [*words, *args[index:]]
        if numbers and word.isdecimal() and words[-1] not in _NAMES:
            words[-1] += f",{word}"
            continue
        # What comes right behind -p is its value, whatever it is.
        numbers = word in _NAMES or (bool(words) and words[-1] in _NAMES and word.isdecimal())
        words.append(word)
    return words


class Processes(click.ParamType):  # type: ignore[type-arg]
    """Numbers of processes, or a name that some have."""

    name = "processes"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        """Their numbers (click)."""
        if isinstance(value, tuple):
            return value
        words = str(value).replace(",", " ").split()
        if not words:
            self.fail("name a process, by its number or its name", param, ctx)
        if not all(word.isdecimal() for word in words):
            pids = pids_of(str(value).strip())
            if not pids:
                self.fail(f"no process is called {value}", param, ctx)
            return pids
        for word in words:
            if len(word) > 10 or not 1 <= int(word) <= _MOST:
                self.fail(f"{word} is not in the range 1<=x<={_MOST}.", param, ctx)
        return tuple(map(int, words))

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Processes with their names, and the names (click)."""
        from click.shell_completion import CompletionItem

        found = sorted(_named())
        items = [
            CompletionItem(str(pid), help=name)
            for pid, name in found
            if str(pid).startswith(incomplete)
        ]
        names = dict.fromkeys(name for _, name in found if name.startswith(incomplete))
        return [*(CompletionItem(name) for name in names if " " not in name), *items]


class OneProcess(Processes):
    """The number of a process, or a name that only one has."""

    name = "process"

    def convert(  # type: ignore[override]
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        """Its number (click)."""
        if isinstance(value, int):
            return value
        pids = super().convert(value, param, ctx)
        if len(pids) > 1:
            some = ", ".join(map(str, pids[:10])) + (", …" if len(pids) > 10 else "")
            self.fail(f"{value} is several processes: {some}; name one", param, ctx)
        return pids[0]


def pids_of(name: str) -> tuple[int, ...]:
    """The processes of that name, or that execute a file of it; without this one."""
    return tuple(sorted({pid for pid, found in _named() if found == name}))


def refuse_missing(pids: Iterable[int], known: Iterable[int]) -> None:
    """Raise UserError where there is no such process, nor anything ``known`` of one that ended."""
    there = set(known)
    for pid in pids:
        if pid not in there and not os.path.exists(f"/proc/{pid}"):  # noqa: PTH110
            raise UserError(f"there is no process {pid}")


def executed() -> Iterator[str]:
    """The paths of what processes execute, of those that may be looked at."""
    for entry in os.listdir("/proc"):  # noqa: PTH208
        if entry.isdecimal() and (path := executables.path(int(entry))):
            yield path


def _named() -> list[tuple[int, str]]:
    """Every process with its names; one that may not be looked at has the one that all can see."""
    found = []
    for entry in os.listdir("/proc"):  # noqa: PTH208  # as quick as can be: it is for a TAB, too
        if not entry.isdecimal() or int(entry) == os.getpid():
            continue
        names = set()
        try:
            with open(f"/proc/{entry}/comm", "rb") as file:
                names.add(file.read().decode(errors="replace").rstrip("\n"))
            names.add(executables.link(int(entry)).split("/")[-1])
        except OSError:
            pass
        found += [(int(entry), name) for name in names]
    return found


def option(help_: str) -> Callable[[F], F]:
    """``-p``, ``--pid``, as ``pids``; may be repeated."""
    return click.option(
        *_NAMES,
        "pids",
        multiple=True,
        type=Processes(),
        metavar="PID…|NAME",
        callback=lambda _ctx, _param, value: tuple(
            dict.fromkeys(pid for each in value for pid in each)
        ),
        help=help_,
    )


only = option("Only in these processes: numbers, or a name that they have.")


def split(words: Sequence[str], pids: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Arguments that are numbers are processes, too; the processes, and the other arguments."""
    numbers = [word for word in words if word.isdecimal()]
    more = [pid for word in numbers for pid in Processes().convert(word, None, None)]
    rest = tuple(word for word in words if not word.isdecimal())
    return tuple(dict.fromkeys([*pids, *more])), rest
