"""Rooms follow processes and arrows point down: who may import whom, for every module of ours.

A *room* is a folder of ``dprobed/`` (or a module beside them, or a part of the client); ``ROOMS``
says for each from which others it may import. Every import counts, those in functions and under
``TYPE_CHECKING`` too.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

#: Of a file: to open it, and what is said of it. Nothing in it is read.
_BINARY_OPENING = ("dprobed.binary.errors", "dprobed.binary.numbers", "dprobed.binary.opening")

#: Room → rooms from which it may import, besides itself. Lower rooms first.
ROOMS: dict[str, tuple[str, ...]] = {
    "dprobed.printable": (),
    "dprobed.systemd_journal": (),
    "dprobed.rate_limit": (),
    "dprobed.change_journal": (),
    "dprobed.last_counts": ("dprobed.change_journal",),
    "dprobed.durations": (),
    "dprobed.program": (),
    # the processor's own numbers
    "dprobed.arch.x86_64": (),
    "dprobed.program.exec": ("dprobed.program", "dprobed.arch.x86_64"),
    "dprobed.program.rpn": ("dprobed.program",),
    "dprobed.program.bt": ("dprobed.program",),
    "dprobed.record": ("dprobed.printable", "dprobed.program"),
    # framing and limits, then what is said to whom
    "dprobed.wire": (),
    "dprobed.wire.messages": ("dprobed.wire", "dprobed.record"),
    "dprobed.wire.protocol": ("dprobed.wire",),
    # where arguments are, for questions and answers alike
    "dprobed.wire.resolver": ("dprobed.arch.x86_64",),
    "dprobed.binary.errors": (),
    "dprobed.binary.numbers": ("dprobed.binary.errors",),
    "dprobed.binary.opening": ("dprobed.binary.errors",),
    "dprobed.binary.headers": (),
    "dprobed.binary": (*_BINARY_OPENING, "dprobed.binary.headers", "dprobed.program",
                       "dprobed.arch.x86_64"),
    "dprobed.arch": (),
    "dprobed.proc": ("dprobed.printable", "dprobed.arch.x86_64"),
    # its helper process alone imports what makes native code
    "dprobed.compiler": ("dprobed.proc", "dprobed.program.exec"),
    "dprobed.tracee": ("dprobed.program.exec", "dprobed.proc", "dprobed.arch.x86_64"),
    # asking; ``service`` is the process that answers
    "dprobed.resolver": (*_BINARY_OPENING, "dprobed.proc", "dprobed.arch.x86_64",
                         "dprobed.wire.resolver"),
    "dprobed.resolver.cache": ("dprobed.binary",),
    "dprobed.resolver.image": ("dprobed.binary", "dprobed.arch.x86_64"),
    "dprobed.resolver.service": ("dprobed.binary.errors", "dprobed.binary.opening",
                                 "dprobed.binary", "dprobed.arch.x86_64",
                                 "dprobed.wire.resolver", "dprobed.resolver",
                                 "dprobed.resolver.cache", "dprobed.resolver.image"),
    "dprobed.corefile": ("dprobed.arch.x86_64", "dprobed.proc", "dprobed.binary.headers"),
    "dprobed.trace": ("dprobed", "dprobed.systemd_journal", "dprobed.rate_limit", "dprobed.program",
                      "dprobed.record", "dprobed.wire.protocol", "dprobed.proc"),
    "dprobed.policy": ("dprobed.printable", "dprobed.durations", "dprobed.program",
                       "dprobed.program.rpn", "dprobed.program.bt", "dprobed.proc", "dprobed.wire",
                       "dprobed.wire.messages"),
    # what all mechanisms share, then each of them: none knows another
    "dprobed.engine": ("dprobed.change_journal", "dprobed.rate_limit",
                       "dprobed.program", "dprobed.program.exec",
                       "dprobed.wire", "dprobed.wire.protocol", "dprobed.proc",
                       "dprobed.arch.x86_64", "dprobed.tracee"),
    "dprobed.engine.trap": ("dprobed.change_journal",
                            "dprobed.engine", "dprobed.wire", "dprobed.wire.protocol",
                            "dprobed.proc", "dprobed.arch.x86_64", "dprobed.tracee"),
    "dprobed.engine.watch": ("dprobed.change_journal",
                             "dprobed.engine", "dprobed.wire", "dprobed.wire.protocol",
                             "dprobed.arch.x86_64", "dprobed.tracee"),
    "dprobed.engine.inline": ("dprobed.change_journal", "dprobed.compiler",
                              "dprobed.engine", "dprobed.program", "dprobed.program.exec",
                              "dprobed.wire", "dprobed.wire.protocol", "dprobed.proc",
                              "dprobed.arch.x86_64", "dprobed.tracee"),
    # a child of the tracer, which writes one core
    "dprobed.tracer.dump.dumper": ("dprobed.systemd_journal", "dprobed.program", "dprobed.proc",
                                   "dprobed.resolver.image", "dprobed.corefile"),
    "dprobed.tracer": ("dprobed.change_journal", "dprobed.last_counts", "dprobed.compiler",
                       "dprobed.program", "dprobed.program.exec", "dprobed.record",
                       "dprobed.wire", "dprobed.wire.protocol", "dprobed.wire.resolver",
                       "dprobed.proc", "dprobed.arch.x86_64", "dprobed.tracee",
                       "dprobed.engine", "dprobed.engine.trap", "dprobed.engine.watch",
                       "dprobed.engine.inline",
                       "dprobed.resolver", "dprobed.corefile", "dprobed.tracer.dump.dumper"),
    "dprobed.backend": ("dprobed.wire.protocol",),
    # the device of the kernel's module
    "dprobed.kernel": ("dprobed.printable", "dprobed.program", "dprobed.backend",
                       "dprobed.wire", "dprobed.wire.protocol", "dprobed.wire.messages",
                       "dprobed.arch.x86_64", "dprobed.proc"),
    "dprobed.daemon": ("dprobed", "dprobed.change_journal", "dprobed.last_counts",
                       "dprobed.durations",
                       "dprobed.printable",
                       "dprobed.systemd_journal", "dprobed.rate_limit",
                       "dprobed.program", "dprobed.record",
                       "dprobed.wire", "dprobed.wire.messages", "dprobed.wire.protocol",
                       "dprobed.wire.resolver",
                       "dprobed.proc", "dprobed.policy", "dprobed.trace",
                       "dprobed.backend", "dprobed.kernel", "dprobed.resolver",
                       "dprobed.resolver.service", "dprobed.tracer"),
    "dprobed.__main__": ("dprobed.daemon",),
    "dprobed": (),
    "dprobe": (),
    "dprobe.lib": ("dprobed", "dprobed.durations", "dprobed.printable", "dprobed.change_journal",
                   "dprobed.program", "dprobed.program.rpn", "dprobed.record",
                   "dprobed.wire", "dprobed.wire.messages", "dprobed.proc",
                   "dprobed.binary.errors", "dprobed.binary.opening", "dprobed.binary",
                   "dprobed.resolver", "dprobed.resolver.cache", "dprobed.resolver.image"),
    # scripts: their blocks run in the client
    "dprobe.lib.script": ("dprobed.printable", "dprobed.program", "dprobed.program.exec",
                          "dprobed.arch.x86_64",
                          "dprobed.program.bt",
                          "dprobed.program.rpn", "dprobed.record", "dprobed.wire.messages",
                          "dprobed.binary.errors", "dprobed.binary", "dprobed.proc", "dprobe.lib"),
    # frames and variables, read from a core
    "dprobe.lib.snapshot": ("dprobed.program", "dprobed.arch.x86_64", "dprobed.binary",
                            "dprobed.binary.errors", "dprobed.binary.headers", "dprobed.policy",
                            "dprobed.resolver", "dprobe.lib"),
    # what editors ask
    "dprobe.lsp": ("dprobed", "dprobed.program", "dprobed.program.bt", "dprobe.lib",
                   "dprobe.lib.script"),
    # what is known of a command line before click is imported, and how others are imported
    "dprobe.ahead": ("dprobed.wire",),
    "dprobe.late": (),
    # forks the daemon of one command
    "dprobe.private": ("dprobed.wire", "dprobed.daemon", "dprobe.lib"),
    "dprobe.view": ("dprobed.durations", "dprobed.printable", "dprobed.program", "dprobed.record",
                    "dprobed.wire.messages", "dprobed.proc", "dprobed.binary", "dprobe.lib",
                    "dprobe.lib.snapshot"),
    "dprobe.view.script": ("dprobed.printable", "dprobed.program", "dprobed.program.bt",
                           "dprobed.proc", "dprobe.lib.script", "dprobe.view"),
    "dprobe.commands": ("dprobed", "dprobed.durations", "dprobed.printable",
                        "dprobed.program", "dprobed.program.bt", "dprobed.record",
                        "dprobed.wire", "dprobed.wire.messages",
                        "dprobed.arch.x86_64", "dprobed.proc", "dprobed.binary.errors",
                        "dprobed.binary", "dprobed.policy", "dprobed.trace",
                        "dprobed.corefile", "dprobe.lib", "dprobe.lib.script",
                        "dprobe.lib.snapshot", "dprobe.lsp",
                        "dprobe.private",
                        "dprobe.view", "dprobe.view.script"),
    # the commands by name, each when it is asked for
    "dprobe.main": ("dprobed", "dprobed.proc", "dprobe.lib", "dprobe.commands"),
    "dprobe.__main__": ("dprobe.ahead", "dprobe.late", "dprobe.private", "dprobe.main"),
}  # fmt: skip

#: What another process does, and the only module that may import it: the one that starts it.
PROCESSES = {
    "dprobed.daemon.main": "dprobed.__main__",
    "dprobed.daemon.private": "dprobe.private",
    "dprobed.tracer.main": "dprobed.daemon.tracer_child",
    "dprobed.resolver.service": "dprobed.daemon.resolver_process",
}


def modules() -> dict[str, Path]:
    """Every module of ours by its dotted name; a package's is that of its ``__init__``."""
    found = {}
    for base, top in ((ROOT, "dprobed"), (ROOT / "clients", "dprobe")):
        for path in sorted((base / top).rglob("*.py")):
            parts = path.relative_to(base).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


