"""Code that alters the process: registers, arguments, memory."""

from __future__ import annotations

from typing import Any

from dprobed.program.bt import tree
from dprobed.program.bt.builtins import argument_of, argument_register, register
from dprobed.program.bt.code_blocks import BlockCode
from dprobed.program.bt.facts import kind_of
from dprobed.program.bt.kinds import Pointer
from dprobed.program.bt.locations import emit_address, located


class AlteringCode(BlockCode):
    """Code that alters the process."""

    def _alter(self, one: tree.Assign) -> None:
        """A register, an argument or memory of the process."""
        target, to = one.target, self.to

        def value() -> None:
            if one.operator == "=":
                self.expression(one.value)
            else:
                self._combined(one)

        name = self._altered_register(target)
        if name is not None:
            value()
            to.add("pop r,register", name)
            return
        if isinstance(target, tree.Name):
            number = argument_of(target.name)
            if number is not None:
                to.add("push r,register", "rsp")
                to.push(8 * (number - 5))
                to.add("add")
            else:
                emit_address(self, target.name)
            value()
            size = 8 if number is not None else self._variable_size(target.name)
            to.add(f"pop mem,u{8 * size}")
            return
        self.address(target)
        if one.operator == "=":
            self.expression(one.value)
        else:
            # What the address is made of is not evaluated again.
            to.add("dup count", 1)
            self._load_target(target)
            self._combine(one)
        size = self._altered_size(target)
        to.add(f"pop mem,u{8 * size}")

    def _load_target(self, target: Any) -> None:
        """The value of the lvalue whose address is on top."""
        if isinstance(target, tree.Unary):
            kind = kind_of(target.operand)
            index = kind.to if isinstance(kind, Pointer) else None
        else:
            index = self.inference.lvalue_type(target)
        if index is None:
            self.load(8)
        else:
            self.load_type(index)

    def _altered_register(self, target: Any) -> str | None:
        if isinstance(target, tree.Name):
            if target.name == "retval":
                return "rax"
            number = argument_of(target.name)
            return None if number is None or number > 5 else argument_register(self.firing, number)
        if isinstance(target, tree.Call):
            return register(target.arguments[0].value)
        return None

    def _variable_size(self, name: str) -> int:
        """Bytes of a variable of the program."""
        found = located(self.state, self.firing, name)
        size = 8 if found is None else self.types.size(self.types.take(found.type))
        return size if size in (1, 2, 4, 8) else 8

    def _altered_size(self, target: Any) -> int:
        if isinstance(target, tree.Unary):
            kind = kind_of(target.operand)
            return self.types.size(kind.to) if isinstance(kind, Pointer) else 8
        index = self.inference.lvalue_type(target)
        if index is None:
            self.state.problems.add(target.span, "a bit field cannot be set yet")
            return 8
        size = self.types.size(index)
        return size if size in (1, 2, 4, 8) else 8

    def _combined(self, one: tree.Assign) -> None:
        """The target and the value, by an operator."""
        self.expression(one.target)
        self._combine(one)

    def _combine(self, one: tree.Assign) -> None:
        """What the target has been is on top: the value, and the operator."""
        operator = one.operator[:-1]
        left, right = kind_of(one.target), kind_of(one.value)
        self.expression(one.value)
        self.scaled(operator, left, right)
        self.operate(operator, left, right)
