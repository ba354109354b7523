"""Code of expressions: pushes what an expression is worth.

What a bad address has is 0, or an empty string: as bpftrace has it, and the script goes on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from dprobed.program.builder import Label
from dprobed.program.bt import kinds, tree
from dprobed.program.bt.builtins import emit_argument, emit_name
from dprobed.program.bt.emitter import Emitter
from dprobed.program.bt.folding import folded
from dprobed.program.bt.functions import FUNCTIONS
from dprobed.program.bt.infer import (
    Inference,
    kind_of,
    parameters_of,
    positional_number,
    positional_text,
    size_of,
)
from dprobed.program.bt.kinds import (
    CONSTANT_MARK,
    UINT64,
    Form,
    Integer,
    Kind,
    Object,
    Pointer,
    Short,
    String,
    Tuple,
    is_signed,
    words,
)
from dprobed.program.bt.state import Firing, State, VariableState
from dprobed.program.isa import KEPT_WORDS, WORD_MASK
from dprobed.program.types import ArrayType, Member

_SIGN: Final = 1 << 63


class Code:
    """Makes the code of one probe at one of its places."""

    def __init__(self, state: State, firing: Firing, inference: Inference, to: Emitter) -> None:
        self.state = state
        self.types = state.types
        self.firing = firing
        self.inference = inference
        self.to = to

    # -- helpers --------------------------------------------------------------------------------

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
        _EXPRESSIONS[type(one)](self, one)

    def as_kind(self, one: Any, kind: Kind) -> None:
        """Push a value, as the kind that it and others are."""
        self.expression(one)
        self.convert(kind_of(one), kind)

    def convert(self, have: Kind, want: Kind) -> None:
        """The value on top as another kind."""
        to = self.to
        if have == want:
            return
        if isinstance(want, String) and isinstance(have, String):
            if want.form is Form.EITHER and have.form is Form.CONSTANT:
                to.push(CONSTANT_MARK)
                to.add("xchg")
        elif isinstance(want, Short) and isinstance(have, String):
            # Only a constant becomes a short text: the instruction before pushed its number.
            number = to.ops.pop().operand
            to.depth -= 1
            assert isinstance(number, int)
            self.push_short(self.state.strings[number])
        elif isinstance(want, Tuple) and isinstance(have, Tuple) and words(have) != words(want):
            self.state.problems.add(self.span, "tuples with texts of several kinds do not mix yet")

    def push_short(self, text: str) -> None:
        """A constant as 16 bytes."""
        data = text.encode()[:15].ljust(16, b"\0")
        self.to.push(int.from_bytes(data[8:], "little"))
        self.to.push(int.from_bytes(data[:8], "little"))

    # -- memory ---------------------------------------------------------------------------------

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

    def address(self, one: Any) -> None:
        """Push the address of a member, an element or what a pointer points to."""
        self.span = one.span
        if isinstance(one, tree.Unary) and one.operator == "*":
            self.expression(one.operand)
            return
        kind = kind_of(one.object)
        self.expression(one.object)
        if isinstance(one, tree.Field):
            found = self.inference.member(kind, one.name)
            if found is not None and found[1].offset:
                self.to.push(found[1].offset)
                self.to.add("add")
            return
        self._add_index(kind, one)

    def _add_index(self, kind: Kind, one: tree.Index) -> None:
        """The address of an element; that of the first one is on top."""
        size = self.types.size(self.element(kind))
        number = folded(one.index)
        if number is not None:
            if number:
                self.to.push(number * size)
                self.to.add("add")
            return
        self.expression(one.index)
        if size != 1:
            self.to.push(size)
            self.to.add("mul")
        self.to.add("add")

    def element(self, kind: Kind) -> int:
        """The type of what an array or a pointer has."""
        if isinstance(kind, Pointer):
            return kind.to
        assert isinstance(kind, Object)
        plain = self.types.plain(kind.of)
        return plain.of if isinstance(plain, ArrayType) else -1

    # -- operands -------------------------------------------------------------------------------

    def _number(self, one: tree.Number) -> None:
        self.to.push(one.value)

    def _text(self, one: tree.Text) -> None:
        self.to.push(self.state.string(one.value))

    def _boolean(self, one: tree.Boolean) -> None:
        self.to.push(int(one.value))

    def _name(self, one: tree.Name) -> None:
        known = self.types.constants.get(one.name)
        if known is not None:
            self.to.push(known[0])
        elif one.name in FUNCTIONS:
            call = tree.Call(one.span, one.name, [])
            call.type = one.type
            FUNCTIONS[one.name].emit(self, call)
        else:
            emit_name(self, one)

    def _variable(self, one: tree.Variable) -> None:
        self.load_variable(one.type)

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

    def _map_value(self, one: tree.MapValue) -> None:
        from dprobed.program.bt.code_maps import read_map

        read_map(self, one)

    def _positional(self, one: tree.Positional) -> None:
        number = positional_number(self.state, one.number)
        if number is None:
            number = self.state.string(positional_text(self.state, one.number))
        self.to.push(number)

    # -- operators ------------------------------------------------------------------------------

    def _unary(self, one: tree.Unary) -> None:
        value = folded(one)
        if value is not None:
            self.to.push(value)
            return
        if one.operator == "*":
            kind = kind_of(one.operand)
            self.expression(one.operand)
            if isinstance(kind, Pointer):
                self.load_type(kind.to)
            else:
                self.load(8)
        elif one.operator == "&":
            self._address_of(one)
        elif one.operator == "!":
            self.expression(one.operand)
            self.is_zero()
        elif one.operator == "~":
            self.expression(one.operand)
            self.to.add("neg")
        else:
            self.to.push(0)
            self.expression(one.operand)
            self.to.add("sub")

    def _address_of(self, one: tree.Unary) -> None:
        if isinstance(one.operand, tree.Name):
            self.to.add("push addr,symbol", one.operand.name)
        else:
            self.address(one.operand)

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

    def condition(self, one: Any, no: Label) -> None:
        """Go on if a condition holds, else to ``no`` with one word more on the stack."""
        self.span = one.span
        if isinstance(one, tree.Binary) and one.operator == "&&":
            self.condition(one.left, no)
            self.condition(one.right, no)
            return
        if isinstance(one, tree.Unary) and one.operator == "!" and not folded(one):
            self.expression(one.operand)
            self.to.add("jnz label", no)
            self.to.drop()
            return
        if isinstance(one, tree.Binary) and one.operator in ("==", "!=") and self._plain(one):
            self.expression(one.left)
            value = folded(one.right)
            if value != 0:
                self.expression(one.right)
                self.to.add("xor")
            self.to.add("jnz label" if one.operator == "==" else "jz label", no)
            self.to.drop()
            return
        self.expression(one)
        self.to.add("jz label", no)
        self.to.drop()

    def _plain(self, one: tree.Binary) -> bool:
        """Whether a comparison is of two words."""
        return kinds.is_word(kind_of(one.left)) and kinds.is_word(kind_of(one.right))

    def _binary(self, one: tree.Binary) -> None:
        value = folded(one)
        if value is not None:
            self.to.push(value)
        elif one.operator in ("&&", "||"):
            self._logical(one)
        elif one.operator in ("==", "!=", "<", ">", "<=", ">="):
            self._compare(one)
        else:
            left, right = kind_of(one.left), kind_of(one.right)
            self.expression(one.left)
            self.scaled(one.operator, right, left)
            self.expression(one.right)
            self.scaled(one.operator, left, right)
            self.operate(one.operator, left, right)

    def scaled(self, operator: str, pointer: Kind, number: Kind) -> None:
        """A number that is added to a pointer counts what that points to."""
        if operator in ("+", "-") and isinstance(pointer, Pointer) and kinds.is_number(number):
            size = self.types.size(pointer.to)
            if size != 1:
                self.to.push(size)
                self.to.add("mul")

    def operate(self, operator: str, left: Kind, right: Kind) -> None:
        """An operation on the two words on top."""
        to = self.to
        simple = {"+": "add", "-": "sub", "*": "mul", "&": "and", "|": "or", "^": "xor"}
        if operator in simple:
            to.add(simple[operator])
            if operator == "-" and isinstance(left, Pointer) and isinstance(right, Pointer):
                self.divide("/", self.types.size(left.to) or 1, True)
        elif operator in ("/", "%"):
            signed = self.inference._result(left, right)
            self.divided(operator, signed.signed if isinstance(signed, Integer) else True)
        else:
            self.shift(operator, is_signed(left))

    def divide(self, operator: str, by: int, signed: bool) -> None:
        """The word on top divided by a number."""
        self.to.push(by)
        self.divided(operator, signed)

    def divided(self, operator: str, signed: bool) -> None:
        """A division; by 0 it is 0."""
        to = self.to
        known = to.ops[-1].key == "push word" and to.ops[-1].operand not in (0, None)
        zero, done = to.label(), to.label()
        if not known:
            to.add("jz label", zero)
        to.add("idiv" if signed else "div")
        if operator == "/":
            to.add("xchg")
        to.drop()
        if not known:
            to.add("jmp label", done)
            to.place(zero, to.depth + 1)
            to.drop(2)
            to.push(0)
            to.place(done)

    def shift(self, operator: str, signed: bool) -> None:
        """A shift: of the number below by that on top."""
        to = self.to
        last = to.ops[-1]
        if last.key == "push word" and isinstance(last.operand, int) and last.operand < 64:
            to.ops.pop()
            to.depth -= 1
            bits = last.operand
            if operator == "<<":
                to.add("shl bits", bits)
            elif bits:
                to.add("shr bits", bits)
                if signed:
                    to.add("pbl bit", 64 - bits)
            return
        to.add("xchg")
        if operator == "<<":
            to.add("shl")
        elif not signed:
            to.add("shr")
        else:
            # The complement of one that is below 0 is not, and back.
            self._signed_shift()

    def _signed_shift(self) -> None:
        to = self.to
        to.add("dup count", 1)
        to.add("pbr bit", 64)
        # count, number, mask → mask, count, number ^ mask
        to.add("xchg")
        to.pick(1)
        to.add("xor")
        to.pick(2)
        to.add("xchg")
        to.add("shr")
        to.add("xor")
        to.add("xchg")
        to.drop()

    def _logical(self, one: tree.Binary) -> None:
        to = self.to
        other, done = to.label(), to.label()
        depth = to.depth
        if one.operator == "&&":
            self.condition(one, other)
            to.push(1)
        else:
            # a || b is not (not a and not b).
            self.expression(one.left)
            to.add("jnz label", other)
            to.drop()
            self.expression(one.right)
            to.add("jnz label", other)
            to.drop()
            to.push(0)
        to.add("jmp label", done)
        to.place(other, depth + 1)
        to.drop()
        to.push(0 if one.operator == "&&" else 1)
        to.place(done)

    def _compare(self, one: tree.Binary) -> None:
        left, right = kind_of(one.left), kind_of(one.right)
        if isinstance(left, String | Short):
            from dprobed.program.bt.code_texts import compare_texts

            compare_texts(self, one)
            return
        if isinstance(left, Tuple):
            self._compare_tuples(one, left)
            return
        operator = one.operator
        if operator in ("==", "!="):
            self.expression(one.left)
            self.expression(one.right)
            self.to.add("xor")
            self.is_zero() if operator == "==" else self.is_not_zero()
            return
        first, second = (one.left, one.right) if operator in ("<", ">=") else (one.right, one.left)
        if operator in (">", "<=") and not (pure(one.left) and pure(one.right)):
            self.expression(one.left)
            self.expression(one.right)
            self.to.add("xchg")
        else:
            self.expression(first)
            self.expression(second)
        self.below(self._compares_signed(left, right))
        if operator in (">=", "<="):
            self.to.push(1)
            self.to.add("xor")

    def _compares_signed(self, left: Kind, right: Kind) -> bool:
        if isinstance(left, Pointer) or isinstance(right, Pointer):
            return False
        kind = self.inference._result(left, right)
        return isinstance(kind, Integer) and kind.signed

    def _compare_tuples(self, one: tree.Binary, kind: Tuple) -> None:
        to = self.to
        count = words(kind)
        self.expression(one.left)
        self.expression(one.right)
        # Word by word: all of their differences together.
        to.push(0)
        for number in range(count):
            to.pick(1 + number)
            to.pick(1 + 1 + number + count)
            to.add("xor")
            to.add("or")
        self.is_zero() if one.operator == "==" else self.is_not_zero()
        for _ in range(2 * count):
            to.add("xchg")
            to.drop()

    def _choice(self, one: tree.Choice) -> None:
        to, kind = self.to, one.type
        known = folded(one.condition)
        if known is not None:
            self.as_kind(one.yes if known else one.no, kind)
            return
        no, done = to.label(), to.label()
        depth = to.depth
        self.condition(one.condition, no)
        self.as_kind(one.yes, kind)
        to.add("jmp label", done)
        to.place(no, depth + 1)
        to.drop()
        self.as_kind(one.no, kind)
        to.place(done)

    def _step(self, one: tree.Step) -> None:
        if isinstance(one.target, tree.MapValue):
            from dprobed.program.bt.code_maps import step_map

            step_map(self, one)
            return
        variable: VariableState = one.target.type
        kind = variable.kind
        by = self.types.size(kind.to) if isinstance(kind, Pointer) else 1
        self.load_variable(variable)
        if not one.prefix:
            self.to.add("dup count", 1)
        self.to.push(by)
        self.to.add("add" if one.operator == "++" else "sub")
        if one.prefix:
            self.to.add("dup count", 1)
        self.store_variable(variable)

    # -- others ---------------------------------------------------------------------------------

    def _call(self, one: tree.Call) -> None:
        function = FUNCTIONS.get(one.name)
        if function is not None:
            function.emit(self, one)
        else:
            emit_name(self, tree.Name(one.span, one.name))

    def _field(self, one: tree.Field) -> None:
        if isinstance(one.object, tree.Name) and one.object.name == "args":
            parameters = parameters_of(self.state, self.firing) or ()
            number = next(n for n, each in enumerate(parameters) if each.name == one.name)
            emit_argument(self, number)
            kind = one.type
            if isinstance(kind, Integer):
                self.extend(kind.size, kind.signed)
            return
        kind = kind_of(one.object)
        if isinstance(kind, Tuple):
            number = kind.names.index(one.name) if one.name in kind.names else int(one.name)
            self._item(one.object, kind, number)
            return
        found = self.inference.member(kind, one.name)
        self.expression(one.object)
        if found is not None:
            self.load_member(found[1])

    def _item(self, of: Any, kind: Tuple, number: int) -> None:
        """Push one of the items of a tuple."""
        before = sum(words(each) for each in kind.items[:number])
        count = words(kind.items[number])
        given = self._given(of)
        if given is not None:
            first = given + sum(arguments(each) for each in kind.items[:number])
            self.push_arguments(kind.items[number], first)
            return
        self.expression(of)
        total = words(kind)
        # The first item is on top: drop those, keep these, and drop the rest from below them.
        self.to.drop(before)
        rest = total - before - count
        if rest and count == 1:
            for _ in range(rest):
                self.to.add("xchg")
                self.to.drop()
        elif rest:
            slot = self.to.reserve(count)
            for each in reversed(range(count)):
                self.to.store(slot + each)
            self.to.drop(rest)
            for each in range(count):
                self.to.load(slot + each)

    def _given(self, of: Any) -> int | None:
        """The first argument of a tuple that the body of a loop is given; None: it is no such."""
        if isinstance(of, tree.Variable):
            return 0 if of.type.arguments else None
        if isinstance(of, tree.Field):
            outer = self._given(of.object)
            kind = kind_of(of.object)
            if outer is None or not isinstance(kind, Tuple) or not of.name.isdecimal():
                return None
            return outer + sum(arguments(each) for each in kind.items[: int(of.name)])
        return None

    def _index(self, one: tree.Index) -> None:
        kind = kind_of(one.object)
        if isinstance(kind, Tuple):
            self._item(one.object, kind, self.inference.constant(one.index) or 0)
            return
        self.expression(one.object)
        self._add_index(kind, one)
        self.load_type(self.element(kind))

    def _cast(self, one: tree.Cast) -> None:
        kind, to = kind_of(one.operand), one.type
        self.expression(one.operand)
        if isinstance(kind, Object) and isinstance(to, Integer):
            self.load(to.size)
            self.extend(to.size, to.signed)
        elif isinstance(to, Integer):
            self.extend(to.size, to.signed)
        elif isinstance(to, kinds.Boolean) and not isinstance(kind, kinds.Boolean):
            self.is_not_zero()
        elif isinstance(to, kinds.Enumerator):
            self.extend(self.types.size(to.of), is_signed_type(self, to))

    def _size(self, one: tree.SizeOf | tree.OffsetOf) -> None:
        self.to.push(size_of(self.inference, one) or 0)

    def _tuple(self, one: tree.TupleOf) -> None:
        for item, kind in zip(reversed(one.items), reversed(one.type.items), strict=True):
            self.as_kind(item, kind)

    def _block_value(self, one: tree.BlockValue) -> None:
        self.block(one.statements)
        self.expression(one.value)

    def block(self, statements: list[Any]) -> None:
        """Statements: those are the code of statements'."""
        raise NotImplementedError


