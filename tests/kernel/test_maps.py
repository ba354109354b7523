"""Maps and stacks in the kernel: exact on two CPUs and under fire; read, reset, full."""

from __future__ import annotations

import ctypes
import errno
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from dprobed.kernel.abi import REQUESTS, Contents, Kind, Reset, State
from dprobed.kernel.contents import entries
from dprobed.program.maps import STACK_MARK, MapContents, MapDefinition
from dprobed.program.user_stack import ADDRESS, KERNEL_MODULE, StackFrame, unpacked
from dprobed.record.log import decode_log
from tests.kernel.device import GETPPID, IOCTL, Device, KernelProgram, address_of, check, ioctl
from tests.kernel.machine import AREA, Machine
from tests.kernel.test_bridge import PLACE, kernel_program
from tests.kernel.test_failures import each_step
from tests.kernel.test_hits import calling

#: Where maps are read to, behind the argument of the request.
DATA = AREA + 4096
ROOM = 16 << 20


def _contents(loaded: KernelProgram, number: int = 0, reset: Reset = Reset.KEEP) -> MapContents:
    """What is in a map of the program, which is then reset so."""
    definition = DEFINITIONS[loaded.fd][number]
    asked = Contents(map=number, reset=reset, data=DATA, room=ROOM)
    found = loaded.ioctl("DPROBES_CONTENTS", asked)
    data = loaded.machine.read(DATA, found.size)
    assert found.keys == len(entries(definition, data))
    return MapContents(found.lost, sorted(entries(definition, data), key=repr))


#: The maps of programs, by their descriptors.
DEFINITIONS: dict[int, Sequence[MapDefinition]] = {}


def _loaded(device: Device, text: str, *maps: str) -> KernelProgram:
    program = kernel_program(text, "\n".join(f"map = {each}" for each in maps))
    loaded = device.load(program)
    DEFINITIONS[loaded.fd] = program.header.map
    return loaded


ALL = """push procid
key 1
minc calls
push procid
push 5
mul
key comm
madd sizes
push procid
madd least
push procid
key 1
minc last
abort
"""
MAPS = ("calls, count, keys=1, size=8", "sizes, hist, keys=1, size=8", "least, min",
        "last, value, keys=1, size=8")  # fmt: skip


def _on_both(machine: Machine, first: int, second: int) -> None:
    check(machine.call(GETPPID, count=first))
    machine.run_on(1)
    check(machine.call(GETPPID, count=second))
    machine.run_on(0)


def test_maps_of_two_cpus(machine: Machine, device: Device) -> None:
    loaded = _loaded(device, ALL, *MAPS)
    loaded.attach(PLACE)
    _on_both(machine, 3, 5)
    assert _contents(loaded) == MapContents(0, [([0], [3]), ([1], [5])])
    assert _contents(loaded, 1) == MapContents(0, [([b"init"], [0, 3, 3, 5])])
    assert _contents(loaded, 2) == MapContents(0, [([], [0])])
    assert _contents(loaded, 3) == MapContents(0, [([0], [3]), ([1], [5])])
    assert _contents(loaded, 0, Reset.ZERO).entries == [([0], [3]), ([1], [5])]
    assert _contents(loaded).entries == [([0], []), ([1], [])]
    assert _contents(loaded, 3, Reset.CLEAR).entries == [([0], [3]), ([1], [5])]
    assert _contents(loaded, 3).entries == []
    _on_both(machine, 1, 2)
    assert _contents(loaded).entries == [([0], [1]), ([1], [2])]
    assert _contents(loaded, 3).entries == [([0], [1]), ([1], [2])]
    assert _contents(loaded, 1).entries == [([b"init"], [0, 4, 3, 7])]
    loaded.close()


def test_a_full_map_counts_what_is_lost(machine: Machine, device: Device) -> None:
    loaded = _loaded(device, "push procid\nkey 1\nminc n\nabort", "n, count, keys=1, size=1")
    loaded.attach(PLACE)
    _on_both(machine, 2, 7)
    assert _contents(loaded) == MapContents(7, [([0], [2])])
    found = loaded.ioctl("DPROBES_CONTENTS", Contents())
    assert (found.keys, found.lost) == (1, 7)
    loaded.close()


#: A key that is set and deleted at each hit, as scripts measure times.
TIMES = """push time
push procid
key 1
mset begun
push procid
key 1
mget begun
jz none
ros 1
push procid
key 1
mdel begun
minc n
abort
none: abort
"""


def test_nothing_is_lost_under_fire(machine: Machine, device: Device) -> None:
    """Two CPUs count at the same keys, while all of that is taken out again and again."""
    text = "push 1\nkey 1\nminc n\npush 7\nmadd s\npush 1\nkey 1\nminc v\nabort"
    maps = ("n, count, keys=1", "s, sum", "v, value, keys=1, size=4")
    loaded = _loaded(device, text, *maps)
    taken = [0, 0, 0]

    def take() -> None:
        for number in range(3):
            found = _contents(loaded, number, Reset.CLEAR)
            assert found.lost == 0
            taken[number] += sum(cell[0] for _, cell in found.entries)

    loaded.attach(PLACE)
    with calling(machine, 1, GETPPID), calling(machine, 0, GETPPID):
        while loaded.query().runs < 500:
            take()
        check(machine.call(IOCTL, loaded.fd, REQUESTS["DPROBES_DETACH"]))
    take()
    query = loaded.query()
    assert query.state == State.REMOVED
    assert taken == [query.runs, 7 * query.runs, query.runs]
    loaded.close()


