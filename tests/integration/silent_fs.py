"""A mounted file system with one file, which stops to answer when it is told to."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from pathlib import Path
from typing import Self

import pytest


class SilentFiles:
    """Run ``silent_fs`` (of ``tests/targets``) in a folder; ``source``: what its file copies."""

    def __init__(self, program: Path, folder: Path, source: Path | None = None) -> None:
        self.mount = folder / "mount"
        self.mount.mkdir()
        if source is None:
            source = folder / "source"
            source.write_bytes(os.urandom(1 << 16))
        name = source.name
        self.path = self.mount / name
        self._process = subprocess.Popen(
            [program, source, self.mount, name], stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        if self._process.stdout.readline() != "ready\n":
            pytest.skip("no FUSE here")
        with contextlib.suppress(PermissionError):
            # Only what is told to be silent is: others at work do not make it late.
            os.setpriority(os.PRIO_PROCESS, self._process.pid, -15)

    def mute(self) -> None:
        """From now on it does not answer."""
        self._process.send_signal(signal.SIGUSR1)

    def answer(self) -> None:
        """It answers again, also what was asked meanwhile."""
        self._process.send_signal(signal.SIGUSR2)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()
