"""The Debian package on a bare Debian: installed, upgraded while probes are active, purged."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest

from tests.integration.client_support import PATIENCE, WRITES
from tests.system.container import SHARED, booted
from tests.system.test_service import SERVICE, SOCKET, Beat, query, restarted

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can boot a container"),
    pytest.mark.timeout(1200),
]


def test_install_upgrade_and_purge(tmp_path: Path, deb: Path) -> None:
    shutil.copy(deb, tmp_path)
    with booted(f"dprobed-deb-{os.getpid()}", tmp_path) as machine:
        before = machine.out("sh", "-c", "find / -xdev -name '*dprobe*' -not -path '/mnt/*'")
        machine.run("dpkg", "--install", f"{SHARED}/{deb.name}")
        assert machine.shown(SOCKET, "ActiveState") == "active"
        assert machine.shown(SERVICE, "ActiveState") == "inactive"
        assert "dprobe:" in machine.out("getent", "group", "dprobe")
        changed = machine.out("dpkg", "--verify", "dprobed").splitlines()
        # Documentation is not installed here at all.
        assert [each for each in changed if not each.startswith("missing")] == []

        # Upgraded under load: the program goes on as if nobody had been there.
        beat = Beat(machine)
        machine.write("/run/writes.rpn", WRITES)
        machine.run("dprobe", "insert", "--pid", beat.pid, "/run/writes.rpn")
        machine.run("sh", "-c", "echo '# ours' >>/etc/dprobed/dprobed.toml")
        old = machine.shown(SERVICE, "MainPID")
        machine.run("dpkg", "--install", "--force-confold", f"{SHARED}/{deb.name}")
        restarted(machine, old)
        assert machine.shown(SOCKET, "ActiveState") == "active"
        beat.goes_on()
        assert "# ours" in machine.out("cat", "/etc/dprobed/dprobed.toml")
        query(machine)

        # Removed while probes are active.
        machine.run("dprobe", "insert", "--pid", beat.pid, "/run/writes.rpn")
        assert beat.tracer() != "0"
        machine.run("dpkg", "--remove", "dprobed")
        deadline = time.monotonic() + PATIENCE
        while beat.tracer() != "0":
            assert time.monotonic() < deadline, "it is still traced"
            time.sleep(0.05)
        beat.goes_on()
        assert machine.run("systemctl", "cat", SERVICE, check=False).returncode == 1
        assert "# ours" in machine.out("cat", "/etc/dprobed/dprobed.toml")

        machine.run("dpkg", "--purge", "dprobed")
        left = machine.out("sh", "-c", "find / -xdev -name '*dprobe*' -not -path '/mnt/*'")
        assert set(left.splitlines()) - set(before.splitlines()) == set()
        assert machine.out("systemctl", "list-units", "--failed", "--no-legend") == ""
