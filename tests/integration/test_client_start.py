"""The first moments of a command: Ctrl-C before it is ready, and its private daemon."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.integration.client_support import DPROBE, children, program, tracer_of, wait_end

DPROBED = DPROBE.with_name("dprobed")


@pytest.mark.parametrize(
    ("command", "module", "status"),
    [
        (DPROBE, "msgspec", -signal.SIGINT),  # for the private daemon
        (DPROBE, "click", -signal.SIGINT),
        (DPROBE, "difflib", 130),  # for the command that was asked for
        (DPROBED, "asyncio", -signal.SIGINT),
    ],
)
@pytest.mark.parametrize("ignored", [False, True])
def test_ctrl_c_while_a_command_is_imported(
    tmp_path: Path, command: Path, module: str, status: int, ignored: bool
) -> None:
    """It ends without a traceback, or takes no notice where it is to ignore it."""
    text = "import os, signal\nos.kill(os.getpid(), signal.SIGINT)\nos._exit(7)\n"
    (tmp_path / f"{module}.py").write_text(text)
    done = subprocess.run(
        [command, "run", program(tmp_path), "--", "true"],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        preexec_fn=lambda: signal.signal(
            signal.SIGINT, signal.SIG_IGN if ignored else signal.SIG_DFL
        ),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.stdout, done.stderr.strip()) == ("", "")
    assert done.returncode == (7 if ignored else status)


def test_a_private_daemon_is_not_taken_for_its_client(tmp_path: Path) -> None:
    """It is forked from the client, and has nothing of it: no name, descriptor, or signals."""
    with (tmp_path / "held").open("w") as held:
        client = subprocess.Popen(
            [DPROBE, "run", program(tmp_path), "--", "cat"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            pass_fds=[held.fileno()],
        )
        assert client.stdin is not None and client.stdout is not None
        client.stdin.write(b"in\n")
        client.stdin.flush()
        assert client.stdout.readline() == b"in\n"
        (command,) = (each for each in children(client.pid) if tracer_of(each))
        (daemon,) = (each for each in children(client.pid) if each != command)
        tracer = tracer_of(command)
        for pid in (daemon, tracer):
            shown = Path(f"/proc/{pid}")
            assert (shown / "comm").read_text() == "dprobed\n"
            assert (shown / "cmdline").read_bytes().rstrip(b"\0") == b"dprobed: private daemon"
            links = [str(each.readlink()) for each in (shown / "fd").iterdir()]
            assert str(tmp_path / "held") not in links
            assert links.count("/dev/null") == 2
            assert (shown / "cwd").readlink() == Path("/")
            assert os.getsid(pid) not in (os.getsid(0), os.getsid(client.pid))
        assert b"run" in Path(f"/proc/{client.pid}/cmdline").read_bytes().split(b"\0")
        client.kill()
        client.wait()
        assert wait_end(daemon)
        assert wait_end(tracer)
        # The command goes on.
        client.stdin.write(b"on\n")
        client.stdin.flush()
        assert client.stdout.readline() == b"on\n"
        client.communicate()
        assert wait_end(command)


@pytest.mark.parametrize(
    ("line", "status"),
    [
        (["run", "--no-such-option", "-", "--", "true"], 2),
        (["run", "-", "--", "/no/such/command"], 127),
        (["attach", "--private", "1"], 2),
        (["dump", "--no-such-option", "1"], 2),
    ],
)
def test_a_daemon_that_was_forked_for_nothing_ends_before_its_client(
    tmp_path: Path, line: list[str], status: int
) -> None:
    """It is forked before the command line is read."""
    mark = f"MARK={tmp_path}"
    done = subprocess.run(
        ["env", mark, DPROBE, *line],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    left = []
    for each in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if mark.encode() in each.read_bytes().split(b"\0"):
                left.append(each.parent.name)
    assert left == []
    assert done.returncode == status
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert done.stderr.startswith("dprobe: ")
