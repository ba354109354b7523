"""The hunt for what overwrites a module's data: a watchpoint, a condition, a dump, a repair."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from typing import Any, Final

import pytest

from dprobed.kernel.abi import Kind
from dprobed.program.exits import DUMP
from dprobed.program.rpn.parser import load_file
from dprobed.record.log import decode_log
from tests.kernel.device import (
    Device,
    KernelProgram,
    address_of,
    check,
    insert_module,
    remove_module,
    write_text,
)
from tests.kernel.machine import BRIDGE, Machine

MODULE: Final = "dprobes_pool"
PARAMETERS: Final = f"/sys/module/{MODULE}/parameters"
#: Eight letters are the name, and three the limit.
TOO_LONG: Final = "backups2024"


@pytest.fixture
def pool(machine: Machine) -> Iterator[int]:
    """The module is there: where its name is, and eight bytes behind it the limit."""
    insert_module(machine, name=MODULE)
    yield address_of(machine, "pool_state")
    check(remove_module(machine, MODULE))


def _watching(device: Device, file: str, pool: int) -> KernelProgram:
    program = load_file(str(BRIDGE / "samples" / file))
    loaded = device.load(program, symbols=[pool] * len(program.names), facilities={"dump": DUMP})
    loaded.watch(Kind.WATCH_W, pool + 8, 8)
    return loaded


def _take(machine: Machine, amount: int) -> None:
    write_text(machine, f"{PARAMETERS}/take", str(amount))


def test_the_guilty_function_is_found(machine: Machine, device: Device, pool: int) -> None:
    loaded = _watching(device, "pool_guilty.rpn", pool)
    write_text(machine, f"{PARAMETERS}/name", "backups")
    with pytest.raises(OSError, match="ENOSPC"):
        _take(machine, 101)
    assert loaded.query().hits == 0
    write_text(machine, f"{PARAMETERS}/name", TOO_LONG)
    # Now the bug shows, far from where it is.
    _take(machine, 101)
    query = loaded.query()
    assert (query.hits, query.runs, query.missed) == (3, 3, 0)
    (hit,) = loaded.read()
    assert hit.record.exit == DUMP
    items: list[dict[str, Any]] = decode_log(hit.log, hit.raw)
    values = {item["name"]: item["value"] for item in items if "name" in item}
    # Of the three the first leaves a limit that could be one.
    assert values["limit"] == int.from_bytes(b"02", "little")
    assert hit.record.address == pool + 8
    assert 0 < values["rip"] - address_of(machine, "pool_rename") < 0x100
    (memory,) = [bytes.fromhex(item["memory"]) for item in items if "memory" in item]
    assert memory == TOO_LONG.encode()[:10] + bytes(6)
    frames = [item["string"] for item in items if "string" in item]
    assert any(frame.startswith("pool_rename+0x") for frame in frames[:2]), frames
    assert any(frame.startswith("param_attr_store+0x") for frame in frames), frames
    assert any(frame.startswith("vfs_write+0x") for frame in frames), frames
    loaded.close()


def test_it_is_repaired_as_it_happens(machine: Machine, allowed: Device) -> None:
    insert_module(machine, name=MODULE)
    loaded = _watching(allowed, "pool_repair.rpn", address_of(machine, "pool_state"))
    write_text(machine, f"{PARAMETERS}/name", TOO_LONG)
    with pytest.raises(OSError) as caught:
        _take(machine, 101)
    assert caught.value.errno == errno.ENOSPC
    _take(machine, 100)
    query = loaded.query()
    assert (query.hits, query.missed, query.recursed) == (3, 0, 0)
    logs = [decode_log(hit.log, hit.raw) for hit in loaded.read()]
    assert [[item["value"] for item in log] for log in logs] == [[1], [2], [3]]
    loaded.close()
    check(remove_module(machine, MODULE))
