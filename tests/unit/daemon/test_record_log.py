"""The log of recent records: a ring for each program."""

from __future__ import annotations

import asyncio
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


def test_a_loud_program_does_not_push_out_what_another_said() -> None:
    found = log()
    for number in range(3):
        found.add(line("quiet", number), 1000, "quiet")
    room = LOG_BYTES // SIZE
    for number in range(3 * room):
        found.add(line("loud", number), 1000, "loud")
    records, forgotten = shown(found)
    assert records[:3] == [("quiet", 0), ("quiet", 1), ("quiet", 2)]
    assert records[3:] == [("loud", number) for number in range(2 * room + 3, 3 * room)]
    assert forgotten == 2 * room + 3


def test_two_loud_ones_share_and_come_in_the_order_in_which_they_came() -> None:
    found = log()
    room = LOG_BYTES // SIZE
    for number in range(room):
        found.add(line("one", number), 1000, "one")
    for number in range(room):
        found.add(line("two", number), 1000, "two")
        found.add(line("one", room + number), 1000, "one")
    records, _ = shown(found)
    assert len(records) == room
    for name in ("one", "two"):
        numbers = [number for program, number in records if program == name]
        assert len(numbers) in range(room // 2 - 1, room // 2 + 2)
        assert numbers == sorted(numbers)
    assert [program for program, _ in records[-4:]] == ["two", "one", "two", "one"]


def test_programs_of_one_name_of_two_users_are_two() -> None:
    found = log()
    found.add(line("p", 1), 1000, "p")
    for number in range(LOG_BYTES // SIZE + 5):
        found.add(line("p", number), 1001, "p")
    assert shown(found, 1000) == ([("p", 1)], 0)
    assert shown(found, 1001)[1] == 6
    assert len(shown(found)[0]) == LOG_BYTES // SIZE
