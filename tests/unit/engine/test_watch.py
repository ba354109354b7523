"""Debug registers: which watches can be, and how the four are shared out."""

from __future__ import annotations

import errno
from typing import cast
from unittest import mock

import pytest

from dprobed.arch.x86_64.debug_registers import COUNT, is_length_valid
from dprobed.engine.interface import Location, Plan
from dprobed.engine.watch.engine import WatchEngine
from dprobed.engine.watch.registers import DebugRegisters, WatchAttachment
from dprobed.tracee import ptrace, restartable
from dprobed.tracee.lifecycle import State
from dprobed.tracee.thread import Group
from dprobed.tracee.thread import Thread as TracedThread
from dprobed.wire.protocol import State as ProbeState
from tests.unit.tracer.test_reporter import make_probe


@pytest.mark.parametrize("kind", ["w", "rw"])
@pytest.mark.parametrize("length", range(10))
@pytest.mark.parametrize("offset", range(8))
def test_data_watches_are_aligned_powers_of_two(kind: str, length: int, offset: int) -> None:
    good = length in (1, 2, 4, 8) and offset % length == 0
    assert is_length_valid(kind, 0x1000 + offset, length) is good


@pytest.mark.parametrize("address", range(0x1000, 0x1008))
def test_execution_is_watched_at_one_byte(address: int) -> None:
    assert is_length_valid("x", address, 1)
    assert not any(is_length_valid("x", address, length) for length in (0, 2, 4, 8))


def attachment(index: int) -> WatchAttachment:
    return WatchAttachment(make_probe(), Location(0x1000, 0, "f+0x0"), index)


def put(registers: DebugRegisters, kind: str, address: int, length: int) -> WatchAttachment:
    """Add a watch; it must find room."""
    index = registers.add(kind, address, length)
    assert index is not None
    made = attachment(index)
    registers.attach(index, made)
    return made


def test_four_and_no_more() -> None:
    registers = DebugRegisters()
    taken = [put(registers, "w", 0x1000 + 8 * each, 8) for each in range(COUNT)]
    assert sorted(each.index for each in taken) == [0, 1, 2, 3]
    assert registers.add("w", 0x2000, 8) is None
    registers.detach(taken[2])
    assert registers.add("w", 0x2000, 8) == 2


def test_the_same_watch_twice_takes_one_register() -> None:
    registers = DebugRegisters()
    one = put(registers, "w", 0x1000, 4)
    two = put(registers, "w", 0x1000, 4)
    assert one.index == two.index
    other = put(registers, "rw", 0x1000, 4)
    assert other.index != one.index
    registers.detach(one)
    assert put(registers, "w", 0x1000, 4).index == two.index  # still in use


def test_execution_is_known() -> None:
    registers = DebugRegisters()
    watch = put(registers, "x", 0x1000, 1)
    put(registers, "w", 0x1001, 1)
    assert registers.executes(0x1000)
    assert not registers.executes(0x1001)
    registers.detach(watch)
    assert not registers.executes(0x1000)


class Thread:
    """The debug registers of one thread, as ptrace shows them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.registers = [0] * 8
        self.pokes: list[tuple[int, int]] = []
        monkeypatch.setattr(ptrace, "peek_debug", lambda tid, index: self.registers[index])
        monkeypatch.setattr(ptrace, "poke_debug", self._poke)

    def _poke(self, tid: int, index: int, value: int) -> None:
        if index < COUNT and value != self.registers[index]:
            assert not self.registers[7] >> 2 * index & 1, "an address changed while it was on"
        self.registers[index] = value
        self.pokes.append((index, value))


def test_the_control_register(monkeypatch: pytest.MonkeyPatch) -> None:
    """The layout of Intel SDM vol. 3B, figure 18-1."""
    thread = Thread(monkeypatch)
    registers = DebugRegisters()
    put(registers, "x", 0x1000, 1)
    put(registers, "w", 0x2000, 2)
    put(registers, "rw", 0x3000, 4)
    put(registers, "w", 0x4000, 8)
    registers.apply(1)
    assert thread.registers[:4] == [0x1000, 0x2000, 0x3000, 0x4000]
    enabled = 0b01010101
    fields = 0b00_00 | 0b01_01 << 4 | 0b11_11 << 8 | 0b10_01 << 12
    assert thread.registers[7] == enabled | fields << 16


def test_registers_change_and_go(monkeypatch: pytest.MonkeyPatch) -> None:
    thread = Thread(monkeypatch)
    registers = DebugRegisters()
    first = put(registers, "w", 0x1000, 8)
    registers.apply(1)
    registers.detach(first)
    put(registers, "rw", 0x2000, 1)
    registers.apply(1)
    assert thread.registers[0] == 0x2000
    registers.clear()
    registers.apply(1)
    assert thread.registers == [0] * 8


def test_a_thread_without_watches_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    thread = Thread(monkeypatch)
    DebugRegisters().apply(1)
    assert thread.pokes == []


def test_whose_register_fired(monkeypatch: pytest.MonkeyPatch) -> None:
    thread = Thread(monkeypatch)
    registers = DebugRegisters()
    one = put(registers, "w", 0x1000, 8)
    beside = put(registers, "w", 0x1000, 8)
    put(registers, "w", 0x2000, 8)
    three = put(registers, "w", 0x3000, 8)
    thread.registers[6] = 0b0101
    assert registers.fired(1) == [one, beside, three]
    assert thread.registers[6] == 0
    assert registers.fired(1) == []


def test_a_watchpoint_that_cannot_stay_is_lost_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two threads meet it in their restartable sequences before anybody acts on that; one that was
    removed at its last hit, in between, is not lost besides."""
    thread = Thread(monkeypatch)
    monkeypatch.setattr(ptrace, "rseq_address", lambda tid: 0)
    monkeypatch.setattr(restartable, "abort_address", lambda *_: 0x5000)
    runner = mock.Mock(registers=ptrace.Registers())
    engine = WatchEngine(mock.Mock(threads={}), mock.Mock(), runner)
    plans = [
        Plan("watch", make_probe(), Location(at, kind="w", length=8), 0) for at in (0x1000, 0x2000)
    ]
    lasting, over = [result for _, result in engine.arm(plans, [])]
    assert isinstance(lasting, WatchAttachment)
    assert isinstance(over, WatchAttachment)
    for tid in (1, 2):
        thread.registers[6] = 0b11
        assert engine.fired(tracee(tid), 0)
    engine.release([over])
    first, second = engine.lost()
    assert (first.attachments, second.attachments) == ([lasting], [])
    assert engine.attachments() == []


def tracee(tid: int) -> TracedThread:
    return TracedThread(tid, 1, State.STOPPED, cast(Group, None))


def test_a_child_whose_undo_cannot_be_noted_says_so() -> None:
    """It gets no watchpoint, and its probe is not one that is still to be placed."""
    parent = WatchEngine(mock.Mock(threads={}), mock.Mock(), mock.Mock())
    (armed,) = parent.arm(
        [Plan("watch", make_probe(), Location(0x1000, kind="w", length=8), 0)], []
    )
    child = WatchEngine(mock.Mock(threads={}), mock.Mock(), mock.Mock())
    full = OSError(errno.ENOSPC, "no space left on device")
    child.use(mock.Mock(changes=mock.Mock(note=mock.Mock(side_effect=full))))
    twin = make_probe()
    assert parent.forked(child, lambda attachment: (twin, 0)) == []
    assert child.attachments() == []
    assert (twin.state, twin.reason) == (
        ProbeState.FAILED,
        "its undo cannot be noted: no space left on device",
    )
    assert parent.attachments() == [armed[1]]
