"""Where arguments are when a function is entered: System V's ABI for x86-64, section 3.2.3.

UnitCode that is not optimized says where its parameters are from behind its first instructions on,
which put them there; a probe at the entry comes before.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from dprobed.binary.dwarf import constants as dw
from dprobed.binary.dwarf.units import DebugEntry
from dprobed.program.types import (
    ArrayType,
    EnumType,
    FloatType,
    IntegerType,
    PointerType,
    StructType,
    Types,
    plain,
    size_of,
)
from dprobed.program.variables import LocationPiece, LocationStep, VariableLocation

#: DWARF's numbers of rdi, rsi, rdx, rcx, r8, r9; of xmm0 to 7; of rsp.
_INTEGERS: Final = (5, 4, 1, 2, 8, 9)
_VECTORS: Final = tuple(range(17, 25))
_RSP: Final = 7
#: The return address is below what is passed on the stack.
_RETURN_ADDRESS: Final = 8
_DEEPEST: Final = 16
#: Values of DW_AT_calling_convention of types; and what a constructor has that nobody wrote.
_PASS_BY_REFERENCE, _PASS_BY_VALUE = 4, 5
_NOT_WRITTEN: Final = frozenset((dw.ARTIFICIAL, dw.DEFAULTED))
_FOLLOWED: Final = (dw.TYPEDEF, dw.CONST_TYPE, dw.VOLATILE_TYPE)
_MOST_ELEMENTS: Final = 16


class _Class:
    """What an eightbyte is passed in: nothing yet, a vector register, an integer's, memory."""

    NOTHING, VECTOR, INTEGER, MEMORY = range(4)


