"""A daemon that is given its socket, by systemd's own `systemd-socket-activate`; no root needed."""

from __future__ import annotations

import socket as sockets
import subprocess
from pathlib import Path

from tests.integration.client_support import DPROBED, PATIENCE, dprobe, running_daemon


def test_the_first_connection_starts_it_and_the_socket_stays(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    command = ["systemd-socket-activate", f"--listen={path}", str(DPROBED)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as activated:
        assert activated.stderr is not None
        try:
            assert "Listening on" in activated.stderr.readline()
            # A daemon by hand must not take the socket away from who listens at it.
            second = [str(DPROBED), "--socket", str(path)]
            done = subprocess.run(
                second, capture_output=True, text=True, timeout=PATIENCE, check=False
            )
            assert done.returncode == 1
            assert "something else listens at" in done.stderr
            done = dprobe("--socket", path, "query")
            assert (done.returncode, done.stderr) == (0, "nothing is inserted\n")
            # The daemon has taken the place of what listened before.
            doctor = dprobe("--socket", path, "doctor").stdout
            assert f"process {activated.pid}, at {path}" in doctor
        finally:
            activated.terminate()
            activated.wait(PATIENCE)
    assert activated.returncode == 0
    assert path.exists()


def test_a_second_socket_is_refused(tmp_path: Path) -> None:
    command = ["systemd-socket-activate", f"--listen={tmp_path / 'a.sock'}"]
    command += [str(DPROBED), "--socket", str(tmp_path / "b.sock")]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as activated:
        assert activated.stderr is not None
        assert "Listening on" in activated.stderr.readline()
        dprobe("--socket", tmp_path / "a.sock", "query")
        assert activated.wait(PATIENCE) == 1
        assert "leave out --socket, or the socket unit" in activated.stderr.read()


def started_with(*given: str) -> str:
    """What a daemon says that was given this, and does not start."""
    done = subprocess.run(
        ["sh", "-c", f"LISTEN_PID=$$ {' '.join(given)} exec {DPROBED}"],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    return line


def test_what_was_not_given_is_said() -> None:
    for given in ("LISTEN_FDS=x", "LISTEN_FDS=3"):
        line = started_with(given)
        assert line.startswith("dprobed: what LISTEN_FDS says was given is not there: "), line


def test_a_socket_that_is_no_file_is_refused(tmp_path: Path) -> None:
    with sockets.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = ["systemd-socket-activate", f"--listen=127.0.0.1:{port}", str(DPROBED)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as activated:
        assert activated.stderr is not None
        assert "Listening on" in activated.stderr.readline()
        with sockets.create_connection(("127.0.0.1", port)):
            assert activated.wait(PATIENCE) == 1
        assert "systemd gave a socket without a path: ('127.0.0.1'" in activated.stderr.read()


def test_a_socket_that_a_dead_daemon_left_is_taken_over(tmp_path: Path) -> None:
    with running_daemon(tmp_path) as daemon:
        daemon.process.kill()
        daemon.process.wait(PATIENCE)
    with running_daemon(tmp_path) as daemon:
        assert dprobe("--socket", daemon.socket, "query").returncode == 0