def arguments(kind: Kind) -> int:
    """How many arguments of a loop's body a value is."""
    return sum(map(arguments, kind.items)) if isinstance(kind, Tuple) else 1


def is_signed_type(code: Code, kind: Kind) -> bool:
    """Whether a number of this kind can be below 0."""
    if isinstance(kind, kinds.Enumerator):
        return bool(getattr(code.types.plain(kind.of), "signed", False))
    return is_signed(kind)


def pure(one: Any) -> bool:
    """Whether it does not matter when an expression is evaluated."""
    if isinstance(one, tree.Step | tree.Call | tree.BlockValue):
        if isinstance(one, tree.Call):
            return one.name in ("str", "buf", "ustack", "usym", "strftime", "reg", "ntop") and all(
                map(pure, one.arguments)
            )
        return False
    for name in one.__struct_fields__:
        value = getattr(one, name)
        if isinstance(value, tree.Expression) and name != "type" and not pure(value):
            return False
        if isinstance(value, list) and not all(
            pure(each) for each in value if isinstance(each, tree.Expression)
        ):
            return False
    return True


_EXPRESSIONS: Final[dict[type, Callable[[Any, Any], None]]] = {
    tree.Number: Code._number,
    tree.Text: Code._text,
    tree.Boolean: Code._boolean,
    tree.Name: Code._name,
    tree.Variable: Code._variable,
    tree.MapValue: Code._map_value,
    tree.Positional: Code._positional,
    tree.Unary: Code._unary,
    tree.Step: Code._step,
    tree.Binary: Code._binary,
    tree.Choice: Code._choice,
    tree.Call: Code._call,
    tree.Field: Code._field,
    tree.Index: Code._index,
    tree.Cast: Code._cast,
    tree.SizeOf: Code._size,
    tree.OffsetOf: Code._size,
    tree.TupleOf: Code._tuple,
    tree.BlockValue: lambda code, one: code._block_value(one),
}
_ = WORD_MASK
