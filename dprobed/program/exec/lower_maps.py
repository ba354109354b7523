"""Lowers the instructions on maps: gathering a key, and what is done at it."""

from __future__ import annotations

from dprobed.program.blocks import Step
from dprobed.program.cell_operand import cell_words
from dprobed.program.exceptions import OPERAND_KEY, ExCode
from dprobed.program.exec import ir_maps
from dprobed.program.exec.lower_table import lowers
from dprobed.program.exec.lowering import FRAME_COST, Lowering
from dprobed.program.map_use import KeyItem, key_after
from dprobed.program.maps import STRING_BYTES
from dprobed.program.user_stack import USUAL_FRAMES


def _after(to: Lowering, step: Step) -> None:
    to.key = key_after(step.instruction, step.operands, to.key)


@lowers("key count")
def _key(to: Lowering, step: Step) -> None:
    for item in range(len(to.key), len(to.key) + step.operands[0]):
        to.add(ir_maps.KeyWord(item, to.pop()))
    _after(to, step)


@lowers("key comm")
def _key_comm(to: Lowering, step: Step) -> None:
    to.add(ir_maps.KeyName(len(to.key)))
    _after(to, step)


@lowers("key ustack", "key ustack,depth")
def _key_stack(to: Lowering, step: Step) -> None:
    depth = step.operands[0] if step.operands else USUAL_FRAMES
    to.charge(FRAME_COST * depth, 0)
    to.add(ir_maps.KeyStack(len(to.key), depth, _sharing(to)))
    _after(to, step)


def _sharing(to: Lowering) -> tuple[int, ...]:
    """The items of the key so far that share their room."""
    return tuple(n for n, item in enumerate(to.key) if item in (KeyItem.STRING, KeyItem.STACK))


@lowers("key str")
def _key_str(to: Lowering, step: Step) -> None:
    address, length, bad = to.pop(), to.pop(), to.new()
    to.charge(length, 6, STRING_BYTES)
    fault = to.fault(ExCode.INVALID_ADDR, bad)
    too_long = to.fault(ExCode.INVALID_OPERAND, OPERAND_KEY, bad)
    to.add(ir_maps.KeyString(len(to.key), bad, address, length, _sharing(to), fault, too_long))
    _after(to, step)


@lowers("key text,count")
def _key_text(to: Lowering, step: Step) -> None:
    words = tuple(to.pop() for _ in range(step.operands[0]))
    length = to.new()
    too_long = to.fault(ExCode.INVALID_OPERAND, OPERAND_KEY, length)
    to.add(ir_maps.KeyText(len(to.key), length, words, _sharing(to), too_long))
    _after(to, step)


@lowers("push text,count")
def _push_text(to: Lowering, step: Step) -> None:
    count = step.operands[0]
    address, length = to.pop(), to.pop()
    to.charge(length, 6, 8 * count)
    results = tuple(to.new() for _ in range(count))
    to.add(ir_maps.ReadText(results, address, length))
    for result in reversed(results):
        to.push(result)


@lowers("madd map", "minc map")
def _update(to: Lowering, step: Step) -> None:
    word = to.pop() if step.instruction.name == "madd" else None
    to.add(ir_maps.UpdateMap(step.operands[0], len(to.key), word))
    _after(to, step)


@lowers("mget map", "mhas map")
def _read(to: Lowering, step: Step) -> None:
    result = to.new()
    asks = step.instruction.name == "mhas"
    to.add(ir_maps.ReadMap(result, step.operands[0], len(to.key), asks))
    to.push(result)
    _after(to, step)


@lowers("mset map", "mdel map")
def _write(to: Lowering, step: Step) -> None:
    word = to.pop() if step.instruction.name == "mset" else None
    to.add(ir_maps.WriteMap(step.operands[0], len(to.key), word))
    _after(to, step)


@lowers("mload cell")
def _load(to: Lowering, step: Step) -> None:
    results = tuple(to.new() for _ in range(cell_words(step.operands[0])))
    to.add(ir_maps.LoadCell(results, _map(step), len(to.key)))
    for result in reversed(results):
        to.push(result)
    _after(to, step)


@lowers("mstore cell")
def _store(to: Lowering, step: Step) -> None:
    words = tuple(to.pop() for _ in range(cell_words(step.operands[0])))
    to.add(ir_maps.StoreCell(_map(step), len(to.key), words))
    _after(to, step)


def _map(step: Step) -> int:
    index = step.instruction.map_index(step.operands)
    assert index is not None
    return index
