"""`check` and refusals: what is told of programs before a process is touched."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Awaitable, Callable, Iterator

import msgspec
import pytest

from dprobed.daemon import checking, quota
from dprobed.daemon.client import Refusal
from dprobed.proc import maps, refusals
from dprobed.program.bytecode import encode
from dprobed.program.rpn.parser import assemble
from dprobed.resolver.errors import LostError
from dprobed.wire import messages, protocol
from dprobed.wire import resolver as wire
from dprobed.wire.resolver import Answer, Question
from tests.fakes.backend import PID, FakeClient, FakeDaemon, facts, status

Script = Callable[[FakeDaemon], Awaitable[None]]
Run = Callable[[Script], None]

#: Three probes: lines 2, 5 and 7 of ``x.rpn``.
TEXT = "name = libc.so.6\n  offset = right\nexit\n\noffset = wrong\nexit\noffset = inside\nexit\n"
_SEGMENT = wire.Segment(0, 0, 1 << 40, 1 << 40, True, False)
FACTS = wire.FileFacts("ab12", "libfake.so", "dyn", True, (), (_SEGMENT,))
WRONG = wire.Refused("no symbol wrong", "the candidates have similar names", ("wrung",))


def place(name: str, boundary: str = "ok") -> wire.Places:
    found = wire.Place(16, 16, name, name, 0, "code", 1, boundary)  # type: ignore[arg-type]
    return wire.Places((found,))


async def answers(question: Question) -> Answer:
    """What a file says that has ``right``, and ``inside`` who knows where."""
    match question:
        case wire.Describe():
            return FACTS
        case wire.Resolve(spec="right"):
            return place("right")
        case wire.Resolve(spec="inside"):
            return place("inside", "unknown")
        case wire.ResolveData(spec="right"):
            return place("right")
    return WRONG


@pytest.fixture
def pid(run: Run) -> Iterator[int]:
    """A process, whose maps can be read: all is mapped once it speaks."""
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None and process.stdout is not None
        try:
            os.write(process.stdin.fileno(), b"x")
            assert os.read(process.stdout.fileno(), 1) == b"x"
            yield process.pid
        finally:
            process.kill()


def upload(text: str = TEXT, label: str = "x") -> messages.Upload:
    return messages.Upload(label=label, bytecode=encode(assemble(text, f"{label}.rpn")))


async def check(
    daemon: FakeDaemon, pid: int, *uploads: messages.Upload, client: FakeClient | None = None
) -> list[messages.MissingPlace]:
    """What is missing; nothing may have been begun for it."""
    daemon.processes.setdefault(pid, facts(pid, 0))
    request = messages.Check(id=1, pid=pid, programs=list(uploads or [upload()]))
    try:
        reply = await daemon.ask(client or FakeClient(0), request, messages.Checked)
        return reply.missing
    finally:
        assert daemon.backends.made == []
        assert pid not in daemon.app.core.targets.by_pid


def test_places_that_are_not_there_are_told_with_their_source(run: Run, pid: int) -> None:
    async def script(daemon: FakeDaemon) -> None:
        daemon.resolvers.answer = answers
        good = upload("name = libc.so.6\noffset = right\nexit\n")
        wrong, inside = await check(daemon, pid, good, upload())
        assert wrong == messages.MissingPlace(
            program=1,
            probe=1,
            source="x.rpn:5:10",
            message="no symbol wrong",
            hint="the candidates have similar names",
            candidates=["wrung"],
        )
        assert (inside.probe, inside.source) == (2, "x.rpn:7:10")
        assert "nothing tells whether an instruction begins at inside" in inside.message
        assert daemon.resolvers.users == {((0, 0), 0)}

    run(script)


def test_roots_questions_about_others_files_are_not_its_own_resolvers(run: Run, pid: int) -> None:
    async def script(daemon: FakeDaemon) -> None:
        daemon.resolvers.answer = answers
        daemon.processes[pid] = facts(pid, 1000)
        await check(daemon, pid, upload())
        (((uid, _), owner),) = daemon.resolvers.users
        assert (uid, owner) == (0, 1000)

    run(script)


@pytest.mark.parametrize(
    ("probe", "is_missing"),
    [
        ("offset = inside\nopcode = 55", False),
        ("address = inside", True),
        ("address = right\nwatchpoint = w", False),
        ("address = wrong\nwatchpoint = w", True),
        ("address = 0x1000\nwatchpoint = w", False),
        ("address = 0x1000", True),
    ],
)
def test_every_kind_of_place(run: Run, pid: int, probe: str, is_missing: bool) -> None:
    async def script(daemon: FakeDaemon) -> None:
        daemon.resolvers.answer = answers
        found = await check(daemon, pid, upload(f"name = libc.so.6\n{probe}\nexit\n"))
        assert len(found) == is_missing

    run(script)


@pytest.mark.parametrize(
    ("name", "missing"),
    [("libfake.so", 2), ("AB12", 2), ("libother.so", 0), ("/lib/libfake.so", 0)],
)
def test_modules_are_known_by_what_is_in_the_file_too(
    run: Run, pid: int, name: str, missing: int
) -> None:
    async def script(daemon: FakeDaemon) -> None:
        daemon.resolvers.answer = answers
        found = await check(daemon, pid, upload(TEXT.replace("libc.so.6", name)))
        assert len(found) == missing
        reads = [each for each in daemon.resolvers.asked if isinstance(each, wire.Describe)]
        assert len(reads) == (0 if "/" in name else len(maps.modules(pid)))

    run(script)


def test_a_place_in_one_of_two_files_is_enough(run: Run, pid: int) -> None:
    """Both have the name: one by its path, one by its soname."""

    async def script(daemon: FakeDaemon) -> None:
        async def answer(question: Question) -> Answer:
            by_path = question.path.endswith("libc.so.6")
            return (
                WRONG if by_path and isinstance(question, wire.Resolve) else await answers(question)
            )

        daemon.resolvers.answer = answer
        one = upload("name = libc.so.6\noffset = right\nexit\n")
        assert len(await check(daemon, pid, one)) == 1
        soname = msgspec.structs.replace(FACTS, soname="libc.so.6")

        async def both(question: Question) -> Answer:
            return soname if isinstance(question, wire.Describe) else await answer(question)

        daemon.resolvers.answer = both
        assert await check(daemon, pid, one) == []

    run(script)


@pytest.mark.parametrize("of", [wire.Describe, wire.Resolve])
@pytest.mark.parametrize("how", ["silent", "dead"])
def test_a_resolver_without_an_answer_is_for_the_tracer_to_wait_for(
    run: Run, pid: int, monkeypatch: pytest.MonkeyPatch, of: type, how: str
) -> None:
    monkeypatch.setattr(checking, "PATIENCE", 0.05)

    async def answer(question: Question) -> Answer:
        if isinstance(question, of):
            if how == "dead":
                raise LostError("the resolver ended")
            await asyncio.Event().wait()
        return await answers(question)

    async def script(daemon: FakeDaemon) -> None:
        daemon.resolvers.answer = answer
        assert await check(daemon, pid) == []
        if of is wire.Resolve:  # once for all three probes
            assert sum(isinstance(each, of) for each in daemon.resolvers.asked) == 1

    run(script)


def test_the_daemon_does_something_else_meanwhile(run: Run, pid: int) -> None:
    async def script(daemon: FakeDaemon) -> None:
        go = asyncio.Event()

        async def answer(question: Question) -> Answer:
            await go.wait()
            return await answers(question)

        daemon.resolvers.answer = answer
        asked = asyncio.ensure_future(check(daemon, pid))
        while not daemon.resolvers.asked:
            await asyncio.sleep(0)
        await daemon.query(FakeClient())
        go.set()
        assert len(await asked) == 2

    run(script)


def test_what_cannot_be_looked_into_is_not_judged(
    run: Run, pid: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another's process, one that is marked as not to be read, one that maps too much, none."""

    async def script(daemon: FakeDaemon) -> None:
        daemon.resolvers.answer = answers
        assert await check(daemon, PID, client=FakeClient()) == []
        daemon.processes[pid] = facts(pid)
        assert await check(daemon, pid, client=FakeClient(1000)) == []
        with monkeypatch.context() as patch:
            patch.setattr(checking, "_MOST_FILES", 1)
            assert await check(daemon, pid) == []
        with monkeypatch.context() as patch:
            patch.setattr(checking, "MOST_BYTES", 100)
            assert await check(daemon, pid) == []
        assert daemon.resolvers.asked == []
        assert len(await check(daemon, pid)) == 2

    run(script)


