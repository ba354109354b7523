"""The parts of docs/architecture.md that the code itself tells: the tree, and who imports whom.

python -m tests.tree            write them
python -m tests.tree --check    fail if they are not what would be written
"""

from __future__ import annotations

import ast
import re
import sys
import textwrap
from collections.abc import Iterator

from dprobed.program.generated import write_or_check
from tests.test_layers import MODULES, ROOMS, ROOT

PAGE = ROOT / "docs" / "architecture.md"
_WIDTH = 112


def _tree() -> Iterator[str]:
    """Each package with the first sentence about it, and its modules."""
    for top in ("dprobed", "dprobe"):
        packages = [name for name, path in MODULES.items() if path.name == "__init__.py"]
        for package in (name for name in packages if name.split(".")[0] == top):
            yield from _package(package, "clients/" if top == "dprobe" else "")


def _package(name: str, folder: str) -> Iterator[str]:
    text = ast.get_docstring(ast.parse(MODULES[name].read_text())) or ""
    depth = name.count(".")
    indent = "  " * depth
    what = " ".join(text.split("\n\n")[0].split())
    yield f"{indent}{folder}{name.replace('.', '/')}/".ljust(30) + f" {what}"
    modules = [
        module.rpartition(".")[2]
        for module, path in MODULES.items()
        if module.rpartition(".")[0] == name and path.name != "__init__.py"
    ]
    for line in textwrap.wrap(" · ".join(modules), _WIDTH - 36):
        yield f"{indent}    {line}"


def _arrows() -> Iterator[str]:
    yield "| room | may import |"
    yield "| --- | --- |"
    for room, may in ROOMS.items():
        names = ", ".join(f"`{each.removeprefix('dprobed.')}`" for each in may)
        yield f"| `{room.removeprefix('dprobed.')}` | {names or 'nothing of ours'} |"


def page() -> str:
    """The page as it ought to be."""
    text = PAGE.read_text()
    tree = "\n".join(f"    {line}".rstrip() for line in _tree())
    for mark, block in (("tree", tree), ("arrows", "\n".join(_arrows()))):
        pattern = re.compile(rf"(<!-- {mark} -->\n).*?(<!-- /{mark} -->)", re.DOTALL)
        text = pattern.sub(lambda found, block=block: f"{found[1]}\n{block}\n\n{found[2]}", text)  # type: ignore[misc]
    return text


def main(arguments: list[str]) -> int:
    """Write or check."""
    return write_or_check("tests.tree", PAGE, page(), arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
