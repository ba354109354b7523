"""What the walking executor does with maps; the maps themselves are those of the other one."""

from __future__ import annotations

from dprobed.program.exec import ir_maps
from dprobed.program.exec.interface import ADDRESS_END
from dprobed.program.exec.maps import AddingMap, CellsMap, KeyItems, OwnMap, SeriesMap, ValueMap
from dprobed.program.maps import STRING_BYTES, stack_item
from tests.programs.walking import Hit, walks


def _key(hit: Hit, items: int) -> KeyItems:
    found = tuple(hit.key[item] for item in range(items))
    return found[0] if items == 1 else found


@walks(ir_maps.KeyWord)
def _key_word(hit: Hit, op: ir_maps.KeyWord) -> None:
    hit.key[op.item] = hit.value(op.word)


@walks(ir_maps.KeyName)
def _key_name(hit: Hit, op: ir_maps.KeyName) -> None:
    hit.key[op.item] = hit.context.comm


@walks(ir_maps.KeyStack)
def _key_stack(hit: Hit, op: ir_maps.KeyStack) -> None:
    others = [hit.key[item] for item in op.strings]
    room = STRING_BYTES - sum(len(each) for each in others if isinstance(each, bytes))
    hit.key[op.item] = stack_item(hit.context.user_stack(op.depth), room)


@walks(ir_maps.KeyString)
def _key_string(hit: Hit, op: ir_maps.KeyString) -> None:
    """Byte by byte."""
    address, length, data = hit.value(op.address), hit.value(op.length), bytearray()
    strings = [hit.key[item] for item in op.strings]
    room = STRING_BYTES - sum(len(each) for each in strings if isinstance(each, bytes))
    while len(data) < length:
        at = address + len(data)
        byte = hit.context.read_partial(at, 1) if at < ADDRESS_END else b""
        if not byte:
            hit.set(op.bad, at)
            hit.fail(op.fault)
        if byte == b"\0":
            break
        data += byte
        if len(data) > room:
            hit.set(op.bad, length)
            hit.fail(op.too_long)
    hit.key[op.item] = bytes(data)


@walks(ir_maps.UpdateMap)
def _update_map(hit: Hit, op: ir_maps.UpdateMap) -> None:
    held, key = hit.executor.maps[op.map], _key(hit, op.items)
    if op.word is None and isinstance(held, CellsMap):
        held.count_at(key, hit.context.now())
    elif op.word is None:
        assert isinstance(held, ValueMap)
        held.count(key)
    elif isinstance(held, SeriesMap):
        held.add_at(key, hit.value(op.word), hit.context.now())
    else:
        assert isinstance(held, AddingMap)
        held.add(key, hit.value(op.word))


@walks(ir_maps.ReadMap)
def _read_map(hit: Hit, op: ir_maps.ReadMap) -> None:
    held, key = hit.executor.maps[op.map], _key(hit, op.items)
    assert isinstance(held, OwnMap)
    if op.asks:
        hit.set(op.result, held.has(key))
    else:
        assert isinstance(held, ValueMap)
        hit.set(op.result, held.get(key))


@walks(ir_maps.WriteMap)
def _write_map(hit: Hit, op: ir_maps.WriteMap) -> None:
    held, key = hit.executor.maps[op.map], _key(hit, op.items)
    assert isinstance(held, OwnMap)
    if op.word is None:
        held.delete(key)
    else:
        assert isinstance(held, ValueMap)
        held.set(key, hit.value(op.word))


@walks(ir_maps.LoadCell)
def _load_cell(hit: Hit, op: ir_maps.LoadCell) -> None:
    held, key = hit.executor.maps[op.map], _key(hit, op.items)
    assert isinstance(held, CellsMap | ValueMap)
    for result, word in zip(op.results, held.load_cell(key), strict=True):
        hit.set(result, word)


@walks(ir_maps.StoreCell)
def _store_cell(hit: Hit, op: ir_maps.StoreCell) -> None:
    held, key = hit.executor.maps[op.map], _key(hit, op.items)
    assert isinstance(held, CellsMap | ValueMap)
    held.store_cell(key, [hit.value(word) for word in op.words])


@walks(ir_maps.ReadText)
def _read_text(hit: Hit, op: ir_maps.ReadText) -> None:
    """Byte by byte."""
    address, length = hit.value(op.address), hit.value(op.length)
    words = [0] * len(op.results)
    for n in range(min(length, 8 * len(words))):
        byte = hit.context.read_partial(address + n, 1) if address + n < ADDRESS_END else b""
        if byte in (b"", b"\0"):
            break
        words[n // 8] |= byte[0] << 8 * (n % 8)
    for result, word in zip(op.results, words, strict=True):
        hit.set(result, word)


@walks(ir_maps.KeyText)
def _key_text(hit: Hit, op: ir_maps.KeyText) -> None:
    """Byte by byte."""
    data = bytearray()
    for word in map(hit.value, op.words):
        data += bytes(word >> shift & 0xFF for shift in range(0, 64, 8))
    end = data.index(0) if 0 in data else len(data)
    others = [hit.key[item] for item in op.strings]
    hit.set(op.length, end)
    if end > STRING_BYTES - sum(len(each) for each in others if isinstance(each, bytes)):
        hit.fail(op.too_long)
    hit.key[op.item] = bytes(data[:end])
