"""A daemon without room for one more descriptor: what it began is undone, at whatever step."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dprobed.backend import Backend
from dprobed.daemon.tracer_process import TracerProcesses
from dprobed.wire import protocol

USER = (os.getuid(), os.getgid())


def descriptors() -> set[str]:
    return {each.name for each in Path("/proc/self/fd").iterdir()}


def children() -> set[str]:
    """Those of this process, ended ones too."""
    return set(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())


@contextmanager
def room_for(more: int) -> Iterator[None]:
    """As many further descriptors can be opened."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # All free numbers up to the highest that is taken: none is free below the limit then.
    top = max(map(int, descriptors())) + 1
    taken = []
    while (opened := os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)) < top:
        taken.append(opened)
    os.close(opened)
    resource.setrlimit(resource.RLIMIT_NOFILE, (opened + more, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for each in taken:
            os.close(each)


def until_closed(sock: socket.socket, mailbox: socket.socket, changes: int) -> None:
    sock.recv(1)


def nothing(backend: Backend, event: protocol.Event) -> None:
    pass


@pytest.mark.parametrize("room", range(2))
def test_a_tracer_that_cannot_be_started(room: int) -> None:
    """It takes two at once: a socket pair, then what tells of the end in the place of one."""

    async def work() -> None:
        tracers = TracerProcesses(until_closed)
        with room_for(2):
            mailbox = tracers.resolvers.take(USER, USER[0])
        before, others = descriptors(), children()
        for _ in range(20):
            with room_for(room), pytest.raises(OSError, match="Too many open files"):
                await tracers.start(nothing, uid=USER[0], gid=USER[1], owner=USER[0])
        assert descriptors() == before
        assert not tracers.tracers
        # No tracer is counted that would keep the resolver's mailbox for ever.
        tracers.resolvers.give_back(USER, USER[0])
        tracers.resolvers._of((USER[0] + 1, USER[1]), USER[0])
        assert mailbox.fileno() < 0
        assert children() == others
        tracers.resolvers.stop()

    asyncio.run(work())