@cache
def imported(path: Path) -> tuple[tuple[str, int], ...]:
    """The modules of ours that a file imports, and on which line."""
    return tuple(_imported(path))


def _imported(path: Path) -> Iterator[tuple[str, int]]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [each.name for each in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are absolute here"
            base = node.module or ""
            names = [f"{base}.{each.name}" for each in node.names]
            names = [name if name in MODULES else base for name in names]
        else:
            continue
        yield from ((name, node.lineno) for name in names if name in MODULES)


def room_of(module: str) -> str:
    """The room that a module is in: the longest name in ``ROOMS`` that it begins with."""
    parts = module.split(".")
    names = [".".join(parts[:length]) for length in range(len(parts), 0, -1)]
    room = next(name for name in names if name in ROOMS)
    assert room not in ("dprobed", "dprobe") or module == room, (
        f"{module} is in no room: add its folder to ROOMS"
    )
    return room


@pytest.mark.parametrize("module", sorted(MODULES))
def test_arrows_point_down(module: str) -> None:
    here = room_of(module)
    wrong = [
        f"{MODULES[module].relative_to(ROOT)}:{line}: {here} may not import {name}"
        for name, line in imported(MODULES[module])
        if (there := room_of(name)) != here and there not in ROOMS[here]
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("room", ROOMS)
def test_no_arrow_is_there_for_nothing(room: str) -> None:
    used = {
        room_of(name)
        for module, path in MODULES.items()
        if room_of(module) == room
        for name, _ in imported(path)
    }
    assert used >= set(ROOMS[room])


def test_a_process_is_entered_by_who_starts_it() -> None:
    rooms = ("dprobed.daemon", "dprobed.tracer")
    outside = [
        (module, name)
        for module, path in MODULES.items()
        for name, _ in imported(path)
        if name in PROCESSES
        or any(name.startswith(room) and not module.startswith(room) for room in rooms)
    ]
    assert sorted(set(outside)) == sorted((by, name) for name, by in PROCESSES.items())


def test_one_module_imports_python_ptrace() -> None:
    """Imported without what that one does before, it runs ``ldconfig``."""
    importing = {
        module
        for module, path in MODULES.items()
        for node in ast.walk(ast.parse(path.read_text()))
        if (isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "ptrace")
        or (
            isinstance(node, ast.Import)
            and any(n.name.split(".")[0] == "ptrace" for n in node.names)
        )
    }
    assert importing == {"dprobed.arch.x86_64.python_ptrace"}


def test_no_module_imports_itself_by_way_of_others() -> None:
    graph = {
        module: {n for n, _ in imported(path) if n != module} for module, path in MODULES.items()
    }
    settled: set[str] = set()
    way: list[str] = []

    def visit(module: str) -> None:
        if module in way:
            raise AssertionError("a circle: " + " → ".join([*way[way.index(module) :], module]))
        if module in settled:
            return
        way.append(module)
        for name in sorted(graph[module]):
            visit(name)
        settled.add(way.pop())

    for module in sorted(graph):
        visit(module)


def test_rooms_are_ordered() -> None:
    above: set[str] = set(ROOMS)
    for room, may in ROOMS.items():
        above.discard(room)
        assert not above & (set(may) - {"dprobed"}), f"{room} imports from a room above it"
