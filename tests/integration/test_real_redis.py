"""redis-server, which forks to save while it serves: every command and every child is counted."""

from __future__ import annotations

import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from tests.integration.client_support import Daemon, Json, tracer_of
from tests.service.surroundings import wait_until

#: Requests of the load, of each of two kinds.
REQUESTS: Final = 15000
SAVES: Final = 3

#: Each command, and in children that save each saving.
COUNTED: Final = """
name = redis-server
offset = processCommand
    abort
offset = rdbSave
    abort
"""


class Redis:
    """A server in a folder of its own, without a port."""

    def __init__(self, folder: Path) -> None:
        # Of its own, so that programs for it go into no other server of this machine.
        self.executable = Path(shutil.copy("/usr/bin/redis-server", folder / "redis-server"))
        self.socket = folder / "socket"
        self.process = subprocess.Popen(
            [
                *(self.executable, "--port", "0", "--unixsocket", self.socket),
                *("--save", "", "--dir", folder),
            ],
            stdout=subprocess.DEVNULL,
        )
        self.pid = self.process.pid
        self._connection = socket.socket(socket.AF_UNIX)
        self._connection.settimeout(20)
        # It is there before it is listened at.
        wait_until(lambda: self._connection.connect_ex(str(self.socket)) == 0)
        self._answers = self._connection.makefile("rb")

    def ask(self, command: str) -> str:
        """One command, and the text of its answer."""
        self._connection.sendall(command.encode() + b"\r\n")
        line = self._answers.readline()
        assert line[:1] in b"+$", line
        if line[:1] == b"+":
            return line[1:].decode().strip()
        return self._answers.read(int(line[1:]) + 2).decode()

    def info(self, name: str) -> str:
        """One of the numbers that it keeps."""
        lines = self.ask("INFO everything").splitlines()
        return next(line.partition(":")[2] for line in lines if line.startswith(f"{name}:"))

    def save(self) -> None:
        """Have a child save all of it, and wait for that."""
        assert self.ask("BGSAVE") == "Background saving started"
        wait_until(lambda: self.info("rdb_bgsave_in_progress") == "0")
        assert self.info("rdb_last_bgsave_status") == "ok"

    def close(self) -> None:
        """The end of it, whatever happened."""
        self._answers.close()
        self._connection.close()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


@contextmanager
def load(server: Redis) -> Iterator[subprocess.Popen[str]]:
    """Commands as fast as they are answered."""
    process = subprocess.Popen(
        [
            *("redis-benchmark", "-s", server.socket, "-n", str(REQUESTS), "-c", "8"),
            *("-t", "set,get", "-r", "1000", "--csv", "-e"),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Redis]:
    running = Redis(tmp_path)
    yield running
    running.close()


def probes(daemon: Daemon, place: str) -> list[Json]:
    rows = daemon.json("query", "counted")
    return [row for row in rows if row["type"] == "probe" and row["place"] == f"{place}+0x0"]


def test_every_command_and_every_child_is_counted(
    daemon: Daemon, server: Redis, tmp_path: Path
) -> None:
    source = tmp_path / "counted.rpn"
    source.write_text(COUNTED)
    daemon.json("insert", "--follow-forks", "--pid", server.pid, source)
    # The next command is the first that is counted; it does not count itself yet when it answers.
    before = int(server.info("total_commands_processed"))
    with load(server) as benchmark:
        for _ in range(SAVES):
            server.save()
        output, _ = benchmark.communicate(timeout=60)
    assert benchmark.returncode == 0, output
    assert [line.split(",")[0] for line in output.splitlines()[-2:]] == ['"SET"', '"GET"']
    after = int(server.info("total_commands_processed"))
    assert after - before > 2 * REQUESTS

    def states() -> dict[int, str]:
        return {row["pid"]: row["state"] for row in probes(daemon, "processCommand")}

    wait_until(lambda: sorted(states().values()) == ["active", *["ended"] * SAVES])
    assert states()[server.pid] == "active"
    hits = {row["pid"]: row["hits"] for row in probes(daemon, "processCommand")}
    assert hits.pop(server.pid) == after - before + 1
    assert set(hits.values()) == {0}
    saved = {row["pid"]: row["hits"] for row in probes(daemon, "rdbSave")}
    assert saved.pop(server.pid) == 0
    assert list(saved.values()) == [1] * SAVES
    assert all(row["missed"] == 0 for row in daemon.json("query", "counted"))
    daemon.json("remove", "--all")
    assert tracer_of(server.pid) == 0
    assert server.ask("PING") == "PONG"
