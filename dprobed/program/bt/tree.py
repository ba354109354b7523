"""The tree of a script: what the parser makes, and what all later passes look at.

Expressions keep what inference says of them in ``type``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from dprobed.program.bt.source import TextSpan


class Node(msgspec.Struct, eq=False):
    """Anything that stands somewhere."""

    span: TextSpan


class TypeName(Node, eq=False):
    """A type as written: ``struct a *``, ``uint8[4]``. ``name``: with its keyword (``struct a``);
    ``pointers``: stars behind it; ``counts``: of its array's dimensions (0: not said). ``of``: what
    ``typeof()`` is given, else None."""

    name: str
    pointers: int = 0
    counts: tuple[int, ...] = ()
    of: Any = None


class Expression(Node, eq=False, kw_only=True):
    """Something that has a value; ``type``: of it, once it is known."""

    type: Any = None


class Number(Expression, eq=False):
    """A number."""

    value: int


class Text(Expression, eq=False):
    """A string."""

    value: str


class Boolean(Expression, eq=False):
    """``true`` or ``false``."""

    value: bool


class Name(Expression, eq=False):
    """A builtin, a constant or a variable of the program (``pid``, ``ENOENT``)."""

    name: str


class Variable(Expression, eq=False):
    """A variable of the script, with its ``$``."""

    name: str


class MapValue(Expression, eq=False):
    """A map, with its ``@``; ``keys`` None: without brackets."""

    name: str
    keys: list[Any] | None = None


class Positional(Expression, eq=False):
    """``$1``; 0: ``$#``."""

    number: int


class Unary(Expression, eq=False):
    """``-x ~x !x *x &x``."""

    operator: str
    operand: Any


class Step(Expression, eq=False):
    """``x++``, ``--x``."""

    operator: str
    target: Any
    prefix: bool


class Binary(Expression, eq=False):
    """Two operands."""

    operator: str
    left: Any
    right: Any


class Choice(Expression, eq=False):
    """``condition ? yes : no``."""

    condition: Any
    yes: Any
    no: Any


class Call(Expression, eq=False):
    """A function."""

    name: str
    arguments: list[Any]


class Field(Expression, eq=False):
    """``x.name``, ``x->name``, ``x.0``."""

    object: Any
    name: str


class Index(Expression, eq=False):
    """``x[i]``."""

    object: Any
    index: Any


class Cast(Expression, eq=False):
    """``(type)x``."""

    to: TypeName
    operand: Any


class SizeOf(Expression, eq=False):
    """``sizeof(type)``, ``sizeof(x)``; ``value``: once it is known."""

    of: Any
    value: int = 0


class OffsetOf(Expression, eq=False):
    """``offsetof(type, a.b)``; ``value``: once it is known."""

    of: Any
    path: tuple[str, ...]
    value: int = 0


class TupleOf(Expression, eq=False):
    """``(a, b)``; ``names``: of a record's fields."""

    items: list[Any]
    names: tuple[str, ...] = ()


class BlockValue(Expression, eq=False):
    """``{ …; x }``."""

    statements: list[Any]
    value: Any


class Statement(Node, eq=False):
    """Something that is done."""


class Do(Statement, eq=False):
    """An expression, for what it does."""

    expression: Any


class Assign(Statement, eq=False):
    """``target = value``, ``target += value``."""

    target: Any
    operator: str
    value: Any


class Let(Statement, eq=False):
    """``let $x``, ``let $x: type = value``."""

    variable: Variable
    type: TypeName | None = None
    value: Any = None


class If(Statement, eq=False):
    """``if`` and what is done else."""

    condition: Any
    yes: list[Any]
    no: list[Any]


class While(Statement, eq=False):
    """A loop."""

    condition: Any
    body: list[Any]


class ForRange(Statement, eq=False):
    """``for ($i : low..high)``."""

    variable: Variable
    low: Any
    high: Any
    body: list[Any]


class ForMap(Statement, eq=False):
    """``for ($kv : @map)``."""

    variable: Variable
    map: MapValue
    body: list[Any]


class Unroll(Statement, eq=False):
    """So many times."""

    count: Any
    body: list[Any]


class Jump(Statement, eq=False):
    """``break``, ``continue``."""

    kind: str


class Return(Statement, eq=False):
    """``return``."""

    value: Any = None


class Block(Statement, eq=False):
    """``{ … }``."""

    statements: list[Any]


class Place(Node, eq=False):
    """A place as written: its parts between colons. ``quoted``: which of them were in quotes."""

    text: str
    parts: tuple[str, ...]
    quoted: tuple[bool, ...] = ()


class Probe(Node, eq=False):
    """Places, a predicate and what is done."""

    places: list[Place]
    predicate: Any
    body: list[Any]


class Macro(Node, eq=False):
    """``macro name(a, $b, @c) { … }``: ``parameters`` as written."""

    name: str
    parameters: tuple[str, ...]
    body: list[Any]
    value: Any = None


class MapDeclaration(Node, eq=False):
    """``let @x = lruhash(10);``"""

    name: str
    kind: str
    size: int


class Setting(Node, eq=False):
    """A line of a config block."""

    name: str
    value: str


class Import(Node, eq=False):
    """``import "file"``."""

    path: str


class Script(msgspec.Struct, eq=False):
    """A whole script; C declarations are in the table of types, which the parser fills."""

    probes: list[Probe] = []
    macros: list[Macro] = []
    maps: list[MapDeclaration] = []
    settings: list[Setting] = []
    imports: list[Import] = []


def nodes(one: Any) -> Iterator[Any]:
    """A node and all below it; of lists, those of each."""
    if isinstance(one, list):
        for each in one:
            yield from nodes(each)
    elif isinstance(one, Node):
        for name in one.__struct_fields__:
            if name not in ("span", "type"):
                yield from nodes(getattr(one, name))
        yield one
