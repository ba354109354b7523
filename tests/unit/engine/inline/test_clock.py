"""The clock by which programs in the target tell the time."""

from __future__ import annotations

import pytest

from dprobed.engine.inline.clock import EVERY_NS, SIZE, TargetClock

AT = 0x7000
#: Ticks of a nanosecond, and nanoseconds when the counter was 0.
SPEED, BEGAN = 2.8, 10_000_000_000


class Machine:
    """Readings of both clocks; at first the rate is known badly."""

    def __init__(self) -> None:
        self.counter, self.now = 0, BEGAN
        self.rate = (1 + 1e-4) / SPEED

    @property
    def latest(self) -> tuple[int, int]:
        return self.counter, self.now

    def wait(self, slewed: int = 0) -> None:
        """Until it is time for another line; by how much the clock is corrected meanwhile."""
        self.counter += round(EVERY_NS * SPEED)
        self.now += EVERY_NS + slewed


def told(words: memoryview, counter: int) -> int:
    """The time as a trampoline makes it."""
    at = (words[0] - AT) // 8
    line = words[at : at + 3].tolist()
    return ((counter - line[0]) * line[2] >> 32) + line[1]


def made() -> tuple[Machine, memoryview, TargetClock]:
    machine, words = Machine(), memoryview(bytearray(SIZE)).cast("Q")
    return machine, words, TargetClock(AT, words, machine)


def test_it_does_not_drift() -> None:
    """Within a microsecond for hours, however badly the rate was known when it began."""
    machine, words, clock = made()
    for turn in range(20_000):
        machine.wait()
        assert abs(told(words, machine.counter) - machine.now) < (1000 if turn else 30_000)
        clock.tune(machine)
        assert told(words, machine.counter) == machine.now


def test_it_follows_the_kernels_corrections() -> None:
    machine, words, clock = made()
    for turn in range(1000):
        most = EVERY_NS // 2000
        machine.wait(most if turn % 10 < 5 else 0)
        assert turn == 0 or abs(told(words, machine.counter) - machine.now) < most + 1000
        clock.tune(machine)


def test_a_line_that_may_be_read_is_not_written_over() -> None:
    machine, words, clock = made()
    for _ in range(60):
        at = (words[0] - AT) // 8
        line = words[at : at + 3].tolist()
        for _ in range(60):
            machine.wait()
            clock.tune(machine)
            assert words[at : at + 3].tolist() == line
        assert AT < words[0] < AT + SIZE


@pytest.mark.parametrize("after", [0, 5])
def test_a_counter_that_begins_anew_ends_nobody(after: int) -> None:
    machine, words, clock = made()
    machine.wait()
    clock.tune(machine)
    machine.now += 100 * EVERY_NS
    machine.counter = after
    machine.rate = -1.0
    clock.tune(machine)
    assert told(words, after) == machine.now


def test_a_childs_is_its_own() -> None:
    machine, words, clock = made()
    theirs = memoryview(bytearray(words.tobytes())).cast("Q")
    child = clock.copy(theirs)
    machine.wait()
    child.tune(machine)
    assert words[0] != theirs[0]
    assert told(theirs, machine.counter) == machine.now
