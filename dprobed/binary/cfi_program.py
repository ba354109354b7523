"""The instructions of call frame information: run, they make the rows of a function, each with the
rule by which the caller's registers are found from an address on (DWARF 5, section 6.4.2)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple, TypeAlias

from dprobed.binary.leb128 import sleb, uleb

#: DWARF's numbers of rbp, rsp and the return address; no other registers than 0 to 16 are kept.
RBP, RSP, RETURN = 6, 7, 16

_LONGEST_EXPRESSION: Final = 128
_MOST_KEPT: Final = 64

#: Where the CFA is: as in ``Rule``.
Cfa: TypeAlias = tuple[int, int, bytes]
INITIAL_CFA: Final[Cfa] = (RSP, 8, b"")


class How(NamedTuple):
    """Where a register of the caller is. ``kind``: one of the constants below."""

    register: int
    kind: int
    value: int = 0
    expression: bytes = b""


#: Kinds: nowhere; in memory at CFA + value; the number CFA + value; in a register; in memory at
#: what an expression computes; what it computes.
UNDEFINED, OFFSET, VALUE, REGISTER, AT, COMPUTED = range(1, 7)


class Rule(NamedTuple):
    """How to find the caller's frame. The CFA is a register and a number, or, where
    ``cfa_register`` is -1, what an expression computes; ``registers``: those that are not as they
    were; ``signal``: the frame is of an interrupted place."""

    cfa_register: int
    cfa_offset: int
    cfa_expression: bytes
    registers: tuple[How, ...]
    return_register: int
    signal: bool


#: A rule, and how far behind the start of the code it begins.
Row: TypeAlias = tuple[int, Rule]


class Cie(NamedTuple):
    """What the entries of several functions have in common; ``cfa`` and ``registers``: with what
    their instructions begin."""

    code_factor: int
    data_factor: int
    return_register: int
    encoding: int
    augmented: bool
    signal: bool
    cfa: Cfa
    registers: dict[int, How]


class DamagedError(Exception):
    """An entry that cannot be decoded: the code has no CFI then."""


class CfiProgram:
    """The instructions in ``data`` from ``at`` to ``end``, for an entry of this CIE.

    What is read beyond the end of the data raises IndexError.
    """

    def __init__(self, data: bytes, at: int, end: int, cie: Cie) -> None:
        self.cfa: Cfa = cie.cfa
        self.registers: dict[int, How] = dict(cie.registers)
        self._data = data
        self._at = at
        self._end = end
        self._cie = cie
        self._where = 0
        self._rows: list[Row] = []
        self._kept: list[tuple[Cfa, dict[int, How]]] = []

    def rows(self) -> list[Row]:
        """Run them; the rows that they make. Raises DamagedError and IndexError."""
        while self._at < self._end:
            op = self._data[self._at]
            self._at += 1
            # Three instructions have their operand in themselves.
            high, low = op & 0xC0, op & 0x3F
            if high == 0x40:
                self._advance(low)
            elif high == 0x80:
                self._keep(low, OFFSET, self._unsigned() * self._cie.data_factor)
            elif high:
                self._restore(low)
            else:
                handler = _HANDLERS.get(low)
                if handler is None:  # set_loc, which no compiler writes, and unknown ones
                    raise DamagedError
                handler(self)
        if self._at > self._end or self.cfa[0] > RETURN or abs(self.cfa[1]) >= 1 << 31:
            raise DamagedError
        self._end_row()
        return self._rows

    # -- operands ------------------------------------------------------------------------------

    def _unsigned(self) -> int:
        value, self._at = uleb(self._data, self._at)
        return value

    def _signed(self) -> int:
        value, self._at = sleb(self._data, self._at)
        return value

    def _expression(self) -> bytes:
        size = self._unsigned()
        begin, self._at = self._at, self._at + size
        if size > _LONGEST_EXPRESSION or self._at > self._end:
            raise DamagedError
        return self._data[begin : self._at]

    # -- what several do -----------------------------------------------------------------------

    def _end_row(self) -> None:
        """The rule holds from where the latest row ends."""
        cie = self._cie
        made = Rule(
            *self.cfa, tuple(sorted(self.registers.values())), cie.return_register, cie.signal
        )
        if self._rows and self._rows[-1][0] == self._where:
            self._rows[-1] = self._where, made
        else:
            self._rows.append((self._where, made))

    def _advance(self, units: int) -> None:
        self._end_row()
        self._where += units * self._cie.code_factor
        if self._where >= 1 << 32:
            raise DamagedError

    def _keep(self, register: int, kind: int, value: int = 0, expression: bytes = b"") -> None:
        if register <= RETURN:
            self.registers[register] = How(register, kind, value, expression)

    def _restore(self, register: int) -> None:
        initial = self._cie.registers.get(register)
        if initial is None:
            self.registers.pop(register, None)
        else:
            self.registers[register] = initial

    # -- instructions, by the names that DWARF gives them ----------------------------------------

    def nop(self) -> None:
        """Nothing."""

    def advance_loc1(self) -> None:
        """The row ends so many units behind its start: one byte."""
        self._advance_by(1)

    def advance_loc2(self) -> None:
        """The same: two bytes."""
        self._advance_by(2)

    def advance_loc4(self) -> None:
        """The same: four bytes."""
        self._advance_by(4)

    def _advance_by(self, size: int) -> None:
        units = int.from_bytes(self._data[self._at : self._at + size], "little")
        self._at += size
        self._advance(units)

    def def_cfa(self) -> None:
        """The CFA is a register and a number."""
        self.cfa = self._unsigned(), self._unsigned(), b""

    def def_cfa_sf(self) -> None:
        """The same, signed and in units."""
        self.cfa = self._unsigned(), self._signed() * self._cie.data_factor, b""

    def def_cfa_register(self) -> None:
        """Another register, the same number."""
        self.cfa = self._unsigned(), self.cfa[1], b""

    def def_cfa_offset(self) -> None:
        """Another number."""
        self.cfa = self.cfa[0], self._unsigned(), b""

    def def_cfa_offset_sf(self) -> None:
        """The same, signed and in units."""
        self.cfa = self.cfa[0], self._signed() * self._cie.data_factor, b""

    def def_cfa_expression(self) -> None:
        """The CFA is what an expression computes."""
        self.cfa = -1, 0, self._expression()

    def remember_state(self) -> None:
        """Keep all of the rule."""
        self._kept.append((self.cfa, dict(self.registers)))
        if len(self._kept) > _MOST_KEPT:
            raise DamagedError

    def restore_state(self) -> None:
        """Have again what was kept last."""
        if not self._kept:
            raise DamagedError
        self.cfa, self.registers = self._kept.pop()

    def offset_extended(self) -> None:
        """A register is in memory, so many units from the CFA."""
        self._keep(self._unsigned(), OFFSET, self._unsigned() * self._cie.data_factor)

    def offset_extended_sf(self) -> None:
        """The same, signed."""
        self._keep(self._unsigned(), OFFSET, self._signed() * self._cie.data_factor)

    def gnu_negative_offset_extended(self) -> None:
        """The same, the other way."""
        self._keep(self._unsigned(), OFFSET, -self._unsigned() * self._cie.data_factor)

    def val_offset(self) -> None:
        """A register is so many units from the CFA."""
        self._keep(self._unsigned(), VALUE, self._unsigned() * self._cie.data_factor)

    def val_offset_sf(self) -> None:
        """The same, signed."""
        self._keep(self._unsigned(), VALUE, self._signed() * self._cie.data_factor)

    def restore_extended(self) -> None:
        """A register is found as at the beginning."""
        self._restore(self._unsigned())

    def undefined(self) -> None:
        """A register is lost."""
        self._keep(self._unsigned(), UNDEFINED)

    def same_value(self) -> None:
        """A register is as it was."""
        self.registers.pop(self._unsigned(), None)

    def register(self) -> None:
        """A register is in another one."""
        self._keep(self._unsigned(), REGISTER, self._unsigned())

    def expression(self) -> None:
        """A register is in memory where an expression says."""
        self._keep(self._unsigned(), AT, 0, self._expression())

    def val_expression(self) -> None:
        """A register is what an expression computes."""
        self._keep(self._unsigned(), COMPUTED, 0, self._expression())

    def gnu_args_size(self) -> None:
        """How many bytes arguments take, which nobody needs."""
        self._unsigned()


_HANDLERS: Final[dict[int, Callable[[CfiProgram], None]]] = {
    0x00: CfiProgram.nop,
    0x02: CfiProgram.advance_loc1,
    0x03: CfiProgram.advance_loc2,
    0x04: CfiProgram.advance_loc4,
    0x05: CfiProgram.offset_extended,
    0x06: CfiProgram.restore_extended,
    0x07: CfiProgram.undefined,
    0x08: CfiProgram.same_value,
    0x09: CfiProgram.register,
    0x0A: CfiProgram.remember_state,
    0x0B: CfiProgram.restore_state,
    0x0C: CfiProgram.def_cfa,
    0x0D: CfiProgram.def_cfa_register,
    0x0E: CfiProgram.def_cfa_offset,
    0x0F: CfiProgram.def_cfa_expression,
    0x10: CfiProgram.expression,
    0x11: CfiProgram.offset_extended_sf,
    0x12: CfiProgram.def_cfa_sf,
    0x13: CfiProgram.def_cfa_offset_sf,
    0x14: CfiProgram.val_offset,
    0x15: CfiProgram.val_offset_sf,
    0x16: CfiProgram.val_expression,
    0x2E: CfiProgram.gnu_args_size,
    0x2F: CfiProgram.gnu_negative_offset_extended,
}
