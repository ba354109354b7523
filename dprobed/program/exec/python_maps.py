"""Operations on maps as Python source.

``k0``, ``k1``… are the items of the key, ``M0``… the maps.
"""

from __future__ import annotations

from collections.abc import Sequence

from dprobed.program.exec import ir_maps
from dprobed.program.exec.ir_values import Temp
from dprobed.program.exec.python_printer import Printer, prints, word
from dprobed.program.maps import STRING_BYTES


def _key(items: int) -> str:
    names = [f"k{item}" for item in range(items)]
    return names[0] if items == 1 else f"({', '.join(names)})"


@prints(ir_maps.KeyWord)
def _key_word(to: Printer, op: ir_maps.KeyWord) -> None:
    to.line(f"k{op.item} = {word(op.word)}")


@prints(ir_maps.KeyName)
def _key_name(to: Printer, op: ir_maps.KeyName) -> None:
    to.line(f"k{op.item} = ctx.comm")


@prints(ir_maps.KeyStack)
def _key_stack(to: Printer, op: ir_maps.KeyStack) -> None:
    to.line(f"k{op.item} = key_stack(ctx, {op.depth}, {_used(op.strings)})")


def _used(strings: tuple[int, ...]) -> str:
    return " + ".join(f"len(k{item})" for item in strings) or "0"


@prints(ir_maps.KeyString)
def _key_string(to: Printer, op: ir_maps.KeyString) -> None:
    long, bad = to.other(), word(op.bad)
    arguments = f"ctx, {word(op.address)}, {word(op.length)}, {_used(op.strings)}"
    to.line(f"k{op.item}, {bad}, {long} = key_string({arguments})")
    with to.under(f"if {bad} is not None:"):
        to.fail_if(long, op.too_long)
        to.fail(op.fault)


@prints(ir_maps.KeyText)
def _key_text(to: Printer, op: ir_maps.KeyText) -> None:
    to.line(f"k{op.item} = text_of({to.words(op.words) if op.words else ()})")
    to.line(f"{word(op.length)} = len(k{op.item})")
    room = f"{STRING_BYTES} - ({_used(op.strings)})"
    to.fail_if(f"{word(op.length)} > {room}", op.too_long)


@prints(ir_maps.ReadText)
def _read_text(to: Printer, op: ir_maps.ReadText) -> None:
    arguments = f"ctx, {word(op.address)}, {word(op.length)}, {len(op.results)}"
    to.line(f"{_results(op.results)} = text_words({arguments})")


def _results(results: Sequence[Temp]) -> str:
    return "".join(f"{word(each)}, " for each in results).rstrip() or "_"


@prints(ir_maps.LoadCell)
def _load_cell(to: Printer, op: ir_maps.LoadCell) -> None:
    to.line(f"{_results(op.results)} = M{op.map}.load_cell({_key(op.items)})")


@prints(ir_maps.StoreCell)
def _store_cell(to: Printer, op: ir_maps.StoreCell) -> None:
    to.line(f"M{op.map}.store_cell({_key(op.items)}, {to.words(op.words)})")


@prints(ir_maps.UpdateMap)
def _update_map(to: Printer, op: ir_maps.UpdateMap) -> None:
    key = _key(op.items)
    if op.word is None and to.header.map[op.map].timed:
        to.line(f"M{op.map}.count_at({key}, ctx.now())")
    elif op.word is None:
        to.line(f"M{op.map}.count({key})")
    elif to.header.map[op.map].kind == "tseries":
        to.line(f"M{op.map}.add_at({key}, {word(op.word)}, ctx.now())")
    else:
        to.line(f"M{op.map}.add({key}, {word(op.word)})")


@prints(ir_maps.ReadMap)
def _read_map(to: Printer, op: ir_maps.ReadMap) -> None:
    to.line(f"{word(op.result)} = M{op.map}.{'has' if op.asks else 'get'}({_key(op.items)})")


@prints(ir_maps.WriteMap)
def _write_map(to: Printer, op: ir_maps.WriteMap) -> None:
    if op.word is None:
        to.line(f"M{op.map}.delete({_key(op.items)})")
    else:
        to.line(f"M{op.map}.set({_key(op.items)}, {word(op.word)})")
