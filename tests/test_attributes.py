"""An object is whole when it is made: its attributes are assigned in ``__init__``, by itself."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from tests.test_layers import MODULES, ROOT


def _assigned(function: ast.AST) -> Iterator[tuple[str, int]]:
    """Attributes of ``self`` that a function assigns, and where."""
    for node in ast.walk(function):
        targets: list[ast.expr] = []
        if isinstance(node, ast.Assign):
            targets = node.targets
        elif isinstance(node, ast.AnnAssign | ast.AugAssign):
            # an annotation alone assigns nothing
            targets = [node.target] if node.value is not None else []
        for target in targets:
            for each in target.elts if isinstance(target, ast.Tuple) else [target]:
                if isinstance(each, ast.Attribute) and ast.unparse(each.value) == "self":
                    yield each.attr, each.lineno


def test_no_attribute_is_first_assigned_later() -> None:
    late = []
    for path in MODULES.values():
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.ClassDef):
                continue
            methods = {each.name: each for each in node.body if isinstance(each, ast.FunctionDef)}
            properties = {name for name, each in methods.items() if each.decorator_list}
            if "__init__" not in methods:
                continue
            first = {name for name, _ in _assigned(methods.pop("__init__"))} | properties
            late += [
                f"{path.relative_to(ROOT)}:{line}: {node.name}.{name}"
                for method in methods.values()
                for name, line in _assigned(method)
                if name not in first
            ]
    assert not late, "\n".join(late)


def test_nobody_asks_whether_an_attribute_is_there() -> None:
    asks = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in MODULES.values()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "hasattr"
    ]
    assert not asks
