"""Tracer processes: how they start, with whose rights, and what the daemon sees of their end."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from dprobed.backend import Backend, BackendGone, BackendRefused
from dprobed.daemon.change_journals import ChangeJournalFiles
from dprobed.daemon.child_process import become
from dprobed.daemon.tracer_child import TracerAhead, fork_tracer
from dprobed.daemon.tracer_process import TracerProcess, TracerProcesses
from dprobed.wire import protocol
from dprobed.wire.framing import Unpacker
from dprobed.wire.notices import NoticeKind
from tests.leftovers import ended

Main = Callable[[socket.socket, socket.socket, int], None]


def say(sock: socket.socket, text: str) -> None:
    sock.sendall(protocol.pack(protocol.TargetEvent(NoticeKind.RECOVERED, os.getpid(), 0, text)))


@asynccontextmanager
async def supervised(
    main: Main, first: TracerAhead | None = None
) -> AsyncIterator[TracerProcesses]:
    """Tracers that run ``main``, until all of them and their resolvers have ended."""
    tracers = TracerProcesses(main, first)
    try:
        yield tracers
    finally:
        await tracers.stop(20)
        await ended(tracers.resolvers)


async def watch(
    main: Main, act: Callable[[TracerProcess], object] = TracerProcess.close
) -> tuple[list[str], str]:
    """Start a tracer that runs ``main``, act on it; what it said, and how it ended."""
    said: list[str] = []

    def note(_: Backend, event: protocol.Event) -> None:
        assert isinstance(event, protocol.TargetEvent)
        said.append(event.text)

    async with supervised(main) as supervisor:
        tracer = await supervisor.start(note, uid=os.geteuid(), gid=os.getegid(), owner=0)
        result = act(tracer)
        if asyncio.iscoroutine(result):
            await result
        how = await asyncio.wait_for(tracer.gone, 20)
        assert supervisor.tracers == set()
    return said, how


def test_an_event_on_which_the_daemon_fails_ends_the_tracer_and_nothing_hangs() -> None:
    def main(sock: socket.socket, mailbox: socket.socket, changes: int) -> None:
        say(sock, "one")
        say(sock, "two")
        until_end(sock)

    def fail(_: Backend, event: protocol.Event) -> None:
        raise LookupError("a defect")

    async def act() -> str:
        async with supervised(main) as tracers:
            tracer = await tracers.start(fail, uid=os.geteuid(), gid=os.getegid(), owner=0)
            with pytest.raises(BackendGone, match="internal error in the daemon"):
                await tracer.request(lambda seq: protocol.Query(seq, 1))
            return await asyncio.wait_for(tracer.gone, 20)

    assert asyncio.run(act()) == "internal error in the daemon (see its log)"


def ahead(main: Main) -> TracerAhead:
    """A tracer that runs ``main``, forked ahead for this user and its processes."""
    mailbox = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    user = os.geteuid(), os.getegid()
    journal = ChangeJournalFiles().make(user, user[0])
    return TracerAhead(journal, *fork_tracer(main, mailbox[0], journal), mailbox)


def test_a_tracer_that_was_forked_ahead_is_the_first_one_of_its_user() -> None:
    def main(sock: socket.socket, mailbox: socket.socket, changes: int) -> None:
        until_end(sock)

    async def act() -> None:
        first = ahead(main)
        uid, gid = first.journal.user
        async with supervised(main, first) as tracers:
            other = await tracers.start(ignore, uid=uid, gid=gid, owner=uid + 1)
            assert first.pid not in tracers.tracers
            own = await tracers.start(ignore, uid=uid, gid=gid, owner=uid)
            assert first.pid in tracers.tracers
            third = await tracers.start(ignore, uid=uid, gid=gid, owner=uid)
            assert len(tracers.tracers) == 3
            # What it asks comes to the resolver of its user, which both have.
            assert first.mailbox[0] is tracers.resolvers.take((uid, gid), uid)
            for tracer in (other, own, third):
                tracer.close()
                assert await asyncio.wait_for(tracer.gone, 20) == ""

    asyncio.run(act())


def test_a_tracer_that_was_forked_ahead_for_nothing_ends_with_the_daemon() -> None:
    async def act() -> int:
        first = ahead(lambda sock, mailbox, changes: until_end(sock))
        await TracerProcesses(lambda sock, mailbox, changes: None, first).stop(1)
        return first.pid

    with pytest.raises(ChildProcessError):
        os.waitpid(asyncio.run(act()), 0)


def ignore(_: Backend, event: protocol.Event) -> None:
    """Take an event of a tracer."""


def is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def until_end(sock: socket.socket) -> None:
    while sock.recv(4096):
        pass


def test_the_end_of_its_socket_ends_it_and_its_last_words_are_heard() -> None:
    def main(sock: socket.socket, mailbox: socket.socket, changes: int) -> None:
        until_end(sock)
        say(sock, "last words")

    assert asyncio.run(watch(main)) == (["last words"], "")


def test_it_inherits_nothing_but_its_sockets_and_its_journal() -> None:
    def main(sock: socket.socket, mailbox: socket.socket, changes: int) -> None:
        kept = sorted((sock.fileno(), mailbox.fileno(), changes))
        say(sock, str([number for number in range(3, 256) if is_open(number)] == kept))

    read, write = os.pipe()
    try:
        assert asyncio.run(watch(main)) == (["True"], "")
    finally:
        os.close(read)
        os.close(write)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signals_meant_for_the_daemon_do_not_end_it(number: signal.Signals) -> None:
    def main(sock: socket.socket, mailbox: socket.socket, changes: int) -> None:
        os.kill(os.getpid(), number)
        say(sock, "still here")

    assert asyncio.run(watch(main)) == (["still here"], "")


def crash(sock: socket.socket, mailbox: socket.socket, changes: int) -> None:
    raise RuntimeError("a defect")


def die(sock: socket.socket, mailbox: socket.socket, changes: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def babble(sock: socket.socket, mailbox: socket.socket, changes: int) -> None:
    sock.sendall(b"\xff" * 100)
    until_end(sock)


@pytest.mark.parametrize(
    ("main", "how"),
    [
        (crash, "internal error in the tracer (exit status 1; see the log)"),
        (die, "the tracer was killed by SIGKILL"),
        (babble, "protocol error from the tracer: a message of 4294967295 bytes"),
    ],
)
def test_how_it_ended_is_told(main: Main, how: str) -> None:
    assert asyncio.run(watch(main, lambda tracer: None))[1].startswith(how)


def test_a_request_is_answered_refused_or_has_nobody_to_answer() -> None:
    def main(sock: socket.socket, mailbox: socket.socket, changes: int) -> None:
        unpacker = Unpacker()
        answers = iter((protocol.Ok(1, words=[7]), protocol.Refused(2, "no"), None))
        for answer in answers:
            while (body := unpacker.next()) is None:
                unpacker.feed(sock.recv(4096))
            assert isinstance(protocol.decode_request(body), protocol.Vars)
            if answer is not None:
                sock.sendall(protocol.pack(answer))

    async def act(tracer: TracerProcess) -> None:
        answer = await tracer.request(lambda seq: protocol.Vars(seq=seq, pid=1))
        assert answer.words == [7]
        with pytest.raises(BackendRefused, match="no"):
            await tracer.request(lambda seq: protocol.Vars(seq=seq, pid=1))
        with pytest.raises(BackendGone):
            await tracer.request(lambda seq: protocol.Vars(seq=seq, pid=1))

    assert asyncio.run(watch(main, act)) == ([], "")


def test_a_request_that_cannot_be_sent_waits_for_no_answer() -> None:
    unheard: list[object] = []

    async def act(tracer: TracerProcess) -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda loop, context: unheard.append(context))
        with pytest.raises(OverflowError):
            await tracer.request(lambda seq: protocol.Vars(seq=seq, pid=1 << 70))
        tracer.close()

    assert asyncio.run(watch(lambda sock, mailbox, changes: until_end(sock), act)) == ([], "")
    gc.collect()  # What nobody heard is told when it goes.
    assert unheard == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_it_takes_the_identity_of_who_asked_for_good() -> None:
    def main(sock: socket.socket, mailbox: socket.socket, changes: int) -> None:
        become(65534, 65534)
        say(sock, f"{os.getresuid()} {os.getresgid()} {os.getgroups()}")
        try:
            os.setuid(0)
        except PermissionError:
            say(sock, "for good")

    ids = (65534, 65534, 65534)
    assert asyncio.run(watch(main)) == ([f"{ids} {ids} [65534]", "for good"], "")