def test_who_may_look_into_a_process(pid: int, monkeypatch: pytest.MonkeyPatch) -> None:
    uid, gid = os.getresuid()[2], os.getresgid()[2]
    assert checking.may_read(pid, (0, 0))
    assert not checking.may_read(pid, (uid + 1, gid))
    if uid:
        assert checking.may_read(pid, (uid, gid))
        assert not checking.may_read(pid, (uid, gid + 1))
        monkeypatch.setattr(refusals, "dumpable", lambda pid, uid: False)
        assert not checking.may_read(pid, (uid, gid))
    assert not checking.may_read(PID, (uid + 1, gid))


def test_what_insert_would_refuse(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    async def script(daemon: FakeDaemon) -> None:
        good = upload()
        nobody = upload("name = a\noffset = f\n\n  exit nobody\n", "y")
        with pytest.raises(Refusal, match=r"^y\.rpn:4:3: y: no facility nobody is registered; reg"):
            await check(daemon, PID, good, nobody, client=FakeClient())
        with pytest.raises(Refusal, match="user 1001 may not touch process"):
            await check(daemon, PID, good, client=FakeClient(1001))
        client = FakeClient()
        with pytest.raises(Refusal, match="is part of dprobed itself"):
            await check(daemon, client.pid, good, client=client)
        with pytest.raises(Refusal, match="is gone"):
            gone = messages.Check(id=1, pid=PID + 1000, programs=[good])
            await daemon.ask(client, gone, messages.Checked)
        monkeypatch.setattr(quota, "PROGRAMS", 1)
        with pytest.raises(Refusal, match=r"user 1000 has 0 programs inserted \(limit 1\)"):
            await check(daemon, PID, good, good, client=client)

    run(script)


def test_a_probe_that_does_not_work_says_where_it_is_written(run: Run) -> None:
    async def script(daemon: FakeDaemon) -> None:
        client = FakeClient()
        backend = await daemon.attach(client)
        request = messages.Insert(id=2, pid=PID, programs=[upload()])
        inserted = await daemon.ask(client, request, messages.Inserted)
        assert [probe.source for probe in inserted.probes] == ["", "", ""]
        (number,) = backend.programs[PID]
        for state, source in (
            (protocol.State.MISMATCH, "x.rpn:5:10"),
            (protocol.State.PENDING, ""),
            (protocol.State.NO_DEBUG_REGISTER, "x.rpn:5:10"),
            (protocol.State.EXCLUDED, "x.rpn:5:10"),
            (protocol.State.FAILED, "x.rpn:5:10"),
        ):
            told = msgspec.structs.replace(status(number, 1), state=state, reason="so")
            backend.tell(protocol.Changed(PID, [told]))
            (probe,) = client.heard(messages.StateChange)[-1].probes
            assert (probe.state, probe.source) == (str(state), source)
        shown = {probe.probe: probe.source for probe in (await daemon.query(client)).probes}
        assert set(shown) == {0, 1, 2}

    run(script)


def test_one_program_of_several_is_refused_before_the_first_is_in(run: Run) -> None:
    async def script(daemon: FakeDaemon) -> None:
        client = FakeClient()
        backend = await daemon.attach(client)
        await daemon.insert(client, keep=True)
        bad = upload("name = a\noffset = f\nexit nobody\n", "bad")
        for programs in ([upload(), bad], [bad, upload()]):
            request = messages.Insert(id=2, pid=PID, programs=programs, present="replace")
            with pytest.raises(Refusal, match="bad: no facility nobody"):
                await daemon.ask(client, request, messages.Inserted)
        assert len(backend.of(protocol.Insert)) == 1
        assert backend.of(protocol.Remove) == []

    run(script)
