"""What TAB offers: names that a daemon, the folder of cores or a file knows.

A TAB must be quick and say nothing: whatever goes wrong, there is nothing to offer.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from dprobe.lib.connection import Connection
    from dprobe.lib.mapped import File

#: So many names are offered at most: more are no help.
_MOST: Final = 300

Completion = Callable[[click.Context, click.Parameter, str], "list[CompletionItem]"]


def _offering(names: Callable[[click.Context, str], Iterable[tuple[str, str]]]) -> Completion:
    """A completion by the (name, what it is) that begin with what is there."""

    def complete(
        ctx: click.Context, _param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        from click.shell_completion import CompletionItem

        found: dict[str, str] = {}
        with contextlib.suppress(Exception):
            for name, text in names(ctx, incomplete):
                if name.startswith(incomplete):
                    found.setdefault(name, text)
                if len(found) >= _MOST:
                    break
        return [CompletionItem(name, help=text or None) for name, text in found.items()]

    return complete


@contextlib.contextmanager
def _daemon(ctx: click.Context) -> Iterator[Connection]:
    from dprobe.lib.connection import running

    path = ctx.find_root().params.get("socket") or os.environ.get("DPROBE_SOCKET")
    with running(Path(path) if path else None) as daemon:
        yield daemon


def _programs(ctx: click.Context, _: str) -> Iterator[tuple[str, str]]:
    from dprobed.wire import messages

    with _daemon(ctx) as daemon:
        answer = daemon.request(lambda number: messages.Programs(id=number), messages.Listing)
    for program in answer.programs:
        yield program.program, f"in {program.module}"
    for deployment in answer.deployments:
        yield deployment.program, f"in {deployment.module}"


def _programs_and_variables(ctx: click.Context, _: str) -> Iterator[tuple[str, str]]:
    """Programs; behind one, its local variables."""
    from dprobed.wire import messages

    words = ctx.params.get("what") or ()
    if not words:
        yield from _programs(ctx, "")
        return
    with _daemon(ctx) as daemon:
        answer = daemon.request(lambda number: messages.Programs(id=number), messages.Listing)
    for program in answer.programs:
        if words[0] in (program.program, str(program.number)):
            yield from ((name, f"of {program.program}") for name in program.names)


def _maps(ctx: click.Context, _: str) -> Iterator[tuple[str, str]]:
    from dprobed.wire import messages

    with _daemon(ctx) as daemon:
        answer = daemon.request(lambda number: messages.Query(id=number), messages.Status)
    for use in answer.map_use:
        yield use.map, f"{use.kind}, of {use.program}"


def _sessions(ctx: click.Context, _: str) -> Iterator[tuple[str, str]]:
    from dprobed.wire import messages

    with _daemon(ctx) as daemon:
        answer = daemon.request(lambda number: messages.TraceList(id=number), messages.TraceListing)
    for trace in answer.traces:
        yield trace.name, trace.folder


def _handlers(ctx: click.Context, _: str) -> Iterator[tuple[str, str]]:
    from dprobed.wire import messages

    with _daemon(ctx) as daemon:
        answer = daemon.request(
            lambda number: messages.Handlers(id=number), messages.HandlerListing
        )
    for handler in answer.handlers:
        yield handler.handler, f"of {handler.facility}"


def _cores(_ctx: click.Context, _: str) -> Iterator[tuple[str, str]]:
    from dprobed.corefile import asked, store

    for folder in store.folders():
        for core in asked.cores(folder):
            yield core.name, str(core.about.get("command", ""))


def _modules(_ctx: click.Context, incomplete: str) -> Iterator[tuple[str, str]]:
    from dprobe.lib.loader import module_folders
    from dprobed.proc import far

    if "/" in incomplete:
        start = incomplete[: incomplete.rindex("/") + 1]
        for name in far.entries(start):
            yield start + name, ""
        return
    for folder in module_folders():
        with contextlib.suppress(OSError):
            for name in far.entries(folder):
                if name.startswith(incomplete):
                    yield name.removesuffix("/"), folder


def _symbols(ctx: click.Context, incomplete: str) -> Iterator[tuple[str, str]]:
    from dprobe.lib.loader import find_module
    from dprobe.lib.mapped import open_file
    from dprobed.binary.places import list_places

    if len(incomplete) < 1:
        return  # Thousands.
    for place in list_places(open_file(find_module(ctx.params["module"])), f"{incomplete}*"):
        yield place.spec or place.name, place.kind


def _commands(ctx: click.Context, _: str) -> Iterator[tuple[str, str]]:
    above = ctx.find_root()
    group = above.command
    for word in ctx.params.get("words") or ():
        assert isinstance(group, click.Group)
        found = group.get_command(above, word)
        assert found is not None
        group = found
    assert isinstance(group, click.Group)
    for name in group.list_commands(above):
        yield name, ""


def _script(ctx: click.Context, begun: str) -> Iterator[tuple[str, str]]:
    """The script of -e as far as it is written, with what its last word may become."""
    from dprobe.lsp.answers import ScriptAnswers

    last = re.search(r"\w*\Z", begun)
    head = begun[: last.start()] if last is not None else begun
    answers = ScriptAnswers(lambda: _files(ctx))
    for each in answers.completions(begun):
        yield head + each.word, each.meaning


def _functions(ctx: click.Context, begun: str) -> Iterator[tuple[str, str]]:
    """Functions of the target's files, its program's first."""
    for file in _files(ctx):
        if file.elf is not None:
            for symbol in file.elf.symbols.code():
                if symbol.name.startswith(begun):
                    yield symbol.name, f"in {os.path.basename(file.module.path)}"  # noqa: PTH119


def _files(ctx: click.Context) -> list[File]:
    """What the processes map that were named before."""
    from dprobe.lib.mapped import files_of_process

    found: list[File] = []
    for pid in (ctx.params.get("pids") or ())[:4]:
        found += files_of_process(pid)
    return found


programs: Final = _offering(_programs)
script: Final = _offering(_script)
functions: Final = _offering(_functions)
programs_and_variables: Final = _offering(_programs_and_variables)
maps: Final = _offering(_maps)
sessions: Final = _offering(_sessions)
handlers: Final = _offering(_handlers)
cores: Final = _offering(_cores)
modules: Final = _offering(_modules)
symbols: Final = _offering(_symbols)
commands: Final = _offering(_commands)
