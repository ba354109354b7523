"""What a client imports before it forks a private daemon: what both need, and nothing else."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize("command", ["run", "attach", "dump"])
def test_what_is_imported_before_the_private_daemon_is_forked(command: str) -> None:
    code = f"import sys, dprobe.main, dprobe.commands.{command}; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True
    )
    there = set(done.stdout.split())
    assert {"dprobe.private", "dprobed.wire.messages"} <= there
    assert not there & {"dataclasses", "asyncio", "rich", "elftools", "logging"}
    for name in ("program.rpn.parser", "daemon", "tracer", "resolver.service", "policy"):
        assert f"dprobed.{name}" not in there


def test_what_a_command_printed_is_written_however_it_ends() -> None:
    code = (
        "import dprobe.main, dprobe.__main__ as command\n"
        "dprobe.main.main = lambda: print('printed', end='') or 3\n"
        "command.main()"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (3, b"printed", b"")
