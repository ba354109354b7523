"""What all code is made with: values in their forms, memory, variables."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, Final

from dprobed.program.bt import kinds, tree
from dprobed.program.bt.code_held import hold, taken
from dprobed.program.bt.emitter import Emitter
from dprobed.program.bt.facts import (
    kind_of,
)
from dprobed.program.bt.infer import Inference
from dprobed.program.bt.kinds import (
    CONSTANT_MARK,
    TEXTS,
    UINT64,
    Form,
    HeldText,
    Kind,
    Object,
    Pointer,
    Short,
    String,
    Tuple,
    is_signed,
    words,
)
from dprobed.program.bt.source import SourceText, TextSpan
from dprobed.program.bt.state import Firing, ScriptState, VariableState
from dprobed.program.bt.text_bytes import encoded
from dprobed.program.builder import Label
from dprobed.program.isa import KEPT_WORDS
from dprobed.program.types import ArrayType, Member

_SIGN: Final = 1 << 63


class CodeBase(ABC):
    """Makes the code of one probe at one of its places."""

    #: By the type of an expression: its code.
    emits: ClassVar[dict[type, Callable[[Any, Any], None]]] = {}

    def __init__(
        self, state: ScriptState, firing: Firing, inference: Inference, to: Emitter
    ) -> None:
        self.state = state
        self.types = state.types
        self.firing = firing
        self.inference = inference
        self.to = to
        self.span: TextSpan = TextSpan(SourceText("", ""), 0, 0)

    def kept(self, what: object) -> None:
        """Push what the entry part keeps for the return: an argument's number or `time`."""
        keeps = self.firing.keeps
        if what not in keeps:
            if len(keeps) >= KEPT_WORDS:
                self.state.problems.add(
                    self.span, f"a return can look at {KEPT_WORDS} things of its entry at most"
                )
                self.to.push(0)
                return
            keeps.append(what)
        self.to.add("push e,kept", keeps.index(what))

    def expression(self, one: Any) -> None:
        """Push a value."""
        self.span = one.span
        self.to.at = one.span.place
        self.emits[type(one)](self, one)

    def as_kind(self, one: Any, kind: Kind) -> None:
        """Push a value, as the kind that it and others are."""
        if isinstance(one, tree.TupleOf) and isinstance(kind, Tuple):
            self.tuple_as(one, kind)
        elif isinstance(one, tree.Choice):
            self.choice_as(one, kind)
        else:
            self.expression(one)
            self.convert(kind_of(one), kind)

    def convert(self, have: Kind, want: Kind) -> None:
        """The value on top as another kind."""
        to = self.to
        if have == want:
            return
        if isinstance(want, HeldText):
            hold(self, have, want.size)
        elif isinstance(want, String) and isinstance(have, String):
            if want.form is Form.EITHER and have.form is Form.CONSTANT:
                to.push(CONSTANT_MARK)
                to.add("xchg")
        elif isinstance(want, Short) and isinstance(have, String):
            # Only a constant becomes a short text: the instruction before pushed its number.
            number = to.ops.pop().operand
            to.depth -= 1
            assert isinstance(number, int)
            self.push_short(self.state.strings[number])
        elif isinstance(want, Tuple) and isinstance(have, Tuple):
            self._convert_tuple(have, want)

    def _convert_tuple(self, have: Tuple, want: Tuple) -> None:
        """The tuple on top with its items as other kinds."""
        pairs = list(zip(have.items, want.items, strict=True))
        if all(one == other or not _changes(one, other) for one, other in pairs):
            return
        slots = [taken(self, words(one)) for one, _ in pairs]
        for (one, other), its in zip(reversed(pairs), reversed(slots), strict=True):
            for slot in reversed(its):
                self.to.load(slot)
            self.to.give_back(its)
            self.convert(one, other)

    def push_short(self, text: str) -> None:
        """A constant as 16 bytes."""
        data = encoded(text)[:15].ljust(16, b"\0")
        self.to.push(int.from_bytes(data[8:], "little"))
        self.to.push(int.from_bytes(data[:8], "little"))

    def load(self, size: int) -> None:
        """The number at the address on top, 0 where it cannot be read."""
        to = self.to
        bad, done = to.label(), to.label()
        to.add("dup count", 1)
        to.add("vfy r")
        to.add("jnz label", bad)
        to.drop()
        to.add(f"push mem,u{8 * size}")
        to.add("jmp label", done)
        to.place(bad, to.depth + 1)
        to.drop(2)
        to.push(0)
        to.place(done)

    def extend(self, size: int, signed: bool) -> None:
        """The low bytes of the word on top, as a number."""
        if size < 8:
            self.to.add("pbl bit" if signed else "pzl bit", 8 * size)

    def load_type(self, index: int) -> None:
        """The value of a C type at the address on top."""
        kind = kinds.of_type(self.types, index)
        if kind is None or isinstance(kind, Object):
            return
        size = self.types.size(index)
        self.load(size)
        if size < 8 and is_signed_type(self, kind):
            self.extend(size, True)

    def load_member(self, member: Member) -> None:
        """The value of a member; the address of its struct is on top."""
        if member.offset:
            self.to.push(member.offset)
            self.to.add("add")
        if not member.bits:
            self.load_type(member.type)
            return
        size = next(n for n in (1, 2, 4, 8, 16) if 8 * n >= member.bit + member.bits)
        self.load(min(size, 8))
        if member.bit:
            self.to.add("shr bits", member.bit)
        if member.bits < 64:
            kind = kinds.of_type(self.types, member.type)
            signed = kind is not None and is_signed_type(self, kind)
            self.to.add("pbl bit" if signed else "pzl bit", member.bits)

    def element(self, kind: Kind) -> int:
        """The type of what an array or a pointer has."""
        if isinstance(kind, Pointer):
            return kind.to
        assert isinstance(kind, Object)
        plain = self.types.plain(kind.of)
        return plain.of if isinstance(plain, ArrayType) else -1

    def load_variable(self, variable: VariableState) -> None:
        """Push a variable."""
        if variable.arguments:
            self.push_arguments(variable.kind or UINT64, 0)
            return
        slot = self.slot(variable)
        for number in range(words(variable.kind or UINT64)):
            self.to.load(slot + number)

    def push_arguments(self, kind: Kind, first: int) -> None:
        """Push what the body of a loop is given: each string, too, is one argument."""
        if isinstance(kind, Tuple):
            counts = [arguments(each) for each in kind.items]
            for number in reversed(range(len(counts))):
                self.push_arguments(kind.items[number], first + sum(counts[:number]))
            return
        if isinstance(kind, String):
            self.to.push(kind.most)
        self.to.add("push a,argument", first)

    def store_variable(self, variable: VariableState) -> None:
        """Pop a variable."""
        slot = self.slot(variable)
        for number in reversed(range(words(variable.kind or UINT64))):
            self.to.store(slot + number)

    def slot(self, variable: VariableState) -> int:
        """The first word of a variable."""
        if variable.slot is None:
            variable.slot = self.to.reserve(max(1, words(variable.kind or UINT64)))
        return variable.slot

    def is_zero(self) -> None:
        """1 if the word on top is 0, else 0."""
        self.is_not_zero()
        self.to.push(1)
        self.to.add("xor")

    def is_not_zero(self) -> None:
        """0 if the word on top is 0, else 1: the sign of the number or of its opposite."""
        to = self.to
        to.add("dup count", 1)
        to.push(0)
        to.add("xchg")
        to.add("sub")
        to.add("or")
        to.add("shr bits", 63)

    def below(self, signed: bool) -> None:
        """1 if NOS is below TOS, else 0: the sign of what is borrowed."""
        to = self.to
        if signed:
            to.push(_SIGN)
            to.add("xor")
            to.add("xchg")
            to.push(_SIGN)
            to.add("xor")
            to.add("xchg")
        # a b: (~a & b) | (~(a ^ b) & (a - b)), its highest bit.
        to.pick(1)
        to.add("neg")
        to.pick(1)
        to.add("and")
        to.pick(2)
        to.pick(2)
        to.add("xor")
        to.add("neg")
        to.pick(3)
        to.pick(3)
        to.add("sub")
        to.add("and")
        to.add("or")
        to.add("shr bits", 63)
        to.add("xchg")
        to.drop()
        to.add("xchg")
        to.drop()

    # -- what is made elsewhere ---------------------------------------------------------------

    @abstractmethod
    def tuple_as(self, one: tree.TupleOf, kind: Tuple) -> None:
        """A tuple with items of these kinds."""

    @abstractmethod
    def choice_as(self, one: tree.Choice, kind: Kind) -> None:
        """One of two values, as this kind."""

    @abstractmethod
    def block(self, statements: list[Any]) -> None:
        """Statements, one after the other."""

    @abstractmethod
    def condition(self, one: Any, no: Label) -> None:
        """Go on if a condition holds, else to ``no`` with one word more on the stack."""

    @abstractmethod
    def scaled(self, operator: str, pointer: Kind, number: Kind) -> None:
        """A number that is added to a pointer counts what that points to."""

    @abstractmethod
    def operate(self, operator: str, left: Kind, right: Kind) -> None:
        """An operation on the two words on top."""

    @abstractmethod
    def leave(self) -> None:
        """Go to the end."""

    @abstractmethod
    def end_by(self, key: str, operand: str | None) -> None:
        """End by an instruction that hands the record over."""

    @abstractmethod
    def least(self, most: int) -> None:
        """The lesser of the number on top and this one."""

    @abstractmethod
    def done_here(self, span: TextSpan) -> None:
        """In a block: what was logged is done before it goes on."""

    @abstractmethod
    def fetched(self, one: tree.MapValue, has: bool = False) -> None:
        """Push what was fetched of a map."""

    @abstractmethod
    def measured(self, one: tree.MapValue) -> None:
        """Push how many keys a map has."""


def _changes(have: Kind, want: Kind) -> bool:
    """Whether a value of one kind is other words as one of the other kind."""
    texts = isinstance(have, TEXTS) and isinstance(want, TEXTS)
    return texts or isinstance(have, Tuple)


def arguments(kind: Kind) -> int:
    """How many arguments of a loop's body a value is."""
    return sum(map(arguments, kind.items)) if isinstance(kind, Tuple) else 1


def is_signed_type(code: CodeBase, kind: Kind) -> bool:
    """Whether a number of this kind can be below 0."""
    if isinstance(kind, kinds.Enumerator):
        return bool(getattr(code.types.plain(kind.of), "signed", False))
    return is_signed(kind)
