"""What is doubtful about probes that never fired, and what is done to find that out."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from dprobed.daemon import doubts
from dprobed.proc import maps
from dprobed.program.bytecode import encode
from dprobed.program.rpn.parser import assemble
from dprobed.wire import messages
from dprobed.wire import resolver as wire
from dprobed.wire.resolver import Answer, Question
from tests.fakes.backend import FakeClient, FakeDaemon, facts

Run = Callable[[Callable[[FakeDaemon], Awaitable[None]]], None]

_SEGMENT = wire.Segment(0, 0, 1 << 40, 1 << 40, True, False)
#: Of a file that can be mapped at one place only: what is said of its words are their addresses.
FACTS = wire.FileFacts("ab12", None, "exec", False, (), (_SEGMENT,))


@pytest.fixture
def pid() -> Iterator[int]:
    """A process that maps a program and the C library."""
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"x\n")
        process.stdin.flush()
        assert process.stdout.readline() == b"x\n"
        yield process.pid
        process.stdin.close()


def modules(pid: int) -> tuple[maps.Module, maps.Module]:
    """The program that a process runs, and its C library."""
    program = str(Path(f"/proc/{pid}/exe").readlink())
    found = {"program" if each.path == program else Path(each.path).name: each
             for each in maps.modules(pid)}  # fmt: skip
    return found["program"], found["libc.so.6"]


def opened() -> set[str]:
    """What is open here."""
    names = set()
    for each in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # that by which they are listed
            names.add(str(each.readlink()))
    return names


async def in_doubt(daemon: FakeDaemon, pid: int, text: str) -> str:
    """What is said of a probe that is in its place."""
    client = FakeClient(0)
    daemon.processes[pid] = facts(pid, 0)
    await daemon.attach(client, pid)
    upload = messages.Upload(label="x", bytecode=encode(assemble(text, "x.rpn")))
    request = messages.Insert(id=2, pid=pid, programs=[upload])
    await daemon.ask(client, request, messages.Inserted)
    (info,) = (await daemon.query(client)).probes
    return info.doubt


CALLS = "name = libc.so.6\noffset = getppid\nexit\n"


def test_words_are_read_by_the_resolver_and_only_those_of_their_module(run: Run, pid: int) -> None:
    """The file says where they are, which may be anywhere."""
    program, library = modules(pid)
    own = next(each for each in program.mappings if each.perms[0] == "r")
    other = next(each for each in library.mappings if each.perms[0] == "r")
    code = next(each for each in program.mappings if each.executable)
    asked: list[tuple[int, ...]] = []

    async def answers(question: Question) -> Answer:
        match question:
            case wire.Describe():
                return FACTS
            case wire.ImportSlots() if question.path == library.path:
                return wire.Slots((own.start, other.start, other.start + 8, other.end - 4, 0))
            case wire.ImportSlots():
                return wire.Slots(())
            case wire.MemoryWords():
                asked.append(question.addresses)
                return wire.Words((None, code.start))
        raise AssertionError(question)

    async def script(daemon: FakeDaemon) -> None:
        daemon.resolvers.answer = answers
        said = await in_doubt(daemon, pid, CALLS)
        assert said.startswith(f"`getppid` is {Path(program.path).name}'s: libc.so.6 calls that")
        assert set(asked) == {(other.start, other.start + 8)}

    run(script)


def test_words_that_do_not_come_are_in_no_doubt(
    run: Run, pid: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doubts, "_SECONDS", 0.05)
    program, _ = modules(pid)

    async def answers(question: Question) -> Answer:
        match question:
            case wire.Describe():
                return FACTS
            case wire.ImportSlots():
                return wire.Slots((program.base,))
        await asyncio.Event().wait()
        raise AssertionError

    async def script(daemon: FakeDaemon) -> None:
        daemon.resolvers.answer = answers
        assert await in_doubt(daemon, pid, CALLS) == ""
        assert any(isinstance(each, wire.MemoryWords) for each in daemon.resolvers.asked)
        assert f"/proc/{pid}/mem" not in opened()

    run(script)


def test_similar_names_hold_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process may map thousands of files, called what makes a comparison take long."""
    name = "ab" * 100
    paths = [f"/tmp/{'ab' * 90}{'ba' * 10}{number}" for number in range(4096)]
    mapping = maps.Mapping(0, 1, "r-xp", 0, "", 0, "", False)
    process = doubts._Process(
        os.getpid(), 0, [maps.Module(1, 1, path, ("", 0), (mapping,)) for path in paths]
    )

    async def main() -> None:
        turns = 0

        async def others() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        other = asyncio.create_task(others())
        assert await process.near(name) == [Path(each).name for each in paths[:3]]
        assert turns >= 256
        other.cancel()

    asyncio.run(main())
