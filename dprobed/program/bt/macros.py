"""Puts the bodies of macros where they are called.

A macro's own variables get names that nothing else has; what it is given is put in as it is.
"""

from __future__ import annotations

from typing import Any

from dprobed.program.bt import tree
from dprobed.program.bt.source import Problems

#: Macros within each other at most, and calls in one script.
MAX_DEPTH = 30
MAX_CALLS = 10_000


def expanded(script: tree.Script, problems: Problems) -> None:
    """Put all macros into the probes of a script."""
    macros: dict[tuple[str, int], tree.Macro] = {}
    names: set[str] = set()
    for one in script.macros:
        key = one.name, len(one.parameters)
        if key in macros:
            problems.add(one.span, f"there are two macros `{one.name}` with {key[1]} parameters")
        macros[key] = one
        names.add(one.name)
        if len(set(one.parameters)) != len(one.parameters):
            problems.add(one.span, f"two parameters of `{one.name}` have the same name")
    if not macros:
        return
    expander = _Expander(macros, names, problems)
    for probe in script.probes:
        probe.predicate = expander.node(probe.predicate, {}, 0)
        probe.body = expander.statements(probe.body, {}, 0)


class _Expander:
    def __init__(
        self, macros: dict[tuple[str, int], tree.Macro], names: set[str], problems: Problems
    ) -> None:
        self._macros = macros
        self._names = names
        self._problems = problems
        self._calls = 0

    def statements(self, given: list[Any], names: dict[str, Any], depth: int) -> list[Any]:
        """Statements with macros put in."""
        return [self.node(each, names, depth) for each in given]

    def node(self, one: Any, names: dict[str, Any], depth: int) -> Any:
        """A node with macros put in; ``names``: what variables, maps and names stand for."""
        if isinstance(one, list):
            return [self.node(each, names, depth) for each in one]
        if not isinstance(one, tree.Node):
            return one
        replaced = self._replaced(one, names)
        if replaced is not None:
            return replaced
        if isinstance(one, tree.Call) and one.name in self._names:
            return self._call(one, one.arguments, names, depth)
        if isinstance(one, tree.Name) and (one.name, 0) in self._macros:
            return self._call(one, [], names, depth)
        fields = {
            name: self.node(getattr(one, name), names, depth)
            for name in one.__struct_fields__
            if name != "type" or isinstance(one, tree.Let)
        }
        if isinstance(one, tree.Do):
            inner = fields["expression"]
            if isinstance(inner, tree.BlockValue) and isinstance(inner.value, tree.TupleOf):
                return tree.Block(one.span, inner.statements)
        return type(one)(**fields)

    def _replaced(self, one: tree.Node, names: dict[str, Any]) -> Any:
        if isinstance(one, tree.Name) and one.name in names:
            return names[one.name]
        if isinstance(one, tree.Variable) and names:
            given = names.get(one.name)
            if given is not None:
                return tree.Variable(one.span, given.name)
            return tree.Variable(one.span, f"{one.name}{names['']}")
        if isinstance(one, tree.MapValue) and names:
            given = names.get(one.name)
            if given is None:
                self._problems.add(
                    one.span,
                    f"{one.name} is not among the macro's parameters",
                    f"write it as one: macro NAME({one.name})",
                )
                return None
            keys = None if one.keys is None else self.node(one.keys, names, 0)
            return tree.MapValue(one.span, given.name, keys if keys is not None else given.keys)
        return None

    def _call(
        self, call: tree.Expression, arguments: list[Any], names: dict[str, Any], depth: int
    ) -> Any:
        name = getattr(call, "name", "")
        macro = self._macros.get((name, len(arguments)))
        self._calls += 1
        if depth > MAX_DEPTH or self._calls > MAX_CALLS:
            self._problems.add(
                call.span, f"`{name}` goes round: macros call each other {MAX_DEPTH} deep at most"
            )
            return tree.Number(call.span, 0)
        if macro is None:
            self._problems.add(call.span, f"no macro `{name}` takes {len(arguments)} arguments")
            return tree.Number(call.span, 0)
        inner: dict[str, Any] = {"": f"%{self._calls}"}
        for parameter, given in zip(macro.parameters, arguments, strict=True):
            value = self.node(given, names, depth)
            wanted = {"$": tree.Variable, "@": tree.MapValue}.get(parameter[0])
            if wanted is not None and not isinstance(value, wanted):
                what = "a variable" if parameter[0] == "$" else "a map"
                self._problems.add(given.span, f"`{name}` takes {what} as its {parameter}")
                value = tree.Number(call.span, 0)
                if wanted is not None:
                    return value
            inner[parameter] = value
        statements = self.statements(macro.body, inner, depth + 1)
        if macro.value is None:
            return tree.BlockValue(call.span, statements, tree.TupleOf(call.span, []))
        value = self.node(macro.value, inner, depth + 1)
        return tree.BlockValue(call.span, statements, value) if statements else value
