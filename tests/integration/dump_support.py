"""Reading cores with the tools that people read cores with."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from dprobed.wire.protocol import Dumped, NotDumped
from tests.integration.harness import TracerProcess

PROGRAM = """
name = "{module}"
major = 7
offset = probed
minor = 3
pass_count = {passed}
    push r,rip
    log 1
    exit dump
"""


def gdb(program: Path | str, core: Path | str, *commands: str) -> str:
    """What gdb says about a core."""
    arguments = [word for command in commands for word in ("-ex", command)]
    done = subprocess.run(
        ["gdb", "-nx", "-batch", *arguments, str(program), str(core)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout + done.stderr


def core_of(tracer: TracerProcess) -> Path:
    """Wait for the core of a program that ended by `exit dump`."""
    while True:
        for event in tracer.events:
            if isinstance(event, Dumped):
                return Path(event.path)
        assert not tracer.closed
        tracer.receive()


def no_core(tracer: TracerProcess, start: str) -> str:
    """Wait for the notice that there is none, for a reason that begins so."""
    while True:
        for event in tracer.events:
            if isinstance(event, NotDumped) and event.reason.startswith(start):
                return event.reason
        assert not tracer.closed
        tracer.receive()


def about(core: Path) -> dict[str, Any]:
    """The JSON file beside a core."""
    found: dict[str, Any] = json.loads(core.with_suffix(".json").read_text())
    return found


def children(pid: int) -> list[int]:
    """All children of a process, dead ones too."""
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        found += [int(each) for each in (task / "children").read_text().split()]
    return sorted(found)
