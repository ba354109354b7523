"""The log of recent records: a ring for each program."""

from __future__ import annotations

import asyncio
import itertools
from typing import cast

from dprobed.daemon.gate import Gate
from dprobed.daemon.records.log import LOG_BYTES, RecordLog
from dprobed.wire import messages
from tests.fakes.backend import FakeClient

SIZE = 200


class Sees:
    """A gate for which each user sees what is the user's own."""

    def sees(self, client: FakeClient, uid: int) -> bool:
        return client.uid in (0, uid)


def line(program: str, number: int) -> bytes:
    return f"{program} {number:08d}".encode().ljust(SIZE - 1) + b"\n"


def shown(log: RecordLog, uid: int = 0) -> tuple[list[tuple[str, int]], int]:
    client = FakeClient(uid)
    answer = asyncio.run(log.log(client, messages.Log(id=1)))
    words = [each.split() for each in client.lines.splitlines()]
    return [(program.decode(), int(number)) for program, number in words], answer.forgotten


def log() -> RecordLog:
    return RecordLog(cast("Gate", Sees()))


#: Of a clock that goes on at each look.
TIMES = itertools.count()


def add(to: RecordLog, data: bytes, uid: int, program: str) -> None:
    to.add(data, uid, program, next(TIMES))


def test_they_are_in_the_order_of_their_times() -> None:
    """Not in that in which tracers report them."""
    found = log()
    for program, time in (("one", 3), ("two", 1), ("one", 2), ("two", 0), ("one", 4)):
        found.add(line(program, time), 1000, program, time)
    assert [number for _, number in shown(found)[0]] == [0, 1, 2, 3, 4]


def test_a_loud_program_does_not_push_out_what_another_said() -> None:
    found = log()
    for number in range(3):
        add(found, line("quiet", number), 1000, "quiet")
    room = LOG_BYTES // SIZE
    for number in range(3 * room):
        add(found, line("loud", number), 1000, "loud")
    records, forgotten = shown(found)
    assert records[:3] == [("quiet", 0), ("quiet", 1), ("quiet", 2)]
    assert records[3:] == [("loud", number) for number in range(2 * room + 3, 3 * room)]
    assert forgotten == 2 * room + 3


def test_two_loud_ones_share_and_come_in_the_order_in_which_they_came() -> None:
    found = log()
    room = LOG_BYTES // SIZE
    for number in range(room):
        add(found, line("one", number), 1000, "one")
    for number in range(room):
        add(found, line("two", number), 1000, "two")
        add(found, line("one", room + number), 1000, "one")
    records, _ = shown(found)
    assert len(records) == room
    for name in ("one", "two"):
        numbers = [number for program, number in records if program == name]
        assert len(numbers) in range(room // 2 - 1, room // 2 + 2)
        assert numbers == sorted(numbers)
    assert [program for program, _ in records[-4:]] == ["two", "one", "two", "one"]


def test_programs_of_one_name_of_two_users_are_two() -> None:
    found = log()
    add(found, line("p", 1), 1000, "p")
    for number in range(LOG_BYTES // SIZE + 5):
        add(found, line("p", number), 1001, "p")
    assert shown(found, 1000) == ([("p", 1)], 0)
    assert shown(found, 1001)[1] == 6
    assert len(shown(found)[0]) == LOG_BYTES // SIZE
