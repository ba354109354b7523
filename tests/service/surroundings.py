"""What every service of the tests needs: a folder, a policy that probes it, and waiting for it."""

from __future__ import annotations

import json
import os
import select
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

#: Seconds in which anything that is waited for happens.
PATIENCE: Final = 60.0

_POLICY: Final = """
[[policy]]
name = "service"
match.exe = "{exe}"
follow_forks = true
apply.programs = {programs}
"""


@contextmanager
def folder_for(service: str) -> Iterator[Path]:
    """A folder that whoever the service runs as can enter."""
    with tempfile.TemporaryDirectory(prefix=f"dprobed-{service}-") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def only_policy(folder: Path, executable: Path, programs: Iterable[Path]) -> Path:
    """The configuration of a daemon whose one policy puts these programs into a service."""
    policies = folder / "policies.d"
    policies.mkdir()
    text = _POLICY.format(exe=executable, programs=json.dumps([str(path) for path in programs]))
    (policies / "service.toml").write_text(text)
    path = folder / "dprobed.toml"
    path.write_text('policies = "policies.d"\n')
    return path


def wait_until(condition: Callable[[], bool]) -> None:
    """Look until it holds."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it did not come to be"
        time.sleep(0.005)


def wait_gone(pid: int) -> None:
    """Wait for the end of a process that is not ours."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        assert select.select([descriptor], [], [], PATIENCE)[0], f"process {pid} does not end"
    finally:
        os.close(descriptor)
