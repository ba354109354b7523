"""What tracers import late is imported before they become other users."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import dprobed
from dprobed.daemon.tracer_process import LATE

#: What runs in a tracer.
_PACKAGES = ("engine", "binary", "tracee", "tracer", "corefile", "program", "arch", "proc")


def late_imports(path: Path) -> Iterator[str]:
    for function in ast.walk(ast.parse(path.read_text())):
        if not isinstance(function, ast.FunctionDef):
            continue
        for node in ast.walk(function):
            if isinstance(node, ast.Import):
                yield from (each.name for each in node.names)
            elif isinstance(node, ast.ImportFrom):
                yield node.module or ""


def test_the_list_is_that_of_the_sources() -> None:
    root = Path(dprobed.__file__).parent
    files = [path for package in _PACKAGES for path in (root / package).rglob("*.py")]
    assert sorted({name for path in files for name in late_imports(path)}) == sorted(LATE)
