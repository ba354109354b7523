"""How a program uses its maps: which key each instruction on a map has, proven before it runs.

`key …` adds items to the key, and the next instruction on a map uses it up. So that it is known
where a program stands in a key wherever it is, its items (their number and their kinds) are the
same on every path to an instruction; no key is left open at a call, at a `ret` or at the end; an
exception drops an open key on its way to a handler. A map has keys of the same kinds everywhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import Enum
from typing import Final

from dprobed.program.blocks import CodeBlock, successors
from dprobed.program.cell_operand import cell_words
from dprobed.program.decoded import Decoded, FlowFinding
from dprobed.program.isa import Flow, Instruction, Operand
from dprobed.program.maps import (
    COUNT,
    KIND_BY_NAME,
    MAX_KEY_ITEMS,
    MapDefinition,
)


class KeyItem(Enum):
    """Kinds of items, as messages call them."""

    WORD = "word"
    STRING = "string"
    NAME = "name"
    STACK = "stack"


Key = tuple[KeyItem, ...]
_ITEMS: Final = {
    "key": KeyItem.WORD,
    "key str": KeyItem.STRING,
    "key comm": KeyItem.NAME,
    "key ustack": KeyItem.STACK,
    "key text": KeyItem.STRING,
    "key kstack": KeyItem.STACK,
}


def key_after(instruction: Instruction, operands: Sequence[int], key: Key) -> Key:
    """The key behind an instruction, with ``key`` before it."""
    item = _ITEMS.get(instruction.name)
    if item is not None:
        return key + (item,) * (operands[0] if item is KeyItem.WORD else 1)
    return () if instruction.map_index(tuple(operands)) is not None else key


def keys_at_blocks(blocks: Sequence[CodeBlock]) -> dict[int, Key]:
    """The key that is open at the start of each block of a verified program; where an exception or
    a call begins one, none is."""
    by_start = {block.start: block for block in blocks}
    keys = {blocks[0].start: Key()}
    waiting = [blocks[0].start]
    while waiting:
        block = by_start[waiting.pop()]
        key = keys[block.start]
        for step in block.steps:
            key = key_after(step.instruction, step.operands, key)
            if step.instruction.flow is Flow.HANDLER and step.operands[0] not in keys:
                keys[step.operands[0]] = ()
                waiting.append(step.operands[0])
        for to in successors(block):
            if to not in keys:
                keys[to] = key
                waiting.append(to)
    return keys


def uses_maps(code: Iterable[Instruction]) -> bool:
    """Whether there is any instruction of maps in it."""
    return any(instruction.group == "maps" for instruction in code)


class MapUse:
    """The keys of a program whose jumps are known to go to instructions."""

    def __init__(self, code: Sequence[Decoded], entries: Sequence[int]) -> None:
        self._code: Final = code
        self._at: Final = {decoded.offset: decoded for decoded in code}
        self._entries: Final = entries
        #: The key before each instruction that can be reached.
        self._keys: Final[dict[int, Key]] = {}
        self._findings: Final[list[FlowFinding]] = []

    def findings(self, maps: Sequence[MapDefinition]) -> list[FlowFinding]:
        """What is wrong with it."""
        if not uses_maps(decoded.instruction for decoded in self._code):
            return []
        self._solve()
        first: dict[int, tuple[Key, Decoded]] = {}
        for offset in sorted(self._keys):
            decoded = self._at[offset]
            if not decoded.broken:
                self._check(decoded, self._keys[offset], maps, first)
        return self._findings

    def _solve(self) -> None:
        waiting = [(entry, Key()) for entry in self._entries]
        conflicts = set()
        while waiting:
            offset, key = waiting.pop()
            decoded = self._at.get(offset)
            if decoded is None:
                continue
            if offset in self._keys:
                if self._keys[offset] != key and offset not in conflicts:
                    conflicts.add(offset)
                    self._conflict(offset, self._keys[offset], key)
                continue
            self._keys[offset] = key
            waiting += self._next(decoded, key)

    def _next(self, decoded: Decoded, key: Key) -> Iterable[tuple[int, Key]]:
        instruction = decoded.instruction
        if decoded.broken:
            # Nobody knows what it would have done.
            return
        after = key_after(instruction, decoded.operands, key)
        if len(after) > MAX_KEY_ITEMS:
            self._find(
                decoded.offset, f"the key has {len(after)} items", f"{MAX_KEY_ITEMS} at most"
            )
            return
        if decoded.called is not None:
            yield decoded.called, ()
            yield decoded.next, ()
            return
        if instruction.flow.falls_through:
            yield decoded.next, after
        if decoded.target is not None:
            yield decoded.target, () if instruction.flow is Flow.HANDLER else after

    def _conflict(self, offset: int, one: Key, other: Key) -> None:
        keys = " on one path to here, and of ".join(map(describe, sorted((one, other), key=len)))
        self._find(offset, f"the key is of {keys} on another", "use it up before the paths meet")

    def _find(self, offset: int, message: str, hint: str) -> None:
        self._findings.append(FlowFinding(offset, message, hint))

    def _check(
        self,
        decoded: Decoded,
        key: Key,
        maps: Sequence[MapDefinition],
        first: dict[int, tuple[Key, Decoded]],
    ) -> None:
        instruction, offset = decoded.instruction, decoded.offset
        ends = instruction.flow in (Flow.END, Flow.RETURN, Flow.CALL)
        if ends and key:
            message = f"`{instruction.spelling}` with a key open, of {describe(key)}"
            self._find(offset, message, "use it with a map before")
        number = instruction.map_index(decoded.operands)
        if number is None:
            return
        one = maps[number]
        wrong = unfit(instruction, one) or _unequal(instruction, decoded.operands, one)
        if wrong is not None:
            self._find(offset, *wrong)
        if len(key) != one.keys:
            message = f"map `{one.name}` has keys of {items(one.keys)}; this one is of"
            hint = f"write keys={len(key)} in its header line, or another key before"
            self._find(offset, f"{message} {describe(key) if key else 'none'}", hint)
            return
        known, where = first.setdefault(number, (key, decoded))
        if known != key:
            message = f"map `{one.name}` has keys of {describe(known)} elsewhere (code offset "
            message += f"{where.offset:#x}), and of {describe(key)} here"
            self._find(
                offset, message, "the items of a map's keys are of the same kinds everywhere"
            )


def unfit(instruction: Instruction, one: MapDefinition) -> tuple[str, str] | None:
    """What is wrong with an instruction on a map of that kind; None: nothing."""
    takes = KIND_BY_NAME[one.kind].takes
    if instruction.name in takes:
        return None
    if instruction.name == "madd" and one.kind == COUNT:
        return f"`madd` of a value to `{one.name}`, which only counts", f"write minc {one.name}"
    does = ", ".join(f"`{name}`" for name in takes)
    return f"`{instruction.name}` is nothing for `{one.name}`, a `{one.kind}`", f"it takes {does}"


def _unequal(
    instruction: Instruction, operands: Sequence[int], one: MapDefinition
) -> tuple[str, str] | None:
    """What is wrong with how many words an instruction takes of a ``value``; None: nothing."""
    if instruction.operands[0] is Operand.CELL:
        words = cell_words(operands[0])
        if words == one.words:
            return None
        return f"`{instruction.name}` of {words} words; `{one.name}` has {one.words}", ""
    if instruction.name in ("mhas", "mdel") or one.words == 1:
        return None
    if instruction.name == "minc" and one.timed:
        return None
    return (
        f"`{instruction.name}` is of one word; `{one.name}` has {one.words}",
        "`mload` and `mstore` are of all words",
    )


def items(count: int) -> str:
    """So many items, in words."""
    return {0: "no items", 1: "1 item"}.get(count, f"{count} items")


def describe(key: Key) -> str:
    """A key in words: ``2 items (word, string)``."""
    return f"{items(len(key))} ({', '.join(item.value for item in key)})" if key else "no items"
