"""Functions and variables as text: with types, and where they are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final

from dprobed.printable import printable
from dprobed.program.types import AliasType, StructType, Types, size_of, type_name
from dprobed.program.variables import (
    FunctionPlace,
    Functions,
    LocationStep,
    SourceFunction,
    SourceVariable,
    VariableLocation,
    Visible,
    register_name,
)

#: Ranges that are named before the rest is only counted.
_MOST_RANGES: Final = 4
_SIGNS: Final = {
    "add": "+", "sub": "-", "mul": "*", "div": "/", "mod": "%", "and": "&", "or": "|", "xor": "^",
    "shl": "<<", "shr": ">>", "sar": ">>", "eq": "==", "ne": "!=", "ge": ">=", "gt": ">",
    "le": "<=", "lt": "<",
}  # fmt: skip


def where(location: VariableLocation) -> str:
    """Where a variable is, in a few words: ``rdi``, ``[rbp-40]``, ``= 5``, ``optimized out``."""
    match location.kind:
        case "memory":
            return f"[{expression(location.steps)}]"
        case "register":
            return register_name(location.steps[0].value)
        case "value":
            return f"= {expression(location.steps)}"
        case "bytes":
            if len(location.data) <= 16:
                return f"= {int.from_bytes(location.data, 'little'):#x}"
            return f"= {len(location.data)} bytes that are known"
        case "pieces":
            parts = (f"{where(each.location)}:{_bits(each.bits)}" for each in location.pieces)
            return " ".join(parts)
        case _:
            return location.reason + _there(location)


def _bits(bits: int) -> str:
    return str(bits // 8) if not bits % 8 else f"{bits} bits"


def _there(location: VariableLocation) -> str:
    ranges = location.there
    if not ranges:
        return ""
    shown = ", ".join(f"{start:#x}..{end:#x}" for start, end in ranges[:_MOST_RANGES])
    more = f" and {len(ranges) - _MOST_RANGES} more" if len(ranges) > _MOST_RANGES else ""
    return f" (it is there at {shown}{more})"


def expression(steps: tuple[LocationStep, ...]) -> str:
    """Steps as a formula; in the order of the machine where they are none."""
    stack: list[str] = []
    try:
        for step in steps:
            _apply(step, stack)
    except IndexError:
        return " ".join(f"{step.op} {step.value}" for step in steps)
    return stack[-1] if stack else ""


def _apply(step: LocationStep, stack: list[str]) -> None:
    op, value = step.op, step.value
    if op == "register":
        stack.append(register_name(value))
    elif op == "constant":
        stack.append(str(value) if abs(value) < 1 << 16 else hex(value))
    elif op == "address":
        stack.append(hex(value))
    elif op == "thread":
        stack.append(f"thread+{value:#x}")
    elif op == "plus":
        stack.append(f"{stack.pop()}{value:+d}")
    elif op in ("load", "load_signed"):
        stack.append(f"[{stack.pop()}]" + ("" if value == 8 else f":{value}"))
    elif op in ("low", "low_signed"):
        stack.append(f"({stack.pop()}):{value} bits")
    elif op == "pick":
        stack.append(stack[-1 - value])
    elif op == "drop":
        stack.pop()
    elif op == "swap":
        stack[-1], stack[-2] = stack[-2], stack[-1]
    elif op == "rotate":
        stack[-1], stack[-2], stack[-3] = stack[-2], stack[-3], stack[-1]
    elif op in _SIGNS:
        second, first = stack.pop(), stack.pop()
        stack.append(f"({first} {_SIGNS[op]} {second})")
    else:
        stack.append(f"{op}({stack.pop()})")


def declaration(types: Types, index: int, name: str) -> str:
    """A variable as it is declared: ``char name[16]``, ``struct point *p``."""
    return type_name(types, index, name)


def signature(function: SourceFunction, types: Types) -> str:
    """A function as it is declared."""
    if "(" in function.name:
        return function.name
    place = function.places[0]
    named = [declaration(types, each.type, each.name) for each in place.parameters]
    named += ["..."] * function.variadic
    return declaration(types, function.result, f"{function.name}({', '.join(named) or 'void'})")


def functions_text(found: Functions, usdt: Iterable[str] = ()) -> Iterator[str]:
    """The lines that tell of functions, each place with its parameters."""
    first = True
    for function in found.functions:
        if not first:
            yield ""
        first = False
        source = f"  {function.file}:{function.line}" if function.file else ""
        yield printable(signature(function, found.types) + source)
        for place in function.places:
            yield printable(f"  {_place(place)}")
            yield from _variables(place.parameters, found.types, "    ")


def _place(place: FunctionPlace) -> str:
    if not place.inlined:
        return f"at {place.address:#x}"
    called = f", called at {place.file}:{place.line}" if place.file else ""
    return f"at {place.address:#x}, inlined into {place.within or '?'}{called}"


def visible_text(visible: Visible) -> Iterator[str]:
    """The lines that tell of what is visible at an address."""
    for number, frame in enumerate(visible.frames):
        source = f"  {frame.file}:{frame.line}" if frame.file else ""
        what = "in" if number == len(visible.frames) - 1 else "inlined:"
        yield printable(f"  {what} {frame.name}{source}")
        own = [each for each in visible.variables if each.frame == number]
        yield from _variables(own, visible.types, "    ")
    outside = [each for each in visible.variables if each.frame < 0]
    if outside:
        yield "  outside of functions"
        yield from _variables(outside, visible.types, "    ")


def _variables(variables: Iterable[SourceVariable], types: Types, margin: str) -> Iterator[str]:
    rows = [(declaration(types, each.type, each.name), where(each.location)) for each in variables]
    width = min(max((len(text) for text, _ in rows), default=0), 40)
    for text, place in rows:
        yield printable(f"{margin}{text:<{width}}  {place}".rstrip())


def variable_row(variable: SourceVariable, types: Types) -> dict[str, Any]:
    """A variable as JSON has it."""
    location = variable.location
    row: dict[str, Any] = {
        "name": variable.name,
        "type": type_name(types, variable.type),
        "size": size_of(types, variable.type),
        "kind": variable.kind,
        "location": where(location) if location.kind != "absent" else None,
    }
    if location.kind == "absent":
        row["reason"] = location.reason
        row["there"] = [[start, end] for start, end in location.there]
    if variable.frame >= 0:
        row |= {"frame": variable.frame, "depth": variable.depth}
    return row


def function_rows(found: Functions) -> list[dict[str, Any]]:
    """Functions as JSON has them: an object for each place."""
    return [
        {
            "place": function.name,
            "symbol": function.symbol,
            "signature": signature(function, found.types),
            "result": type_name(found.types, function.result),
            "source": f"{function.file}:{function.line}" if function.file else "",
            "address": f"{place.address:#x}",
            "inlined": place.inlined,
            "within": place.within,
            "called": f"{place.file}:{place.line}" if place.file else "",
            "arguments": [variable_row(each, found.types) for each in place.parameters],
        }
        for function in found.functions
        for place in function.places
    ]


def visible_row(place: str, visible: Visible) -> dict[str, Any]:
    """What is visible at a place as JSON has it."""
    return {
        "place": place,
        "address": f"{visible.address:#x}",
        "frames": [frame.name for frame in visible.frames],
        "variables": [variable_row(each, visible.types) for each in visible.variables],
    }


def type_text(types: Types, index: int) -> Iterator[str]:
    """The lines that tell of a type: its members with offset and size."""
    found = types[index] if 0 <= index < len(types) else None
    while isinstance(found, AliasType) and 0 <= found.to < len(types):
        yield printable(f"typedef {type_name(types, found.to, found.name)}")
        index, found = found.to, types[found.to]
    yield printable(f"{type_name(types, index)}  {size_of(types, index)} bytes")
    for member in found.members if isinstance(found, StructType) else ():
        bits = f" : {member.bits}" if member.bits else ""
        yield printable(f"  {member.offset:>5}  {type_name(types, member.type, member.name)}{bits}")
