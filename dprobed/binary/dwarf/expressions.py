"""Location expressions (DWARF 5, section 2.5 and 2.6) → steps for the machine of
``program.variables``. What depends on the frame is resolved for one place.

What no step does is said as a location that is absent, with the reason: a value that only the
caller knows (DW_OP_entry_value), branches, calls, decimal and floating arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NoReturn

from dprobed.binary.dwarf import constants as dw
from dprobed.binary.dwarf.units import DebugUnit
from dprobed.binary.errors import LocationError
from dprobed.binary.leb128 import sleb, uleb
from dprobed.program.variables import LocationPiece, LocationStep, VariableLocation

#: Steps of one expression; and how far expressions are within each other.
_MOST_STEPS: Final = 512
_DEEPEST: Final = 4

_SIMPLE: Final = {
    0x13: "drop", 0x16: "swap", 0x17: "rotate", 0x19: "absolute", 0x1A: "and", 0x1B: "div",
    0x1C: "sub", 0x1D: "mod", 0x1E: "mul", 0x1F: "negate", 0x20: "not", 0x21: "or", 0x22: "add",
    0x24: "shl", 0x25: "shr", 0x26: "sar", 0x27: "xor", 0x29: "eq", 0x2A: "ge", 0x2B: "gt",
    0x2C: "le", 0x2D: "lt", 0x2E: "ne",
}  # fmt: skip
#: Opcodes of fixed numbers: bytes, signed.
_NUMBERS: Final = {
    0x08: (1, False), 0x09: (1, True), 0x0A: (2, False), 0x0B: (2, True), 0x0C: (4, False),
    0x0D: (4, True), 0x0E: (8, False), 0x0F: (8, True),
}  # fmt: skip

#: Operations that a floating number may be the operand of: its value, a conversion.
_OF_FLOATS: Final = frozenset((0x96, 0x9F, 0xA8, 0xF7, 0xA9, 0xF9))
#: The last register that is a word.
_LAST_INTEGER: Final = 16

OPTIMIZED_OUT: Final = "optimized out"
_ENTRY: Final = "only the caller knows it: it is what was passed, which is kept nowhere"


class _Unsayable(Exception):
    """An expression that has no steps; the text says why."""


class FramePlace:
    """The place for which expressions are resolved: what they need to know of it.

    ``frame_base``: of the function; ``cfa``: of the frame; ``entry``: whether it is the function's
    first instruction, where what was passed is still where it was put.
    """

    def __init__(
        self,
        address: int,
        cfa: Callable[[], tuple[LocationStep, ...] | None],
        frame_base: Callable[[], VariableLocation | None],
        *,
        entry: bool = False,
    ) -> None:
        self.address = address
        self.cfa = cfa
        self.frame_base = frame_base
        self.entry = entry


def absent(reason: str, there: tuple[tuple[int, int], ...] = ()) -> VariableLocation:
    """A location that cannot be told."""
    return VariableLocation("absent", reason=reason, there=there)


def location(expression: bytes, unit: DebugUnit, place: FramePlace) -> VariableLocation:
    """Where an expression says that a variable is; raises LocationError where it is damaged."""
    try:
        return _Reader(expression, unit, place).whole()
    except _Unsayable as error:
        return absent(str(error))
    except IndexError as error:
        raise unit.debug.damaged("the location of a variable") from error


def steps_of(
    expression: bytes, unit: DebugUnit, place: FramePlace
) -> tuple[LocationStep, ...] | None:
    """The steps of an expression that computes a word; None where there are none."""
    try:
        found = _Reader(expression, unit, place).whole()
    except _Unsayable:
        return None
    except IndexError as error:
        raise unit.debug.damaged("an expression") from error
    return found.steps if found.kind == "memory" else None


class _Reader:
    """Reads one expression."""

    def __init__(self, data: bytes, unit: DebugUnit, place: FramePlace, depth: int = 0) -> None:
        self._data = data
        self._unit = unit
        self._place = place
        self._depth = depth
        #: Bytes of the floating number that is the last word; 0: it is an integer.
        self._float = 0
        self.steps: list[LocationStep] = []
        #: Of what is read so far: where it is, if that is said.
        self._found: VariableLocation | None = None
        if depth > _DEEPEST:
            raise _Unsayable("its location refers to itself")

    def whole(self) -> VariableLocation:
        """The location; raises _Unsayable, IndexError."""
        pieces: list[LocationPiece] = []
        at = 0
        while at < len(self._data):
            op = self._data[at]
            at += 1
            if op in (0x93, 0x9D):
                bits, bit, at = self._piece(op, at)
                pieces.append(LocationPiece(bits, bit, self._here()))
                self.steps, self._found = [], None
                continue
            if op == 0xF0:  # GNU_uninit: it has no value yet, but that is its place
                continue
            if self._found is not None:
                raise _Unsayable("its location is of a form that is not known here")
            at = self._operation(op, at)
            if len(self.steps) > _MOST_STEPS or len(pieces) > _MOST_STEPS:
                raise _Unsayable("its location is too long")
        return VariableLocation("pieces", pieces=tuple(pieces)) if pieces else self._here()

    def _here(self) -> VariableLocation:
        if self._found is not None:
            return self._found
        if not self.steps:
            return absent(OPTIMIZED_OUT)
        return VariableLocation("memory", tuple(self.steps))

    def _piece(self, op: int, at: int) -> tuple[int, int, int]:
        size, at = uleb(self._data, at)
        if op == 0x93:
            return size * 8, 0, at
        bit, at = uleb(self._data, at)
        return size, bit, at

    def _push(self, op: str, value: int = 0) -> None:
        self.steps.append(LocationStep(op, value))

    def _operation(self, op: int, at: int) -> int:
        data = self._data
        if self._float and op not in _OF_FLOATS:
            self._refuse(op)  # arithmetic of floating numbers
        if op in _SIMPLE:
            self._push(_SIMPLE[op])
        elif op in _NUMBERS or op in (0x03, 0x10, 0x11, 0xA1, 0xFB, 0xA2, 0xFC):
            at = self._number(op, at)
        elif 0x30 <= op <= 0x4F:
            self._push("constant", op - 0x30)
        elif 0x50 <= op <= 0x6F:
            self._found = VariableLocation("register", (LocationStep("register", op - 0x50),))
        elif op == 0x90:
            number, at = uleb(data, at)
            self._found = VariableLocation("register", (LocationStep("register", number),))
        elif 0x70 <= op <= 0x8F or op == 0x92:
            number = op - 0x70
            if op == 0x92:
                number, at = uleb(data, at)
            offset, at = sleb(data, at)
            self._push("register", number)
            self._plus(offset)
        elif op == 0x91:
            offset, at = sleb(data, at)
            self._frame_base()
            self._plus(offset)
        elif op == 0x9C:
            self.steps += self._cfa()
        elif op == 0x12:
            self._push("pick", 0)
        elif op == 0x14:
            self._push("pick", 1)
        elif op == 0x15:
            self._push("pick", self._bytes(at, 1)[0])
            at += 1
        elif op == 0x06:
            self._push("load", 8)
        elif op == 0x94:
            self._push("load", self._size(self._bytes(at, 1)[0]))
            at += 1
        elif op == 0x23:
            number, at = uleb(data, at)
            self._plus(number)
        elif op == 0x96:
            pass
        elif op == 0x9F:
            self._value()
        elif op == 0x9E:
            size, at = uleb(data, at)
            self._found = VariableLocation("bytes", data=self._bytes(at, size))
            at += size
        elif op in (0x9B, 0xE0):
            self._thread()
        elif op in (0xA3, 0xF3):
            at = self._entry_value(at)
        else:
            at = self._typed(op, at)
        return at

    def _number(self, op: int, at: int) -> int:
        """Push a number or an address that is written there."""
        data = self._data
        if op in _NUMBERS:
            size, is_signed = _NUMBERS[op]
            raw = self._bytes(at, size)
            self._push("constant", int.from_bytes(raw, "little", signed=is_signed))
            return at + size
        if op == 0x03:
            self._push("address", int.from_bytes(self._bytes(at, 8), "little"))
            return at + 8
        number, at = sleb(data, at) if op == 0x11 else uleb(data, at)
        if op in (0xA1, 0xFB):
            self._push("address", self._unit.address(number))
        elif op in (0xA2, 0xFC):
            self._push("constant", self._unit.address(number))
        else:
            self._push("constant", number)
        return at

    def _bytes(self, at: int, size: int) -> bytes:
        raw = self._data[at : at + size]
        if len(raw) < size:
            raise IndexError
        return raw

    def _plus(self, offset: int) -> None:
        if self.steps and self.steps[-1].op == "plus":
            offset += self.steps.pop().value
        if offset:
            self._push("plus", offset)

    @staticmethod
    def _size(size: int) -> int:
        if size not in (1, 2, 4, 8):
            raise _Unsayable(f"its location needs a load of {size} bytes")
        return size

    def _value(self) -> None:
        """DW_OP_stack_value: what was computed is the value."""
        if not self.steps:
            raise IndexError
        self._found = VariableLocation("value", tuple(self.steps))

    def _frame_base(self) -> None:
        base = self._place.frame_base()
        if base is None:
            raise _Unsayable("its function does not say where its frame is")
        if base.kind == "absent":
            raise _Unsayable(base.reason)
        self.steps += base.steps

    def _cfa(self) -> tuple[LocationStep, ...]:
        found = self._place.cfa()
        if found is None:
            raise _Unsayable("nothing says where the frame is (no unwinding information)")
        return found

    def _thread(self) -> None:
        """The word on the stack becomes the address of so much into the thread's data."""
        last = self.steps.pop() if self.steps else None
        if last is None or last.op not in ("constant", "address"):
            raise _Unsayable("it is thread-local in a way that is not known here")
        self._push("thread", last.value)

    def _entry_value(self, at: int) -> int:
        """What a register had when the function was entered: still the same at the entry."""
        size, at = uleb(self._data, at)
        inner = self._bytes(at, size)
        if not self._place.entry:
            raise _Unsayable(_ENTRY)
        found = _Reader(inner, self._unit, self._place, self._depth + 1).whole()
        if found.kind not in ("register", "memory"):
            raise _Unsayable(_ENTRY)
        self.steps += found.steps
        return at + size

    # -- values with a type ----------------------------------------------------------------------

    def _typed(self, op: int, at: int) -> int:
        data = self._data
        if op in (0xA8, 0xF7):  # convert
            offset, at = uleb(data, at)
            self._convert(offset)
        elif op in (0xA9, 0xF9):  # reinterpret
            offset, at = uleb(data, at)
            self._float = 0
            if offset:
                self._typed_word(*self._base_type(offset))
        elif op in (0xA5, 0xF5):  # regval_type
            number, at = uleb(data, at)
            offset, at = uleb(data, at)
            self._push("register", number)
            self._typed_word(*self._base_type(offset))
        elif op in (0xA6, 0xF6):  # deref_type
            size = self._size(self._bytes(at, 1)[0])
            offset, at = uleb(data, at + 1)
            _, is_signed, is_float = self._base_type(offset)
            self._push("load_signed" if is_signed else "load", size)
            self._float = size if is_float else 0
        elif op in (0xA4, 0xF4):  # const_type
            offset, at = uleb(data, at)
            size = self._bytes(at, 1)[0]
            raw = self._bytes(at + 1, size)
            _, is_signed, is_float = self._base_type(offset)
            self._push("constant", int.from_bytes(raw, "little", signed=is_signed))
            self._float = size if is_float else 0
            at += 1 + size
        elif op == 0xFA:  # GNU_parameter_ref, of a parameter that the function does not use
            raise _Unsayable(_ENTRY)
        elif op in (0xA0, 0xF2):
            raise _Unsayable("it is a pointer to what is not in memory")
        else:
            self._refuse(op)
        return at

    @staticmethod
    def _refuse(op: int = 0) -> NoReturn:
        what = f" (DW_OP {op:#x})" if op else ""
        raise _Unsayable(f"its location is computed in a way that is not known here{what}")

    def _convert(self, offset: int) -> None:
        """DW_OP_convert: to a type, or (0) to that of addresses, which words have."""
        bits, is_signed, is_float = self._base_type(offset) if offset else (64, False, False)
        if is_float:
            if self._float and self._float != bits // 8:
                self._refuse()
            if not self._float:
                self._push("to_float", bits // 8)
            self._float = bits // 8
            return
        if self._float:
            self._push("truncate", self._float)
        self._typed_word(bits, is_signed, is_float)

    def _typed_word(self, bits: int, is_signed: bool, is_float: bool) -> None:
        """The word's low bits are a value of a type."""
        self._float = bits // 8 if is_float else 0
        last = self.steps[-1]
        if bits < 64 or (last.op == "register" and last.value > _LAST_INTEGER):
            self._push("low_signed" if is_signed and bits < 64 else "low", bits)

    def _base_type(self, offset: int) -> tuple[int, bool, bool]:
        """Of a type of numbers of the unit: its bits, whether it is signed, or floating."""
        try:
            entry = self._unit.entry_at(self._unit.header.start + offset)
        except LocationError:
            raise IndexError from None
        encoding = entry.number(dw.ENCODING, 0)
        size = entry.number(dw.BYTE_SIZE, 0)
        if entry.tag != dw.BASE_TYPE or encoding not in (2, 4, 5, 6, 7, 8, 0x10):
            self._refuse()
        if not 0 < size <= 8 or (encoding == 4 and size < 4):
            self._refuse()
        return size * 8, encoding in (5, 6), encoding == 4
