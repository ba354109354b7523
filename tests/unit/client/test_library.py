"""The client's library is for other programs, too: it neither prints nor knows of command lines."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import dprobe.lib
import pytest

MODULES = sorted(Path(dprobe.lib.__path__[0]).glob("*.py"))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_it_neither_prints_nor_writes_to_standard_streams(path: Path) -> None:
    tree = ast.parse(path.read_text())
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    attributes = {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert "print" not in names
    assert not {"sys.stdout", "sys.stderr"} & attributes


def test_it_needs_neither_click_nor_rich() -> None:
    imports = "".join(f"import dprobe.lib.{path.stem}\n" for path in MODULES if path.stem[0] != "_")
    check = "import sys\nassert not {'click', 'rich', 'dprobe.view'} & sys.modules.keys()\n"
    subprocess.run([sys.executable, "-c", imports + check], check=True, timeout=60)
