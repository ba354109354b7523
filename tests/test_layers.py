"""Rooms follow processes and arrows point down: who may import whom, for every module of ours.

A *room* is a folder of ``dprobed/`` (or a module beside them, or a part of the client); ``ROOMS``
says for each from which others it may import. Every import counts, those in functions and under
``TYPE_CHECKING`` too.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

#: Shared floors, which know nothing of processes.
_FLOORS = ("dprobed.printable", "dprobed.program", "dprobed.record", "dprobed.wire")

#: Room → rooms from which it may import, besides itself. Lower rooms first.
ROOMS: dict[str, tuple[str, ...]] = {
    "dprobed.printable": (),
    "dprobed.journal": (),
    "dprobed.rate_limit": (),
    "dprobed.program": (),
    "dprobed.program.exec": ("dprobed.program",),
    "dprobed.program.rpn": ("dprobed.program",),
    "dprobed.record": ("dprobed.printable", "dprobed.program"),
    "dprobed.wire": ("dprobed.record",),
    "dprobed.binary": (),
    "dprobed.arch": (),
    "dprobed.arch.x86_64": ("dprobed.program",),
    "dprobed.proc": ("dprobed.printable", "dprobed.arch.x86_64"),
    "dprobed.tracee": ("dprobed.program", "dprobed.program.exec", "dprobed.proc",
                       "dprobed.arch.x86_64"),
    "dprobed.resolver": ("dprobed.binary", "dprobed.proc", "dprobed.wire"),
    "dprobed.corefile": ("dprobed.arch.x86_64", "dprobed.proc"),
    "dprobed.trace": (*_FLOORS, "dprobed", "dprobed.journal", "dprobed.rate_limit"),
    "dprobed.policy": ("dprobed.printable", "dprobed.program", "dprobed.program.rpn",
                       "dprobed.proc", "dprobed.wire"),
    "dprobed.engine": ("dprobed.rate_limit", "dprobed.program", "dprobed.program.exec",
                       "dprobed.wire", "dprobed.proc", "dprobed.arch.x86_64", "dprobed.tracee"),
    "dprobed.engine.trap": ("dprobed.engine", "dprobed.program", "dprobed.program.exec",
                            "dprobed.wire", "dprobed.proc", "dprobed.arch.x86_64",
                            "dprobed.tracee"),
    "dprobed.engine.watch": ("dprobed.engine", "dprobed.program", "dprobed.program.exec",
                             "dprobed.wire", "dprobed.proc", "dprobed.arch.x86_64",
                             "dprobed.tracee"),
    "dprobed.tracer": (*_FLOORS, "dprobed.journal", "dprobed.program.exec", "dprobed.proc",
                       "dprobed.arch.x86_64", "dprobed.tracee", "dprobed.engine",
                       "dprobed.engine.trap", "dprobed.engine.watch", "dprobed.resolver",
                       "dprobed.corefile"),
    "dprobed.backend": ("dprobed.wire",),
    "dprobed.daemon": (*_FLOORS, "dprobed", "dprobed.journal", "dprobed.rate_limit",
                       "dprobed.proc", "dprobed.policy", "dprobed.trace", "dprobed.backend",
                       "dprobed.resolver", "dprobed.tracer"),
    "dprobed.__main__": ("dprobed.daemon",),
    "dprobed": (),
    "dprobe": (),
    "dprobe.lib": (*_FLOORS, "dprobed.program.rpn", "dprobed.proc", "dprobed.binary",
                   "dprobed.resolver"),
    "dprobe.view": (*_FLOORS, "dprobe.lib"),
    "dprobe.commands": (*_FLOORS, "dprobe.lib", "dprobe.view", "dprobed.program.rpn",
                        "dprobed.proc", "dprobed.binary", "dprobed.policy", "dprobed.trace",
                        "dprobed.corefile"),
    "dprobe.main": ("dprobed", "dprobed.printable", "dprobe.lib", "dprobe.commands"),
}  # fmt: skip


def modules() -> dict[str, Path]:
    """Every module of ours by its dotted name; a package's is that of its ``__init__``."""
    found = {}
    for base, top in ((ROOT, "dprobed"), (ROOT / "clients", "dprobe")):
        for path in sorted((base / top).rglob("*.py")):
            parts = path.relative_to(base).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def imported(path: Path) -> Iterator[tuple[str, int]]:
    """The modules of ours that a file imports, and on which line."""
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
