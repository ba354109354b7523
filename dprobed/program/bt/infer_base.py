"""Variables and maps of a script while their kinds are found."""

from __future__ import annotations

from typing import Any

from dprobed.program.bt import kinds, tree
from dprobed.program.bt.kinds import (
    LITERAL,
    Bytes,
    Form,
    Kind,
    Object,
    String,
)
from dprobed.program.bt.source import TextSpan
from dprobed.program.bt.state import Firing, MapState, ScriptState, VariableState
from dprobed.program.maps import MAX_VALUE_WORDS


class Scopes:
    """Names of one probe, and what is known of them."""

    def __init__(self, state: ScriptState, firing: Firing) -> None:
        self.state = state
        self.types = state.types
        self.firing = firing
        self.scopes: list[dict[str, VariableState]] = [{}]
        self.variables: list[VariableState] = []
        self.loops = 0

    # -- saying what is wrong -------------------------------------------------------------------

    def wrong(self, span: TextSpan, message: str, hint: str = "") -> Kind:
        """Something is wrong here; a kind to go on with."""
        self.state.problems.add(span, message, hint)
        return LITERAL

    def shown(self, kind: Kind) -> str:
        """The name of a kind."""
        return kinds.shown(self.types, kind)

    # -- variables and maps ---------------------------------------------------------------------

    def declare(self, node: tree.Variable) -> VariableState:
        """A new variable in the innermost scope."""
        variable = VariableState(node.name)
        self.scopes[-1][node.name] = variable
        self.variables.append(variable)
        node.type = variable
        return variable

    def lookup(self, name: str) -> VariableState | None:
        """The variable that a name is."""
        for scope in reversed(self.scopes):
            if name in scope:
                return scope[name]
        return None

    def known_kinds(self) -> list[Kind | None]:
        """Of all variables that there are here."""
        return [each.kind for scope in self.scopes for each in scope.values()]

    def set_variable(self, node: tree.Variable, kind: Kind) -> None:
        """A variable is given a value of a kind; a new one, if there is none of this name."""
        variable = self.lookup(node.name) or self.declare(node)
        self.assign_variable(variable, kind, node.span)
        node.type = variable

    def assign_variable(self, variable: VariableState, kind: Kind, span: TextSpan) -> None:
        """A variable is given a value of a kind."""
        if variable.arguments:
            self.wrong(span, f"{variable.name} is what the loop is at, and cannot be set")
            return
        if isinstance(kind, kinds.Void):
            self.wrong(span, "this has no value")
            return
        common = kinds.met(variable.kind, kind)
        if common is None:
            assert variable.kind is not None
            self.wrong(
                span,
                f"{variable.name} is {self.shown(variable.kind)}, and cannot be "
                f"{self.shown(kind)} as well",
                "use another variable",
            )
            return
        variable.kind = common

    def map(self, node: tree.MapValue) -> MapState:
        """A map, at keys that are looked at here."""
        known = self.state.map(node.name, node.span)
        node.type = known
        given = tuple(self.expression(each) for each in node.keys or ())
        if len(given) == 1 and isinstance(given[0], kinds.Tuple) and not given[0].names:
            # The items of a tuple are those of the key, as where it is written there.
            given = given[0].items
        given = tuple(
            String(Form.TARGET, each.size) if isinstance(each, kinds.HeldText) else each
            for each in given
        )
        self.keys(known, given, node.span, node.keys)
        return known

    def keys(
        self, known: MapState, given: tuple[Kind, ...], span: TextSpan, nodes: list[Any] | None
    ) -> None:
        """A map is used with keys of these kinds."""
        if self.firing.hit:
            known.in_hits = True
        else:
            known.in_blocks = True
        for kind, node in zip(given, nodes or (), strict=False):
            if isinstance(kind, Bytes | Object | kinds.Void):
                self.wrong(
                    node.span,
                    f"{self.shown(kind)} cannot be a key",
                    "use str(), a number or a member",
                )
                return
        if known.keys is None:
            known.keys = given
            self.state.changed = True
            return
        if len(known.keys) != len(given):
            have = f"{len(known.keys)} keys" if known.keys else "no key"
            self.wrong(span, f"{known.name} has {have}, not {len(given)}")
            return
        common = []
        for old, new in zip(known.keys, given, strict=True):
            both = self._key_kind(old, new)
            if both is None:
                self.wrong(
                    span,
                    f"a key of {known.name} is {self.shown(old)}, and cannot be "
                    f"{self.shown(new)} as well",
                )
                return
            common.append(both)
        if tuple(common) != known.keys:
            known.keys = tuple(common)
            self.state.changed = True

    def _key_kind(self, old: Kind, new: Kind) -> Kind | None:
        """What two kinds of keys are together: the parts of a map hold texts of all kinds."""
        if isinstance(old, String | kinds.Short) and isinstance(new, String | kinds.Short):
            if isinstance(old, kinds.Short) and isinstance(new, kinds.Short):
                return old
            forms = {getattr(each, "form", None) for each in (old, new)}
            return kinds.met(old, new) if len(forms) == 1 else String(Form.EITHER, 1024)
        return kinds.met(old, new)

    def assign_map(self, known: MapState, kind: Kind, span: TextSpan) -> None:
        """A map is given a value of a kind."""
        if not kinds.can_be_kept(kind):
            self.wrong(
                span,
                f"{known.name} cannot keep {self.shown(kind)} yet",
                "keep numbers, pointers, texts and tuples of these",
            )
            return
        common = kinds.met(known.value, kinds.kept(kind))
        if common is not None and kinds.words(common) > MAX_VALUE_WORDS:
            self.wrong(
                span,
                f"{known.name} has {kinds.words(common)} words of eight bytes at each key; "
                f"{MAX_VALUE_WORDS} are possible",
                "keep shorter texts: str(ADDRESS, LENGTH)",
            )
            return
        if common is None:
            assert known.value is not None
            self.wrong(
                span,
                f"{known.name} has {self.shown(known.value)}, and cannot have "
                f"{self.shown(kind)} as well",
            )
            return
        if common != known.value:
            known.value = common
            self.state.changed = True

    def written_kind(self, name: tree.TypeName) -> Kind | None:
        """The kind of a type as written; None: it has no values, or is a text."""
        if name.of is not None:
            given = name.of
            kind = (
                self.written_kind(given)
                if isinstance(given, tree.TypeName)
                else self.expression(given)
            )
            if isinstance(kind, kinds.TEXTS):
                return None
            return kinds.INT64 if kind == LITERAL else kind
        if name.name == "string" and not name.pointers:
            return None
        index = self.types.written(name)
        if index is None:
            self.wrong(
                name.span,
                f"there is no type `{name.name}`",
                "declare it in the script, or use debug information that has it",
            )
            return None
        kind = kinds.of_type(self.types, index)
        if kind is None:
            self.wrong(name.span, f"`{name.span.text}` has no values")
        return kind

    def expression(self, one: Any) -> Kind:
        """The kind of an expression, which it keeps."""
        raise NotImplementedError

    def constant(self, one: Any) -> int | None:
        """The number that an expression is before the script runs."""
        raise NotImplementedError

    def statement(self, one: Any) -> None:
        """One statement."""
        raise NotImplementedError

    def body(self, statements: list[Any]) -> None:
        """Statements of a block, in its own scope."""
        raise NotImplementedError
