"""Where a function returns, as its code tells.

All of its bytes are looked at, one instruction after the other. Where it jumps out of itself, to a
part that the compiler has put elsewhere or to another function that returns in its place, that code
is followed, too. Who comes to a return of another function without having come by this one's entry
is known by its frame. What goes on by a pointer cannot be followed, unless it is a ``switch``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from iced_x86 import Decoder, FlowControl, Instruction, Mnemonic, OpKind, Register

#: Instructions that are followed outside of the function, and returns, at most.
_MOST_FOLLOWED: Final = 2000
_MOST_EXITS: Final = 128
#: Bytes of a function at most.
_MOST_BYTES: Final = 1 << 16
#: Bytes that are looked at at once.
_PIECE: Final = 256
_BRANCHES: Final = (FlowControl.UNCONDITIONAL_BRANCH, FlowControl.CONDITIONAL_BRANCH)
_ENDS: Final = (
    FlowControl.UNCONDITIONAL_BRANCH,
    FlowControl.INDIRECT_BRANCH,
    FlowControl.RETURN,
    FlowControl.EXCEPTION,
)
_RETURNS: Final = (Mnemonic.RET,)
#: How functions are aligned, and what is put between them for that.
_ALIGN: Final = 16
_FILL: Final = (Mnemonic.NOP, Mnemonic.INT3)

#: Bytes at an address, as many as are there.
Text = Callable[[int, int], bytes]


class Exit(NamedTuple):
    """By what a function returns: where that is, and how many bytes behind it are never run."""

    address: int
    free: int


class ExitsError(ValueError):
    """It cannot be told where a function returns."""


def exits_of(text: Text, start: int, size: int) -> tuple[Exit, ...]:
    """The instructions by which a function of ``size`` bytes returns; raises ExitsError. ``text``:
    its code, and its tables."""
    if not size:
        raise ExitsError("the size of the function is not known")
    code = text(start, size) if size <= _MOST_BYTES else b""
    if len(code) < size:
        raise ExitsError(f"the function has {size} bytes, which cannot all be looked at")
    search = _Search(text, start, start + size)
    search.sweep(code)
    search.follow()
    if not search.found:
        raise ExitsError("the function has no return")
    if len(search.found) > _MOST_EXITS:
        raise ExitsError(f"the function returns at more than {_MOST_EXITS} places")
    end = start + size
    free = _padding(text, end)
    return tuple(
        Exit(each, free if behind == end else 0) for each, behind in sorted(search.found.items())
    )


def _padding(text: Text, end: int) -> int:
    """Bytes behind the end of a function that only align what follows."""
    size = -end % _ALIGN
    code = text(end, size)
    fills = all(
        each.mnemonic in _FILL and each.next_ip <= end + size for each in Decoder(64, code, ip=end)
    )
    return size if len(code) == size and fills else 0


class _Search:
    def __init__(self, text: Text, start: int, end: int) -> None:
        #: Where returns are, and where they end.
        self.found: Final[dict[int, int]] = {}
        self._text: Final = text
        self._start: Final = start
        self._end: Final = end
        self._left: Final[list[int]] = []
        self._seen: Final[set[int]] = set()

    def sweep(self, code: bytes) -> None:
        """Look at all of the function."""
        before: Instruction | None = None
        for instruction in Decoder(64, code, ip=self._start):
            if instruction.is_invalid:
                raise ExitsError(f"at {instruction.ip:#x} the function is no code")
            if instruction.flow_control == FlowControl.INDIRECT_BRANCH:
                if not self._is_table(instruction, before):
                    raise _by_pointer(instruction)
            else:
                self._look(instruction)
            before = instruction.copy()

    def follow(self) -> None:
        """Look at what it jumps to elsewhere."""
        while self._left:
            at = self._left.pop()
            while at:
                at = self._follow(at)

    def _follow(self, at: int) -> int:
        """Look at code from there on; where it goes on, 0: nowhere."""
        behind = 0
        for instruction in Decoder(64, self._text(at, _PIECE), ip=at):
            if instruction.is_invalid:
                # It is cut off, unless it is the first.
                return instruction.ip if instruction.ip != at else 0
            if instruction.ip in self._seen or self._start <= instruction.ip < self._end:
                return 0
            self._seen.add(instruction.ip)
            if len(self._seen) > _MOST_FOLLOWED:
                raise ExitsError("the function goes on in too much code elsewhere")
            if instruction.flow_control == FlowControl.INDIRECT_BRANCH:
                raise _by_pointer(instruction)
            self._look(instruction)
            if instruction.flow_control in _ENDS:
                return 0
            behind = instruction.next_ip
        return behind

    def _look(self, instruction: Instruction) -> None:
        flow = instruction.flow_control
        if flow == FlowControl.RETURN:
            if instruction.mnemonic not in _RETURNS:
                raise ExitsError(f"at {instruction.ip:#x} it returns to another segment")
            self.found[instruction.ip] = instruction.next_ip
        elif flow in _BRANCHES:
            target = instruction.near_branch_target
            if target == self._start:
                raise ExitsError(
                    f"at {instruction.ip:#x} it calls itself by a jump, so that several calls "
                    "return as one"
                )
            if not self._start < target < self._end:
                self._left.append(target)

    def _is_table(self, jump: Instruction, before: Instruction | None) -> bool:
        """Whether it goes on within the function by a table: of addresses, the first of which is in
        the function, or of distances, with the base added right before."""
        if jump.op0_kind != OpKind.MEMORY:
            return (
                before is not None
                and before.mnemonic == Mnemonic.ADD
                and before.op0_kind == OpKind.REGISTER
                and before.op0_register == jump.op0_register
            )
        if jump.memory_index == Register.NONE or jump.memory_base != Register.NONE:
            return False
        word = self._text(jump.memory_displacement, 8)
        return self._start < int.from_bytes(word, "little") < self._end


def _by_pointer(jump: Instruction) -> ExitsError:
    return ExitsError(
        f"at {jump.ip:#x} it goes on by a pointer, and where it returns then is not known"
    )
