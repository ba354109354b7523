"""What a client imports before it starts a private daemon, which is to get ready meanwhile."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize("command", ["run", "attach", "dump"])
def test_little_is_imported_before_the_private_daemon_is_started(command: str) -> None:
    code = f"import sys, dprobe.main, dprobe.commands.{command}; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True
    )
    there = set(done.stdout.split())
    assert "dprobe.lib.private" in there
    assert not there & {"msgspec", "dataclasses", "asyncio", "rich", "iced_x86", "elftools"}
    for name in ("wire.messages", "program", "binary", "resolver", "record"):
        assert f"dprobed.{name}" not in there
