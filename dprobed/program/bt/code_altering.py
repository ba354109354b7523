"""Code that alters the process: registers, arguments, memory."""

from __future__ import annotations

from typing import Any

from dprobed.program.bt import tree
from dprobed.program.bt.builtins import ARGUMENT_REGISTERS, register
from dprobed.program.bt.code_blocks import BlockCode
from dprobed.program.bt.facts import kind_of
from dprobed.program.bt.kinds import Pointer


class AlteringCode(BlockCode):
    """Code that alters the process."""

    def _alter(self, one: tree.Assign) -> None:
        """A register, an argument or memory of the process."""
        target, to = one.target, self.to
        self.state.alters = True

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
            number = int(target.name[3:])
            to.add("push r,register", "rsp")
            to.push(8 * (number - 5))
            to.add("add")
            value()
            to.add("pop mem,u64")
            return
        self.address(target)
        value()
        size = self._altered_size(target)
        to.add(f"pop mem,u{8 * size}")

    def _altered_register(self, target: Any) -> str | None:
        if isinstance(target, tree.Name):
            if target.name == "retval":
                return "rax"
            number = int(target.name[3:]) if target.name[3:].isdecimal() else 99
            return ARGUMENT_REGISTERS[number] if number < 6 else None
        if isinstance(target, tree.Call):
            return register(target.arguments[0].value)
        return None

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
        operator = one.operator[:-1]
        left, right = kind_of(one.target), kind_of(one.value)
        self.expression(one.target)
        self.expression(one.value)
        self.scaled(operator, left, right)
        self.operate(operator, left, right)
