"""Maps in the daemon: what ends while they are read, and what there is no room for."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from dprobed.daemon import maps
from dprobed.daemon.client import NoAnswer, Refusal
from dprobed.program.bytecode import encode
from dprobed.program.maps import Entry
from dprobed.program.rpn.parser import assemble
from dprobed.wire import messages, protocol
from tests.fakes.backend import PID, FakeBackend, FakeClient, FakeDaemon

Script = Callable[[FakeDaemon], Awaitable[None]]
Run = Callable[[Script], None]

SOURCE = """
name = libc.so.6
map = calls, count, keys=1
map = seen, value
map = by, value, keys=2, size=2
offset = getppid
  key comm
  minc calls
  minc seen
  abort
"""
PROGRAM = encode(assemble(SOURCE, "x.rpn"))


def state(program: int, calls: int, key: bytes = b"cat") -> list[protocol.MapState]:
    """What a tracer says of both."""
    return [
        protocol.MapState(program, 0, 0, [([key], [calls])]),
        protocol.MapState(program, 1, 0, [([], [calls])]),
    ]


async def insert(daemon: FakeDaemon, client: FakeClient, pid: int = PID) -> int:
    """Keep the program in a process; its number."""
    upload = messages.Upload(label="x", bytecode=PROGRAM)
    request = messages.Insert(id=2, pid=pid, programs=[upload], keep=True)
    answer = await daemon.ask(client, request, messages.Inserted)
    return answer.programs[0].number


async def read(daemon: FakeDaemon, client: FakeClient, **options: object) -> dict[object, int]:
    """Counts by key, and values by process."""
    request = messages.Maps(id=5, **options)  # type: ignore[arg-type]
    answer = await daemon.ask(client, request, messages.MapListing)
    return {
        info.pid if info.map == "seen" else entry.key[0]: entry.cell[0]
        for info in answer.maps
        for entry in info.entries
    }


def ends(backend: FakeBackend, pid: int, last: list[protocol.MapState]) -> None:
    """The process ends, with this in its maps."""
    statuses = backend.statuses(pid)
    backend.tell(protocol.Ended(pid, "exited", 0, statuses, 0, maps=last))


@pytest.mark.parametrize("reset", ["", "clear", "zero"])
def test_what_ends_while_it_is_asked_is_counted_once(run: Run, reset: str) -> None:
    async def script(daemon: FakeDaemon) -> None:
        client = FakeClient()
        backend = await daemon.attach(client)
        number = await insert(daemon, client)
        pause = backend.pause(protocol.Maps)
        backend.refuse(protocol.Maps, f"process {PID} is gone")
        asked = asyncio.ensure_future(read(daemon, client, reset=reset))
        await pause.came.wait()
        ends(backend, PID, state(number, 7))
        pause.go.set()
        first = await asked
        second = await read(daemon, client)
        if reset:
            # It was not reset, and so it is not told of before it is.
            assert (first, second) == ({}, {"cat": 7})
        else:
            assert (first, second) == ({"cat": 7, PID: 7}, {"cat": 7})

    run(script)


def test_what_ends_after_it_has_answered_is_counted_once(run: Run) -> None:
    async def script(daemon: FakeDaemon) -> None:
        client = FakeClient()
        backend = await daemon.attach(client)
        other = await daemon.attach(client, PID + 1)
        number, second = await insert(daemon, client), await insert(daemon, client, PID + 1)
        backend.maps = state(number, 3)
        other.maps = state(second, 4, b"ls")
        pause = other.pause(protocol.Maps)
        asked = asyncio.ensure_future(read(daemon, client))
        await pause.came.wait()
        while not backend.of(protocol.Maps):
            await asyncio.sleep(0)
        for _ in range(10):  # Until the answer is in.
            await asyncio.sleep(0)
        ends(backend, PID, state(number, 3))
        for _ in range(10):
            await asyncio.sleep(0)
        pause.go.set()
        assert await asked == {"cat": 3, "ls": 4, PID: 3, PID + 1: 4}
        assert await read(daemon, client) == {"cat": 3, "ls": 4, PID + 1: 4}

    run(script)


def test_one_map_is_reset_and_the_others_stay(run: Run) -> None:
    async def script(daemon: FakeDaemon) -> None:
        client = FakeClient()
        backend = await daemon.attach(client)
        other = await daemon.attach(client, PID + 1)
        number, second = await insert(daemon, client), await insert(daemon, client, PID + 1)
        ends(backend, PID, state(number, 7))
        for _ in range(10):
            await asyncio.sleep(0)
        other.maps = state(second, 3, b"ls")
        await read(daemon, client, name="seen", reset="clear")
        assert [(each.name, each.reset) for each in other.of(protocol.Maps)] == [("seen", "clear")]
        # The process that has ended keeps what was counted in it.
        assert await read(daemon, client, name="calls") == {"cat": 7, "ls": 3}
        await read(daemon, client, name="calls", reset="clear")
        assert await read(daemon, client, name="calls") == {"ls": 3}

    run(script)


def test_values_are_set_in_each_process(run: Run) -> None:
    async def script(daemon: FakeDaemon) -> None:
        client = FakeClient()
        backend = await daemon.attach(client)
        number = await insert(daemon, client)
        request = messages.SetMap(
            id=6,
            number=number,
            name="by",
            entries=[messages.MapEntry(["cat", 1], [5])],
            gone=[["cat", 2]],
        )
        answer = await daemon.ask(client, request, messages.MapListing)
        assert (answer.maps, answer.processes, answer.silent, answer.refused) == ([], 1, [], {})
        (asked,) = backend.of(protocol.SetMap)
        assert (asked.pid, asked.program, asked.name) == (PID, number, "by")
        assert (asked.entries, asked.gone) == ([([b"cat", 1], [5])], [[b"cat", 2]])

    run(script)


@pytest.mark.parametrize(
    ("name", "entry", "why"),
    [
        ("calls", messages.MapEntry(["cat"], [5]), "no map calls of values"),
        ("other", messages.MapEntry([], [5]), "no map other of values"),
        ("seen", messages.MapEntry([1], [5]), "a key or a value is none"),
        ("seen", messages.MapEntry([], [5, 6]), "a key or a value is none"),
        ("seen", messages.MapEntry([], [-1]), "a key or a value is none"),
        ("seen", messages.MapEntry([], [1 << 70]), "a key or a value is none"),
        ("by", messages.MapEntry(["cat", 1 << 70], [5]), "a key or a value is none"),
        ("by", messages.MapEntry(["cat", -1], [5]), "a key or a value is none"),
        ("by", messages.MapEntry(["cat" * 400, 1], [5]), "a key or a value is none"),
    ],
)
def test_what_cannot_be_set_is_refused(
    run: Run, name: str, entry: messages.MapEntry, why: str
) -> None:
    async def script(daemon: FakeDaemon) -> None:
        client = FakeClient()
        backend = await daemon.attach(client)
        number = await insert(daemon, client)
        requests = [messages.SetMap(id=6, number=number, name=name, entries=[entry])]
        if name == "seen" and entry.key:  # a key that there cannot be is not forgotten, either
            requests.append(messages.SetMap(id=7, number=number, name=name, gone=[entry.key]))
        for request in requests:
            with pytest.raises(Refusal, match=why):
                await daemon.ask(client, request, messages.MapListing)
        assert not backend.of(protocol.SetMap)

    run(script)


@pytest.mark.parametrize(
    ("keys", "why"),
    [([1, 2, 3], "map by has at most 2 keys, not 3"), ([1, 1], "map by: a key stands there twice")],
)
def test_more_keys_than_a_map_has_are_refused(run: Run, keys: list[int], why: str) -> None:
    async def script(daemon: FakeDaemon) -> None:
        client = FakeClient()
        backend = await daemon.attach(client)
        number = await insert(daemon, client)
        entries = [messages.MapEntry(["cat", key], [5]) for key in keys]
        request = messages.SetMap(id=6, number=number, name="by", entries=entries)
        with pytest.raises(Refusal, match=why):
            await daemon.ask(client, request, messages.MapListing)
        assert not backend.of(protocol.SetMap)

    run(script)


def test_where_values_were_not_set_is_said(run: Run) -> None:
    async def script(daemon: FakeDaemon) -> None:
        client = FakeClient()
        refusing, silent = await daemon.attach(client), await daemon.attach(client, PID + 1)
        number = await insert(daemon, client)
        other = await insert(daemon, client, PID + 1)
        refusing.refuse(protocol.SetMap, "no room")
        silent.pause(protocol.SetMap)
        silent.hurry = 0.01
        found = [
            await daemon.ask(
                client,
                messages.SetMap(
                    id=6, number=each, name="seen", entries=[messages.MapEntry([], [5])]
                ),
                messages.MapListing,
            )
            for each in (number, number, other, other + 1)
        ]
        assert [each.refused for each in found] == [{PID: "no room"}, {}, {}, {}]
        assert [each.silent for each in found] == [[], [], [PID + 1], []]
        assert [each.processes for each in found] == [0, 1, 0, 0]

    run(script)


def test_nothing_is_to_be_set_in_a_process_that_ends_meanwhile(run: Run) -> None:
    async def script(daemon: FakeDaemon) -> None:
        client = FakeClient()
        backend = await daemon.attach(client)
        number = await insert(daemon, client)
        pause = backend.pause(protocol.SetMap)
        backend.refuse(protocol.SetMap, f"process {PID} is gone")
        change = messages.SetMap(
            id=6, number=number, name="seen", entries=[messages.MapEntry([], [5])]
        )
        asked = asyncio.ensure_future(daemon.ask(client, change, messages.MapListing))
        await pause.came.wait()
        ends(backend, PID, [])
        pause.go.set()
        answer = await asked
        assert (answer.processes, answer.silent, answer.refused) == (0, [], {})

    run(script)


def test_keys_are_forgotten_in_ended_processes_too(run: Run) -> None:
    async def script(daemon: FakeDaemon) -> None:
        client = FakeClient()
        backend = await daemon.attach(client)
        other = await daemon.attach(client, PID + 1)
        number, second = await insert(daemon, client), await insert(daemon, client, PID + 1)
        other.maps = state(second, 3, b"ls")
        ends(backend, PID, state(number, 7))
        for _ in range(10):
            await asyncio.sleep(0)
        assert await read(daemon, client, name="calls") == {"cat": 7, "ls": 3}
        request = messages.SetMap(id=6, number=number, name="calls", gone=[["cat"], ["none"]])
        await daemon.ask(client, request, messages.MapListing)
        assert await read(daemon, client, name="calls") == {"ls": 3}

    run(script)


def test_those_of_ended_processes_are_reset_too(run: Run) -> None:
    async def script(daemon: FakeDaemon) -> None:
        client = FakeClient()
        backend = await daemon.attach(client)
        number = await insert(daemon, client)
        ends(backend, PID, state(number, 7))
        for _ in range(10):
            await asyncio.sleep(0)
        assert await read(daemon, client, reset="clear") == {"cat": 7}
        assert await read(daemon, client) == {}

    run(script)


def test_others_do_not_see_them(run: Run) -> None:
    async def script(daemon: FakeDaemon) -> None:
        client = FakeClient()
        backend = await daemon.attach(client)
        backend.maps = state(await insert(daemon, client), 1)
        assert await read(daemon, FakeClient(1001)) == {}
        with pytest.raises(Refusal, match="there is no map calls"):
            await read(daemon, FakeClient(1001), name="calls")
        assert await read(daemon, FakeClient(0)) == {"cat": 1, PID: 1}

    run(script)


def test_what_does_not_fit_into_a_message_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maps, "_MESSAGE", 150)
    entries = [messages.MapEntry([number], [1]) for number in range(10)]
    info = messages.MapInfo(
        number=1, program="x", pid=None, processes=1, map="m", kind="count", arguments=[],
        keys=1, size=9, signed=False, lost=0, left_out=1, entries=entries,
    )  # fmt: skip
    first, second = maps.bounded([info, info])
    assert (len(first.entries), first.left_out) == (10, 1)
    assert (len(second.entries), second.left_out) == (0, 11)


def test_nonsense_of_a_tracer_is_left_alone(run: Run) -> None:
    async def script(daemon: FakeDaemon) -> None:
        client = FakeClient()
        backend = await daemon.attach(client)
        number = await insert(daemon, client)
        bad: list[Entry] = [([1, 2], [1]), ([1], [1, 2]), ([], [1])]
        backend.maps = [
            protocol.MapState(number, 99, 0, [([1], [1])]),
            protocol.MapState(number, 0, 0, bad),
            *state(number, 2),
        ]
        assert await read(daemon, client) == {"cat": 2, PID: 2}
        ends(backend, PID, [protocol.MapState(number, 0, 0, bad), *state(number, 3)])
        for _ in range(10):
            await asyncio.sleep(0)
        assert await read(daemon, client) == {"cat": 3}

    run(script)


def test_a_tracer_that_does_not_answer_is_left_out_and_named(run: Run) -> None:
    async def script(daemon: FakeDaemon) -> None:
        client = FakeClient()
        backend, other = await daemon.attach(client), await daemon.attach(client, PID + 1)
        backend.maps = state(await insert(daemon, client), 1)
        other.maps = state(await insert(daemon, client, PID + 1), 2)
        pause = backend.pause(protocol.Maps)
        backend.hurry = 0.01
        request = messages.Maps(id=5, name="seen")
        answer = await daemon.ask(client, request, messages.MapListing)
        assert [each.pid for each in answer.maps] == [PID + 1]
        assert answer.silent == [PID]
        pause.go.set()

    run(script)


def test_what_was_reset_too_late_is_there_for_who_asks_next(run: Run) -> None:
    async def script(daemon: FakeDaemon) -> None:
        client = FakeClient()
        backend = await daemon.attach(client)
        number = await insert(daemon, client)
        backend.maps = state(number, 5)
        pause = backend.pause(protocol.Maps)
        backend.hurry = 0.01
        request = messages.Maps(id=5, reset="clear")
        answer = await daemon.ask(client, request, messages.MapListing)
        assert (answer.maps, answer.silent) == ([], [PID])
        backend.hurry = None
        pause.go.set()
        while backend.waits:
            await asyncio.sleep(0)
        backend.maps = state(number, 2)
        assert await read(daemon, client) == {"cat": 7, PID: 2}
        # Only of the map that is asked for.
        assert await read(daemon, client, name="seen", reset="clear") == {PID: 2}
        backend.maps = []
        assert await read(daemon, client, reset="clear") == {"cat": 5}
        assert await read(daemon, client) == {}

    run(script)


def test_variables_that_were_reset_too_late_are_told_in_the_log(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "dprobed")

    async def script(daemon: FakeDaemon) -> None:
        client = FakeClient()
        backend = await daemon.attach(client)
        number = await insert(daemon, client)
        backend.words = [7, 0]
        pause = backend.pause(protocol.Vars)
        backend.hurry = 0.01
        with pytest.raises(NoAnswer):
            await daemon.ask(client, messages.Vars(id=5, number=number, reset=True), messages.Words)
        pause.go.set()
        while backend.waits:
            await asyncio.sleep(0)
        assert f"process {PID}: program {number}: variables were set to 0 at the" in caplog.text
        assert "who had no answer in time; they were 7, 0" in caplog.text

    run(script)


def test_where_nobody_answers_a_value_may_not_be_set(run: Run) -> None:
    async def script(daemon: FakeDaemon) -> None:
        client = FakeClient()
        backend = await daemon.attach(client)
        number = await insert(daemon, client)
        pause = backend.pause(protocol.SetMap)
        backend.hurry = 0.01
        request = messages.SetMap(id=5, number=number, name="seen", entries=[])
        answer = await daemon.ask(client, request, messages.MapListing)
        assert answer.silent == [PID]
        pause.go.set()

    run(script)
