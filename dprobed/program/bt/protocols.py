"""What functions and builtins see of the two passes that ask them: inference, and code."""

from __future__ import annotations

from typing import Any, Protocol

from dprobed.program.bt import tree
from dprobed.program.bt.emitter import Emitter
from dprobed.program.bt.kinds import Kind
from dprobed.program.bt.source import TextSpan
from dprobed.program.bt.state import Firing, MapState, ScriptState, VariableState
from dprobed.program.bt.type_table import TypeTable
from dprobed.program.builder import Label
from dprobed.program.types import Member


class Inferring(Protocol):
    """Inference of one probe."""

    state: ScriptState
    types: TypeTable
    firing: Firing

    def wrong(self, span: TextSpan, message: str, hint: str = "") -> Kind:
        """Something is wrong there; a kind to go on with."""
        ...

    def shown(self, kind: Kind) -> str:
        """The name of a kind."""
        ...

    def expression(self, one: Any) -> Kind:
        """The kind of an expression."""
        ...

    def condition(self, one: Any) -> None:
        """Look at something that is true or not."""
        ...

    def constant(self, one: Any) -> int | None:
        """The number that an expression is before the script runs."""
        ...

    def map(self, node: tree.MapValue) -> MapState:
        """A map at keys."""
        ...

    def set_variable(self, node: tree.Variable, kind: Kind) -> None:
        """A variable is given a value of a kind."""
        ...

    def member(self, kind: Kind, name: str) -> tuple[int, Member] | None:
        """The struct that a kind is or points to, and one of its members."""
        ...

    def result(self, left: Kind, right: Kind) -> Kind:
        """The kind of what arithmetic makes of two numbers."""
        ...


class Coding(Protocol):
    """Code of one probe."""

    state: ScriptState
    types: TypeTable
    firing: Firing
    to: Emitter
    span: TextSpan

    @property
    def inference(self) -> Inferring:
        """What found the kinds."""
        ...

    def kept(self, what: object) -> None:
        """Push what the entry part keeps."""
        ...

    def expression(self, one: Any) -> None:
        """Push a value."""
        ...

    def as_kind(self, one: Any, kind: Kind) -> None:
        """Push a value as another kind."""
        ...

    def store_variable(self, variable: VariableState) -> None:
        """Pop a variable."""
        ...

    def load(self, size: int) -> None:
        """The number at the address on top."""
        ...

    def load_type(self, index: int) -> None:
        """The value of a C type at the address on top."""
        ...

    def is_zero(self) -> None:
        """1 if the word on top is 0, else 0."""
        ...

    def is_not_zero(self) -> None:
        """0 if the word on top is 0, else 1."""
        ...

    def below(self, signed: bool) -> None:
        """1 if NOS is below TOS, else 0."""
        ...

    def least(self, most: int) -> None:
        """The lesser of the number on top and this one."""
        ...

    def condition(self, one: Any, no: Label) -> None:
        """Go on if a condition holds."""
        ...

    def scaled(self, operator: str, pointer: Kind, number: Kind) -> None:
        """A number that is added to a pointer counts what that points to."""
        ...

    def operate(self, operator: str, left: Kind, right: Kind) -> None:
        """An operation on the two words on top."""
        ...

    def leave(self) -> None:
        """Go to the end of the probe."""
        ...

    def end_by(self, key: str, operand: str | None) -> None:
        """End by an instruction."""
        ...

    def done_here(self, span: TextSpan) -> None:
        """In a block: what was logged is done before it goes on."""
        ...

    def fetched(self, one: tree.MapValue, has: bool = False) -> None:
        """Push what was fetched of a map."""
        ...

    def measured(self, one: tree.MapValue) -> None:
        """Push how many keys a map has."""
        ...
