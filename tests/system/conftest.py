"""The service in a container, for all of its tests: booted once."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.container import SHARED, Container, booted, package

#: Short enough for a test to wait for, long enough for a busy machine.
WATCHDOG = 4


@pytest.fixture(scope="session")
def deb() -> Path:
    """Our Debian package."""
    return package()


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, deb: Path) -> Iterator[Container]:
    """A container with our package in it, as it is installed."""
    shared = tmp_path_factory.mktemp("shared")
    shutil.copy(deb, shared)
    with booted(f"dprobed-{os.getpid()}", shared) as container:
        container.write(
            "/etc/systemd/system/dprobed.service.d/test.conf",
            f"[Unit]\nStartLimitIntervalSec=0\n[Service]\nWatchdogSec={WATCHDOG}s\n",
        )
        container.run("dpkg", "--install", f"{SHARED}/{deb.name}")
        yield container