def classes(types: Types, index: int) -> list[int]:
    """The class of each eightbyte of a value; [MEMORY] where it is on the stack."""
    size = size_of(types, index)
    if not 0 < size <= 16:
        return [_Class.MEMORY]
    found = [_Class.NOTHING] * ((size + 7) // 8)
    if not _classify(types, index, 0, found, 0):
        return [_Class.MEMORY]
    return found


def _classify(types: Types, index: int, offset: int, found: list[int], depth: int) -> bool:
    """Merge a part of a value into its eightbytes; false: it is in memory."""
    if depth > _DEEPEST:
        return False
    match plain(types, index):
        case IntegerType(size=size) | EnumType(size=size):
            return _merge(found, offset, size, _Class.INTEGER)
        case PointerType():
            return _merge(found, offset, 8, _Class.INTEGER)
        case FloatType(size=size):
            return size <= 8 and _merge(found, offset, size, _Class.VECTOR)
        case ArrayType(of=of, count=count):
            size = size_of(types, of)
            if count is None or count > _MOST_ELEMENTS:
                return False
            return all(
                _classify(types, of, offset + number * size, found, depth + 1)
                for number in range(count)
            )
        case StructType() as struct:
            if not struct.complete or struct.variants:
                return False
            for member in struct.members:
                if member.virtual:
                    return False
                if member.bits:
                    start = member.offset * 8 + member.bit
                    for bit in (start, start + member.bits - 1):
                        _merge(found, offset + bit // 8, 1, _Class.INTEGER)
                elif not _classify(types, member.type, offset + member.offset, found, depth + 1):
                    return False
            return True
    return False


def _merge(found: list[int], offset: int, size: int, kind: int) -> bool:
    if size < 1 or offset % min(size, 8) or offset + size > 8 * len(found):
        return False  # packed, or damaged: on the stack
    for eightbyte in range(offset // 8, (offset + size + 7) // 8):
        found[eightbyte] = max(found[eightbyte], kind)
    return True


def arguments(
    types: Types, parameters: Sequence[int], result: int, by_reference: Sequence[bool]
) -> list[VariableLocation]:
    """Where each argument is at the entry. ``by_reference``: of the result (first) and of each
    parameter, whether its address is passed, as C++ does with what has a copy constructor."""
    integers, vectors = list(_INTEGERS), list(_VECTORS)
    if by_reference[0] or (size_of(types, result) and _is_memory(types, result)):
        integers.pop(0)  # the address of where the result is to be
    stack = _RETURN_ADDRESS
    found: list[VariableLocation] = []
    for index, referred in zip(parameters, by_reference[1:], strict=True):
        if referred:
            if integers:
                found.append(
                    VariableLocation("memory", (LocationStep("register", integers.pop(0)),))
                )
            else:
                steps = (
                    LocationStep("register", _RSP),
                    LocationStep("plus", stack),
                    LocationStep("load", 8),
                )
                found.append(VariableLocation("memory", steps))
                stack += 8
            continue
        kinds = classes(types, index)
        size = size_of(types, index)
        wanted = kinds.count(_Class.INTEGER), kinds.count(_Class.VECTOR)
        in_memory = kinds == [_Class.MEMORY] or _Class.NOTHING in kinds
        if not in_memory and wanted[0] <= len(integers) and wanted[1] <= len(vectors):
            numbers = [(integers if kind == _Class.INTEGER else vectors).pop(0) for kind in kinds]
            found.append(_registers(numbers, size))
            continue
        if _alignment(types, index) == 16:
            stack = (stack - _RETURN_ADDRESS + 15 & ~15) + _RETURN_ADDRESS
        found.append(
            VariableLocation(
                "memory", (LocationStep("register", _RSP), LocationStep("plus", stack))
            )
        )
        stack += size + 7 & ~7
    return found


def is_by_reference(entry: DebugEntry) -> bool:
    """Whether a value of an entry's type is passed by its address, as C++ does with a class that
    is not copied by its bytes."""
    if entry.unit.language != "c++":
        return False
    where, value = entry.where(dw.TYPE)
    referred = where.referred(value) if value is not None else None
    return referred is not None and _is_copied_by_call(referred, 0)


def _is_copied_by_call(type_entry: DebugEntry, depth: int) -> bool:
    """Whether a type is a class with a copy constructor, move constructor or destructor that
    somebody wrote, or a table of virtual functions; or has a member or base class that is."""
    for _ in range(_DEEPEST):
        if type_entry.tag not in _FOLLOWED and dw.SIGNATURE not in type_entry.attributes:
            break
        key = dw.SIGNATURE if dw.SIGNATURE in type_entry.attributes else dw.TYPE
        referred = type_entry.reference(key)
        if referred is None:
            return False
        type_entry = referred
    if type_entry.tag not in (dw.STRUCTURE_TYPE, dw.CLASS_TYPE) or depth > _DEEPEST:
        return False
    said = type_entry.number(dw.CALLING_CONVENTION, 0)
    if said in (_PASS_BY_REFERENCE, _PASS_BY_VALUE):
        return said == _PASS_BY_REFERENCE
    name = type_entry.text(dw.NAME).partition("<")[0]
    for child in type_entry.children():
        if child.tag == dw.SUBPROGRAM and not child.attributes.keys() & _NOT_WRITTEN:
            called = child.text(dw.NAME)
            if called.startswith("~") or (called == name and _copies(child, type_entry)):
                return True
        elif child.tag == dw.MEMBER and child.text(dw.NAME).startswith("_vptr"):
            return True
        elif child.tag in (dw.MEMBER, dw.INHERITANCE) and dw.EXTERNAL not in child.attributes:
            referred = child.reference(dw.TYPE)
            if referred is not None and _is_copied_by_call(referred, depth + 1):
                return True
    return False


def _copies(constructor: DebugEntry, type_entry: DebugEntry) -> bool:
    """Whether the first parameter behind ``this`` is a reference to the class itself."""
    parameters = [each for each in constructor.children() if each.tag == dw.FORMAL_PARAMETER]
    referred = parameters[1].reference(dw.TYPE) if len(parameters) > 1 else None
    if referred is None or referred.tag not in (dw.REFERENCE_TYPE, dw.RVALUE_REFERENCE_TYPE):
        return False
    for _ in range(_DEEPEST):
        referred = referred.reference(dw.TYPE)
        if referred is None or referred.tag not in _FOLLOWED:
            break
    return referred == type_entry


def _is_memory(types: Types, index: int) -> bool:
    match plain(types, index):
        case FloatType():
            return False  # long double is returned on top of the x87 stack
        case _:
            return classes(types, index) == [_Class.MEMORY]


def _alignment(types: Types, index: int) -> int:
    match plain(types, index):
        case IntegerType(size=16) | FloatType(size=16):
            return 16
        case StructType(members=members):
            return max((_alignment(types, each.type) for each in members[:64]), default=8)
    return 8


def _registers(numbers: list[int], size: int) -> VariableLocation:
    located = [
        VariableLocation("register", (LocationStep("register", number),)) for number in numbers
    ]
    if len(located) == 1:
        return located[0]
    return VariableLocation(
        "pieces",
        pieces=tuple(
            LocationPiece(min(64, 8 * size - 64 * number), 0, each)
            for number, each in enumerate(located)
        ),
    )
