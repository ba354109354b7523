"""Parses expressions, by precedence, and names of types."""

from __future__ import annotations

from typing import Final

from dprobed.program.bt import tree
from dprobed.program.bt.folding import folded
from dprobed.program.bt.lexer import Kind, ScriptToken
from dprobed.program.bt.message_parts import message_parts
from dprobed.program.bt.reader import Broken, TokenReader
from dprobed.program.bt.source import Problems, SourceText, TextSpan
from dprobed.program.bt.text_bytes import decoded, encoded

#: Operators of two operands; the higher the number, the closer they bind.
PRECEDENCE: Final = {
    "||": 1, "&&": 2, "|": 3, "^": 4, "&": 5, "==": 6, "!=": 6, "<": 7, ">": 7, "<=": 7, ">=": 7,
    "<<": 8, ">>": 8, "+": 9, "-": 9, "*": 10, "/": 10, "%": 10,
}  # fmt: skip
#: Names of `#define` that are put into a script, those within each other included.
_MOST_DEFINES: Final = 2000
_UNARY: Final = ("-", "~", "!", "*", "&", "+")


class ExpressionParser(TokenReader):
    """Parses expressions."""

    def expression(self) -> tree.Expression:
        """An expression."""
        self.deeper(self.token.span)
        condition = self._binary(1)
        if self.accept("?"):
            in_predicate = self.in_predicate
            yes = self.expression()
            self.expect(":", "a choice is CONDITION ? YES : NO")
            no = self.expression()
            self.in_predicate = in_predicate
            condition = tree.Choice(condition.span.to(no.span), condition, yes, no)
        self.depth -= 1
        return condition

    def _binary(self, least: int) -> tree.Expression:
        left = self.unary()
        while self.token.kind is Kind.OPERATOR:
            operator = self.token.text
            binds = PRECEDENCE.get(operator, 0)
            if binds < least or (operator == "/" and self._ends_predicate()):
                break
            self.advance()
            right = self._binary(binds + 1)
            left = tree.Binary(left.span.to(right.span), operator, left, right)
        return left

    def _ends_predicate(self) -> bool:
        """Whether a ``/`` is the end of a predicate: a block follows it."""
        return bool(self.in_predicate) and self.peek() in ("{", "")

    def unary(self) -> tree.Expression:
        """An operand, with what stands before and behind it."""
        token = self.token
        if token.kind is Kind.OPERATOR:
            if token.text in ("++", "--"):
                self.advance()
                target = self.unary()
                return tree.Step(token.span.to(target.span), token.text, target, True)
            if token.text in _UNARY:
                self.advance()
                self.deeper(token.span)
                operand = self.unary()
                self.depth -= 1
                if token.text == "+":
                    return operand
                return tree.Unary(token.span.to(operand.span), token.text, operand)
            if token.text == "(" and self._is_type():
                return self._cast()
        return self._behind(self._operand())

    def _is_type(self) -> bool:
        """Whether what stands in the bracket is a type, and the bracket a cast."""
        at, token = self.lexer.at, self.token
        first = self.lexer.next()
        second = self.lexer.next()
        third = self.lexer.next()
        self.lexer.at, self.token = at, token
        if first.kind is not Kind.NAME:
            return False
        if first.text in ("struct", "union", "enum"):
            return True
        if first.text == "typeof":
            return second.text == "("
        if not self.types.is_type(first.text):
            return second.text == "*" and third.text in ("*", ")")
        return second.text in (")", "*", "[") or second.kind is Kind.NAME

    def _cast(self) -> tree.Expression:
        start = self.advance().span
        kind = self.type_name()
        self.expect(")")
        self.deeper(start)
        operand = self.unary()
        self.depth -= 1
        return tree.Cast(start.to(operand.span), kind, operand)

    def type_name_only(self) -> tree.TypeName:
        """The words of a type."""
        start = end = self.token.span
        words: list[str] = []
        while self.token.kind is Kind.NAME:
            word = self.token.text
            tagged = words[-1:] in (["struct"], ["union"], ["enum"])
            if word not in ("const", "volatile"):
                if words and not tagged and not self.types.goes_on([*words, word]):
                    break
                words.append(word)
            end = self.advance().span
        if not words:
            self.fail(f"a type has a name, not {self.shown()}")
        return tree.TypeName(start.to(end), " ".join(words))

    def type_name(self) -> tree.TypeName:
        """A type: words, stars, and an array's counts; or that of something."""
        if self.token.kind is Kind.NAME and self.token.text == "typeof" and self.peek() == "(":
            return self._type_of()
        base = self.type_name_only()
        start, end = base.span, base.span
        pointers = 0
        while self.at("*"):
            end = self.advance().span
            pointers += 1
            while self.token.kind is Kind.NAME and self.token.text in ("const", "volatile"):
                self.advance()
        counts: list[int] = []
        while self.accept("["):
            if self.token.kind is Kind.NUMBER:
                counts.append(self.advance().value)
            else:
                counts.append(0)
            end = self.expect("]").span
        return tree.TypeName(start.to(end), base.name, pointers, tuple(counts))

    def _type_of(self) -> tree.TypeName:
        start = self.advance().span
        self.deeper(start)
        is_type = self._is_type()
        self.advance()
        of = self.type_name() if is_type else self.expression()
        self.depth -= 1
        return tree.TypeName(start.to(self.expect(")").span), "typeof", of=of)

    def constant(self) -> int | None:
        """An expression whose value is known now."""
        return folded(self._binary(1), self.types.constants)

    # -- operands -------------------------------------------------------------------------------

    def _operand(self) -> tree.Expression:
        token = self.token
        kind = token.kind
        if kind is Kind.NUMBER:
            self.advance()
            return tree.Number(token.span, token.value)
        if kind is Kind.TEXT:
            return self._text()
        if kind is Kind.VARIABLE:
            self.advance()
            return tree.Variable(token.span, token.text)
        if kind is Kind.POSITIONAL:
            self.advance()
            number = 0 if token.text == "$#" else int(token.text[1:6])
            return tree.Positional(token.span, -1 if token.text == "$#" else number)
        if kind is Kind.MAP:
            return self._map()
        if kind is Kind.NAME:
            return self._name()
        if self.at("("):
            return self._bracket()
        if not self.at("{"):
            self.fail(f"an expression is missing before {self.shown()}")
        return self._block_value()

    def _text(self) -> tree.Expression:
        token = self.advance()
        text, span = token.text, token.span
        while self.token.kind is Kind.TEXT:
            text, span = text + self.token.text, span.to(self.token.span)
            self.advance()
        return tree.Text(span, decoded(encoded(text)))

    def _map(self) -> tree.Expression:
        token = self.advance()
        if not self.at("["):
            return tree.MapValue(token.span, token.text)
        self.advance()
        in_predicate, self.in_predicate = self.in_predicate, 0
        keys = self._list("]")
        self.in_predicate = in_predicate
        end = self.expect("]").span
        if not keys:
            self.fail_at(end, "a key is missing before `]`")
        if len(keys) == 1 and isinstance(keys[0], tree.TupleOf) and not keys[0].names:
            keys = keys[0].items
        return tree.MapValue(token.span.to(end), token.text, keys)

    def _list(self, end: str) -> list[tree.Expression]:
        found: list[tree.Expression] = []
        while not self.at(end):
            found.append(self.expression())
            if not self.accept(","):
                break
        return found

    def _name(self) -> tree.Expression:
        token = self.advance()
        if token.text in ("true", "false"):
            return tree.Boolean(token.span, token.text == "true")
        if token.text in ("sizeof", "offsetof") and self.at("("):
            return self._size(token.text, token.span)
        if token.text in self.defined and not self.at("("):
            return self._defined(token)
        if not self.at("("):
            # C++ names of variables and enumerators.
            return tree.Name(token.span, token.text)
        self.advance()
        in_predicate, self.in_predicate = self.in_predicate, 0
        arguments = self._list(")")
        self.in_predicate = in_predicate
        end = self.expect(")").span
        if token.text == "log" and len(arguments) == 1 and isinstance(arguments[0], tree.Text):
            arguments += _in_braces(self, arguments[0])
        return tree.Call(token.span.to(end), token.text, arguments)

    def _defined(self, token: ScriptToken) -> tree.Expression:
        """What a `#define` gave a meaning to."""
        self.problems.defines += 1
        if self.problems.defines > _MOST_DEFINES:
            self.fail_at(token.span, f"names are put in more than {_MOST_DEFINES} times")
        source = self.defined[token.text]
        others = {name: each for name, each in self.defined.items() if name != token.text}
        problems = Problems()
        problems.defines = self.problems.defines
        inner = type(self)(source, problems, self.types, others)
        try:
            found = inner.expression()
        except Broken:
            found = None
        self.problems.defines = problems.defines
        if found is None or inner.problems.found or inner.token.kind is not Kind.END:
            self.fail_at(token.span, f"what `{token.text}` is defined as is no expression")
        return relocated(found, token.span)

    def _size(self, name: str, start: TextSpan) -> tree.Expression:
        is_type = self._is_type()
        self.advance()
        of: tree.Expression | tree.TypeName = self.type_name() if is_type else self.expression()
        if name == "sizeof":
            end = self.expect(")").span
            return tree.SizeOf(start.to(end), of)
        self.expect(",")
        path = [self.name("a member")]
        while self.accept("."):
            path.append(self.name("a member"))
        end = self.expect(")").span
        return tree.OffsetOf(start.to(end), of, tuple(path))

    def _bracket(self) -> tree.Expression:
        start = self.advance().span
        in_predicate, self.in_predicate = self.in_predicate, 0
        items: list[tree.Expression] = []
        names: list[str] = []
        comma = False
        while not self.at(")"):
            if self.token.kind is Kind.NAME and self.peek() == "=":
                names.append(self.advance().text)
                self.advance()
            items.append(self.expression())
            comma = self.accept(",")
            if not comma:
                break
        self.in_predicate = in_predicate
        end = self.expect(")").span
        if len(items) == 1 and not comma and not names:
            return items[0]
        if names and len(names) != len(items):
            self.fail_at(start.to(end), "either all fields of a record have names, or none")
        return tree.TupleOf(start.to(end), items, tuple(names))

    def _block_value(self) -> tree.Expression:
        start = self.token.span
        statements, value, end = self.block_or_value()
        if value is None:
            what = "this block has no value: its last statement is no expression"
            self.fail_at(end, what, "leave out the ; behind it")
        return tree.BlockValue(start.to(end), statements, value)

    def block_or_value(self) -> tuple[list[tree.Statement], tree.Expression | None, TextSpan]:
        """A block: statements are the parser's."""
        raise NotImplementedError

    def _behind(self, operand: tree.Expression) -> tree.Expression:
        """What stands behind an operand: members, indexes, ``++``."""
        while self.token.kind is Kind.OPERATOR:
            text, start = self.token.text, operand.span
            if text in (".", "->"):
                self.advance()
                member = self.token
                if member.kind is Kind.NUMBER and member.text.isdecimal():
                    self.advance()
                    operand = tree.Field(start.to(member.span), operand, member.text)
                else:
                    span = member.span
                    operand = tree.Field(start.to(span), operand, self.name("a member"))
            elif text == "[":
                self.advance()
                in_predicate, self.in_predicate = self.in_predicate, 0
                index = self.expression()
                self.in_predicate = in_predicate
                operand = tree.Index(start.to(self.expect("]").span), operand, index)
            elif text in ("++", "--"):
                end = self.advance().span
                operand = tree.Step(start.to(end), text, operand, False)
            else:
                break
        return operand


def relocated(one: tree.Expression, span: TextSpan) -> tree.Expression:
    """An expression that stands somewhere else."""
    for name in one.__struct_fields__:
        value = getattr(one, name)
        for each in value if isinstance(value, list) else [value]:
            if isinstance(each, tree.Expression):
                relocated(each, span)
    one.span = span
    return one


def _in_braces(parser: ExpressionParser, message: tree.Text) -> list[tree.Expression]:
    """The expressions between braces in a message of ``log``."""
    found = []
    for each in message_parts(message, parser.fail_at).values:
        part = each.written
        source = SourceText(message.span.source.name, each.text) if part is None else parser.source
        inner = type(parser)(source, parser.problems, parser.types, parser.defined, part)
        inner.depth = parser.depth
        one = inner.expression()
        if inner.token.kind is not Kind.END:
            inner.fail(f"{inner.shown()} stands behind an expression", "write {EXPRESSION}")
        found.append(one if part is not None else relocated(one, message.span))
    return found
