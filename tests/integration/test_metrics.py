"""Metrics of a real daemon, scraped as Prometheus does it, and by who means no good."""

from __future__ import annotations

import http.client
import os
import socket
import stat
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.integration.client_support import (
    DPROBED,
    Cat,
    cat,
    program,
    running_daemon,
)

#: An address of our own, of the 16 million that this machine has for itself.
HOST = f"127.{os.getpid() >> 16 & 63 | 64}.{os.getpid() >> 8 & 255}.{os.getpid() & 255}"
PORT = 9464


@pytest.fixture
def target() -> Iterator[Cat]:
    with cat() as target:
        yield target


def config(folder: Path, listen: object) -> Path:
    path = folder / "metrics.toml"
    path.write_text(f'[metrics]\nlisten = "{listen}"\n')
    return path


def scrape(connection: http.client.HTTPConnection) -> dict[str, float]:
    connection.request("GET", "/metrics")
    answer = connection.getresponse()
    assert answer.status == 200
    lines = [line for line in answer.read().decode().splitlines() if not line.startswith("#")]
    connection.close()
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}


def scrape_port() -> dict[str, float]:
    return scrape(http.client.HTTPConnection(HOST, PORT, timeout=60))


def scrape_socket(path: Path) -> dict[str, float]:
    connection = http.client.HTTPConnection("localhost", timeout=60)
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect(str(path))
    return scrape(connection)


def test_a_port_of_this_machine(tmp_path: Path, target: Cat) -> None:
    options = ("--config", config(tmp_path, f"{HOST}:{PORT}"))
    with running_daemon(tmp_path, *options) as daemon, ExitStack() as silent:
        # Who connects and says nothing, more of them than it takes, keeps nobody out.
        for _ in range(64):
            silent.enter_context(socket.create_connection((HOST, PORT), timeout=60))
        daemon.dprobe("insert", program(tmp_path), "-p", target.pid)
        target.say("123")
        daemon.query()  # The tracer has counted it by now.
        found = scrape_port()
        assert found['dprobed_hits_total{process="cat",program="writes"}'] == 1
        assert (
            found["dprobed_targets"] == found["dprobed_programs"] == found["dprobed_tracers"] == 1
        )
        assert found['dprobed_probes{state="active"}'] == 1
        assert found['dprobed_overhead_seconds_total{process="cat"}'] > 0
        assert found['dprobed_handler_queue_limit{facility="dump",handler="dump"}'] > 0


def test_a_socket_that_only_its_owner_may_use(tmp_path: Path, target: Cat) -> None:
    path = tmp_path / "metrics.sock"
    with running_daemon(tmp_path, "--config", config(tmp_path, path)) as daemon:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        daemon.dprobe("insert", program(tmp_path), "-p", target.pid)
        target.say("123")
        target.say("45")
        # What it had counted stays, when it is out.
        daemon.dprobe("remove", "--all")
        found = scrape_socket(path)
        assert found['dprobed_hits_total{process="cat",program="writes"}'] == 2
        assert found["dprobed_targets"] == 0
    assert not path.exists()


def test_where_it_cannot_be_served_it_does_not_start(tmp_path: Path) -> None:
    with socket.create_server((HOST, PORT + 1)):
        path = config(tmp_path, f"{HOST}:{PORT + 1}")
        options: list[str | Path] = ["--socket", tmp_path / "s", "--config", path]
        done = subprocess.run([DPROBED, *options], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == f"dprobed: metrics: {HOST} port {PORT + 1}: Address already in use\n"
    assert not (tmp_path / "s").exists()
