"""Variables of the program, where debug information says they are: their kinds, and the code that
gets them."""

from __future__ import annotations

from typing import Final

from dprobed.program.bt import kinds, tree
from dprobed.program.bt.kinds import UINT64, Float, Kind, Object
from dprobed.program.bt.protocols import Coding, Inferring
from dprobed.program.bt.state import Firing, ScriptState
from dprobed.program.bt.world import ProgramVariable
from dprobed.program.registers import REGISTER_INDEX, REGISTERS
from dprobed.program.variables import LocationStep, register_name

#: What is not computed at a hit.
_REFUSED: Final = frozenset(("thread", "truncate", "to_float", "rotate", "absolute"))
_SIMPLE: Final = {
    "add": "add", "sub": "sub", "mul": "mul", "and": "and", "or": "or", "xor": "xor",
    "not": "neg",
}  # fmt: skip
_COMPARED: Final = {
    "lt": (False, False), "gt": (True, False), "ge": (False, True), "le": (True, True),
}  # fmt: skip


def located(state: ScriptState, firing: Firing, name: str) -> ProgramVariable | None:
    """A variable of the program at a place; None: there is none."""
    if not firing.hit or not firing.module or firing.static or firing.watch:
        return None
    if name not in firing.variables:
        firing.variables[name] = state.world.variable(firing.module, firing.place, name)
    return firing.variables[name]


def variable_kind(inference: Inferring, one: tree.Name) -> Kind | None:
    """The kind of a variable of the program; None: there is none."""
    found = located(inference.state, inference.firing, one.name)
    if found is None:
        return None
    where, types = found.location, inference.types
    index = types.take(found.type)
    kind = kinds.of_type(types, index)
    if kind is None:
        return inference.wrong(one.span, f"`{one.name}` has no value that can be read")
    if where.kind == "absent":
        places = ", ".join(f"{low:#x} to {high:#x}" for low, high in where.there[:4])
        hint = f"it is there from {places}" if places else ""
        return inference.wrong(one.span, f"`{one.name}` is not there: {where.reason}", hint)
    if inference.firing.returns:
        return inference.wrong(
            one.span, f"`{one.name}` is gone at the return", "keep it at the entry, in a map by tid"
        )
    odd = next((step.op for step in where.steps if step.op in _REFUSED), None)
    if where.kind == "pieces" or odd is not None:
        return inference.wrong(one.span, f"where `{one.name}` is cannot be computed at a hit yet")
    if where.kind == "bytes" and isinstance(kind, Object):
        return inference.wrong(one.span, f"`{one.name}` is nowhere in memory")
    if where.kind != "memory" and isinstance(kind, Object):
        return inference.wrong(
            one.span,
            f"`{one.name}` is in a register, as a whole",
            "only its parts in memory can be looked at yet",
        )
    if any(step.op == "address" for step in where.steps) and (
        inference.state.world.anchor(inference.firing.module) is None
    ):
        return inference.wrong(one.span, f"where `{one.name}` is in the process is not known")
    return kind


def emit_variable(code: Coding, one: tree.Name) -> bool:
    """Push a variable of the program; whether there is one."""
    found = located(code.state, code.firing, one.name)
    if found is None:
        return False
    where, types = found.location, code.types
    index = types.take(found.type)
    kind = kinds.of_type(types, index) or UINT64
    if where.kind == "bytes":
        code.to.push(int.from_bytes(where.data[:8], "little"))
        return True
    for step in where.steps:
        _step(code, step)
    if where.kind == "memory":
        code.load_type(index)
        return True
    size = types.size(index)
    if size < 8 and not isinstance(kind, Float):
        signed = isinstance(kind, kinds.Integer) and kind.signed
        code.to.add("pbl bit" if signed else "pzl bit", 8 * size)
    return True


def emit_address(code: Coding, name: str) -> bool:
    """Push the address of a variable of the program; whether it has one."""
    found = located(code.state, code.firing, name)
    if found is None or found.location.kind != "memory":
        return False
    for step in found.location.steps:
        _step(code, step)
    return True


def _step(code: Coding, step: LocationStep) -> None:
    to, op, value = code.to, step.op, step.value
    if op == "constant":
        to.push(value)
    elif op == "register":
        _register(code, value)
    elif op == "address":
        symbol, at = code.state.world.anchor(code.firing.module) or ("", 0)
        to.add("push addr,symbol", symbol)
        if value != at:
            to.push(value - at)
            to.add("add")
    elif op in ("load", "load_signed"):
        code.load(value)
        if value < 8 and op == "load_signed":
            to.add("pbl bit", 8 * value)
    elif op in ("low", "low_signed"):
        if value < 64:
            to.add("pzl bit" if op == "low" else "pbl bit", value)
    elif op == "plus":
        to.push(value)
        to.add("add")
    elif op == "pick":
        to.pick(value)
    elif op == "drop":
        to.drop()
    elif op == "swap":
        to.add("xchg")
    else:
        _operation(code, op)


def _operation(code: Coding, op: str) -> None:
    to = code.to
    if op in _SIMPLE:
        to.add(_SIMPLE[op])
    elif op == "negate":
        to.add("neg")
        to.push(1)
        to.add("add")
    elif op in ("eq", "ne"):
        to.add("xor")
        if op == "eq":
            code.is_zero()
        else:
            code.is_not_zero()
    elif op in _COMPARED:
        swapped, opposite = _COMPARED[op]
        if swapped:
            to.add("xchg")
        code.below(True)
        if opposite:
            to.push(1)
            to.add("xor")
    else:
        operator = {"div": "/", "mod": "%", "shl": "<<", "shr": ">>", "sar": ">>"}[op]
        kind = kinds.INT64 if op in ("div", "sar") else UINT64
        code.operate(operator, kind, kind)


def _register(code: Coding, number: int) -> None:
    name = register_name(number)
    code.to.add("push r,register", name)
    if REGISTERS[REGISTER_INDEX[name]].words == 2:
        # The low word is on top.
        code.to.add("xchg")
        code.to.drop()