def test_keys_come_and_go_on_two_cpus(machine: Machine, device: Device) -> None:
    loaded = _loaded(device, TIMES, "begun, value, keys=1, size=2", "n, count")
    loaded.attach(PLACE)
    with calling(machine, 1, GETPPID), calling(machine, 0, GETPPID):
        while loaded.query().runs < 500:
            _contents(loaded)
        check(machine.call(IOCTL, loaded.fd, REQUESTS["DPROBES_DETACH"]))
    assert _contents(loaded) == MapContents(0, [])
    assert _contents(loaded, 1).entries == [([], [loaded.query().runs])]
    loaded.close()


def _frames(machine: Machine, data: bytes, end: int) -> Iterator[str]:
    found, ended = unpacked(data)
    assert ended == end
    assert all(frame.module is not None and frame.module.path == KERNEL_MODULE for frame in found)
    yield from (_function(machine, frame) for frame in found)


def _function(machine: Machine, frame: StackFrame) -> str:
    """Which of the known functions it is in."""
    for name in (PLACE, "do_syscall_64"):
        start = address_of(machine, name) & ADDRESS
        if start <= frame.address < start + 256:
            return name
    return "?"


def test_stacks(machine: Machine, device: Device) -> None:
    text = "key kstack\nminc by\nkey kstack,1\nminc by1\nlog kstack\nlog kstack,1"
    loaded = _loaded(device, text, "by, count, keys=1", "by1, count, keys=1")
    loaded.attach(PLACE)
    check(machine.call(GETPPID, count=2))
    ((key, cell),) = _contents(loaded).entries
    assert cell == [2]
    (stack,) = key
    assert isinstance(stack, bytes)
    assert stack.startswith(STACK_MARK)
    assert list(_frames(machine, stack[1:], 0))[:2] == [PLACE, "do_syscall_64"]
    items: list[Any] = list(decode_log(loaded.read()[0].log, ()))
    whole, shortened = items
    assert len(whole["ustack"]) > 2
    assert whole["ustack"][0]["exact"]
    assert len(shortened["ustack"]) == 1
    assert shortened["ended"] == "more frames than were asked for"
    loaded.close()


def test_stack_of_a_tracepoint(machine: Machine, device: Device) -> None:
    loaded = _loaded(device, "key kstack\nminc by\nabort", "by, count, keys=1")
    loaded.attach("sched_switch", kind=Kind.TRACEPOINT)
    while not _contents(loaded).entries:
        check(machine.call(GETPPID))
    (key, _) = _contents(loaded).entries[0]
    assert isinstance(key[0], bytes)
    assert len(unpacked(key[0][1:])[0]) > 1
    loaded.close()


def _good(**fields: int) -> Contents:
    return Contents(**{"data": DATA, "room": ROOM, **fields})


@pytest.mark.parametrize(
    ("asked", "error"),
    [
        (_good(map=1), errno.EINVAL),
        (_good(reset=3), errno.EINVAL),
        (_good(pad=1), errno.EINVAL),
        (_good(room=8, reset=1), errno.EMSGSIZE),
        (_good(data=8, reset=1), errno.EFAULT),
        (_good(data=8), errno.EFAULT),
    ],
)
def test_a_bad_request_changes_nothing(
    machine: Machine, device: Device, asked: Contents, error: int
) -> None:
    loaded = _loaded(device, "minc n\nabort", "n, count")
    loaded.attach(PLACE)
    check(machine.call(GETPPID))
    assert ioctl(machine, loaded.fd, "DPROBES_CONTENTS", asked) == -error
    assert _contents(loaded).entries == [([], [1])]
    loaded.close()


def test_each_step_of_making_maps_fails(machine: Machine, device: Device) -> None:
    def load() -> None:
        _loaded(device, "minc n\npush 1\nmadd s\nabort", "n, count", "s, sum").close()

    def reset() -> None:
        _contents(loaded, 0, Reset.CLEAR)

    # Each map has keys, and cells of two CPUs.
    assert each_step(machine, load) == 22 + 6
    loaded = _loaded(device, "minc n\nabort", "n, count")
    assert each_step(machine, reset) == 2 + 3
    loaded.close()


def test_reading_without_a_map_says_how_much_there_can_be(device: Device) -> None:
    loaded = _loaded(device, "minc n\nabort", "n, count")
    found = loaded.ioctl("DPROBES_CONTENTS", Contents())
    assert found.size >= ctypes.sizeof(ctypes.c_uint64)
    loaded.close()
