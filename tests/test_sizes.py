"""Files, classes and functions are of a size that one reads in a sitting."""

from __future__ import annotations

import ast
import subprocess
from collections.abc import Iterator

from tests.test_layers import MODULES, ROOT

#: Lines of a file, of a class, and of a function without its docstring, which may be a help text.
FILE, CLASS, FUNCTION = 700, 300, 60

#: What is longer, and why that is better than to cut it.
LONGER = {
    "dprobed.daemon.app.build_public": "the composition root: one line for each part",
    "dprobed.engine.runner.ProgramRunner.run": "the hit itself, which each call would lengthen",
}


def _sizes(node: ast.AST, name: str) -> Iterator[tuple[str, int, int]]:
    """Of each class and function: name, lines, and how many there may be."""
    for each in ast.iter_child_nodes(node):
        if isinstance(each, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            assert each.end_lineno is not None
            lines = each.end_lineno - each.lineno + 1
            most = CLASS
            if not isinstance(each, ast.ClassDef):
                most = FUNCTION
                first = each.body[0]
                if ast.get_docstring(each) is not None and first.end_lineno is not None:
                    lines -= first.end_lineno - first.lineno + 1
            yield f"{name}.{each.name}", lines, most
            yield from _sizes(each, f"{name}.{each.name}")


def test_classes_and_functions() -> None:
    found = {
        name: f"{lines} lines, {most} at most"
        for module, path in MODULES.items()
        for name, lines, most in _sizes(ast.parse(path.read_text()), module)
        if lines > most
    }
    assert found.keys() == LONGER.keys(), {
        name: found.get(name, "it is not longer: no reason needed")
        for name in found.keys() ^ LONGER.keys()
    }


def test_files() -> None:
    listed = subprocess.run(["git", "ls-files", "*.py"], cwd=ROOT, capture_output=True, text=True)
    paths = [ROOT / name for name in listed.stdout.split()] or list(MODULES.values())
    found = {
        str(path.relative_to(ROOT)): lines
        for path in paths
        if path.exists() and (lines := path.read_text().count("\n")) > FILE
    }
    assert not found
