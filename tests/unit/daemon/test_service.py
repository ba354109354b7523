"""What systemd is told, by its own library, and what it gives."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from dprobed.daemon.service import ServiceManager, _watchdog_seconds
from dprobed.wire import messages


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """Where systemd listens for what services say."""
    path = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(path)
        sock.settimeout(20)
        monkeypatch.setenv("NOTIFY_SOCKET", path)
        yield sock


def said(manager: socket.socket) -> list[str]:
    return manager.recv(1 << 16).decode().splitlines()


class Answering:
    """A server that answers each line of a client with one."""

    async def serve_one(self, sock: socket.socket) -> None:
        reader, writer = await asyncio.open_unix_connection(sock=sock)

        async def answer() -> None:
            request = messages.decode_request(await reader.readline())
            assert isinstance(request, messages.Hello)
            writer.write(messages.encode(messages.Error(error="full")))
            await reader.read()
            writer.close()

        self.task = asyncio.get_running_loop().create_task(answer())


class Silent:
    """A server that takes clients in, and does nothing for them."""

    async def serve_one(self, sock: socket.socket) -> None:
        self.sock = sock


def test_without_systemd_nothing_happens() -> None:
    service = ServiceManager({})
    service.ready("well")
    with service.reloading():
        pass
    service.stopping()
    assert service.listeners == []
    asyncio.run(service.watch(Silent(), str))  # It returns.


def test_what_is_told(manager: socket.socket) -> None:
    service = ServiceManager()
    service.ready("2 programs")
    assert said(manager) == ["READY=1", "STATUS=2 programs"]
    with service.reloading():
        reloading, since = said(manager)
        assert (reloading, since.partition("=")[0]) == ("RELOADING=1", "MONOTONIC_USEC")
    assert said(manager) == ["READY=1"]
    service.stopping()
    assert said(manager)[0] == "STOPPING=1"


def test_the_watchdog_hears_of_us_while_clients_are_served(
    manager: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "30000")
    heard: list[list[str]] = []

    async def watch() -> None:
        watching = asyncio.create_task(ServiceManager().watch(Answering(), lambda: "well"))
        while len(heard) < 3:
            heard.append(await asyncio.to_thread(said, manager))
        watching.cancel()

    asyncio.run(watch())
    assert heard == [["WATCHDOG=1", "STATUS=well"], ["WATCHDOG=1"], ["WATCHDOG=1"]]


def test_a_loop_that_serves_nobody_tells_the_watchdog_nothing(
    manager: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "1000")
    server = Silent()

    async def watch() -> None:
        watching = asyncio.create_task(ServiceManager().watch(server, str))
        while not hasattr(server, "sock"):
            await asyncio.sleep(0)
        # Timers fire, and more than the watchdog's time goes by.
        await asyncio.sleep(0.01)
        watching.cancel()

    asyncio.run(watch())
    manager.setblocking(False)
    with pytest.raises(BlockingIOError):
        manager.recv(1)
    server.sock.close()


def test_a_daemon_without_a_descriptor_is_not_well_until_it_has_one(
    manager: socket.socket, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "3000")
    pair, failures = socket.socketpair, iter([True, True, False])

    def scarce() -> tuple[socket.socket, socket.socket]:
        if next(failures, False):
            raise OSError(errno.EMFILE, "too many open files")
        return pair()

    async def watch() -> None:
        monkeypatch.setattr(socket, "socketpair", scarce)
        watching = asyncio.create_task(ServiceManager().watch(Answering(), lambda: "well"))
        assert await asyncio.to_thread(said, manager) == ["STATUS=well"]
        assert await asyncio.to_thread(said, manager) == ["WATCHDOG=1"]
        watching.cancel()

    asyncio.run(watch())
    assert caplog.text.count("clients cannot be served: too many open files") == 1


def test_a_watchdog_of_another_process_is_not_ours(
    manager: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "1000")
    monkeypatch.setenv("WATCHDOG_PID", "1")

    async def watch() -> None:
        watching = asyncio.create_task(ServiceManager().watch(Answering(), lambda: "well"))
        assert await asyncio.to_thread(said, manager) == ["STATUS=well"]
        watching.cancel()

    asyncio.run(watch())


@pytest.mark.parametrize("value", ["", "x", "-5", "0"])
def test_a_watchdog_time_that_is_none(value: str) -> None:
    assert _watchdog_seconds({"WATCHDOG_USEC": value}) == 0


def test_a_manager_that_is_gone_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "none"))
    service = ServiceManager()
    for _ in range(3):
        service.ready("well")
    assert caplog.text.count("systemd cannot be told READY=1") == 1
