"""Hostile files of one user, root's daemon, and another user: who feels what is in them."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.integration.client_support import Json, children
from tests.integration.policy_support import (
    DAEMON,
    NOBODY,
    Place,
    answer,
    asking,
    attach,
    cat_of,
    insert,
    upload,
)
from tests.integration.test_hazard_users import busy
from tests.integration.test_resolver import MAPS, built, started
from tests.unit.location_files import (
    endless_dynamic,
    endless_needs,
    endless_sections,
    endless_segments,
    endless_strings,
    endless_symbols,
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]

#: Seconds of CPU that another user's requests cost the daemon's loop, whatever is read meanwhile.
MOST = 0.1
#: Bytes that daemon and tracers have at most.
MOST_MEMORY = 200 << 20


def resident(pid: int) -> int:
    """Bytes of memory that a process has; none where it has ended meanwhile."""
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.NoSuchProcess:
        return 0


@pytest.mark.parametrize(
    "make",
    [
        endless_dynamic,
        endless_segments,
        endless_sections,
        endless_strings,
        endless_symbols,
        endless_needs,
    ],
)
def test_only_its_own_user_feels_it(place: Place, make: Callable[[Path], Path]) -> None:
    hostile = make(place.folder / "hostile.so")
    maps = built(place.folder, "maps", MAPS)
    getenv = upload("name = libc.so.6\noffset = getenv\nexit\n", "getenv")
    with (
        place.daemon() as daemon,
        started(maps, hostile, user=NOBODY) as bad,
        cat_of(DAEMON) as good,
        asking(daemon) as attacker,
        asking(daemon, DAEMON) as other,
    ):
        assert attach(other, good.pid)["type"] == "attached"
        assert attach(attacker, bad.pid)["type"] == "attached"
        found: list[Json] = []

        def ask() -> None:
            found.append(insert(attacker, bad.pid, upload(f"name = {hostile}\noffset = f\nexit\n")))

        asker = threading.Thread(target=ask)
        asker.start()
        while asker.is_alive():
            began = busy(daemon)
            assert answer(other, {"type": "query", "id": 3})["type"] == "status"
            assert busy(daemon) - began < MOST
            asker.join(0.01)
            for pid in (daemon.process.pid, *children(daemon.process.pid)):
                assert resident(pid) < MOST_MEMORY
        (probe,) = found[0]["probes"]
        assert probe["state"] != "active"
        assert str(hostile) in probe["reason"], probe
        # Whose files are read as ever.
        (probe,) = insert(other, good.pid, getenv)["probes"]
        assert probe["state"] == "active", probe
        (probe,) = insert(attacker, bad.pid, getenv)["probes"]
        assert probe["state"] == "active", probe
