"""nginx with its workers under load: no request fails for our sake, and the counts agree."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from urllib.request import urlopen

import pytest

from tests.integration.client_support import (
    Daemon,
    children,
    running_daemon,
    tracer_of,
    wait_end,
)
from tests.service.load import Load
from tests.service.nginx import Nginx, nginx, wait_until
from tests.service.probed import (
    PROGRAMS,
    deployments,
    followed,
    probed,
    sources,
    wait_probed,
)

#: Requests that are served between one event and the next.
STEP = 1500


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    with running_daemon(tmp_path) as running:
        yield running


@pytest.fixture
def service() -> Iterator[Nginx]:
    with nginx() as ready:
        yield ready


def deploy(daemon: Daemon, folder: Path) -> None:
    daemon.json("insert", *sources(folder), "--exe", "/usr/sbin/nginx")


def go_through_everything(service: Nginx, load: Load) -> None:
    """What may happen to a service in its life, while it serves."""
    load.more(STEP)
    service.replace_worker(service.workers()[0])
    load.more(STEP)
    service.reload()
    load.more(STEP)
    service.replace_library()
    service.upgrade()
    load.more(STEP)


def test_without_probes_no_request_fails(service: Nginx) -> None:
    """What the others are to be compared with: otherwise they would show nothing of ours."""
    service.start()
    with Load(service.port, "/plain", "/zipped") as load:
        go_through_everything(service, load)
        result = load.end()
    assert (result["failed"], result["failures"]) == (0, [])
    assert service.logged().total() == result["answered"]
    service.stop()
    assert service.complaints() == []


def test_with_probes_no_request_fails_and_all_counts_agree(
    daemon: Daemon, service: Nginx, tmp_path: Path
) -> None:
    deploy(daemon, tmp_path)
    service.start()
    wait_probed(daemon, service)
    first = {service.master, *service.workers()}
    with followed(daemon, tmp_path) as records:
        with Load(service.port, "/plain", "/zipped") as load:
            go_through_everything(service, load)
            wait_probed(daemon, service)
            last = {service.master, *service.workers()}
            result = load.end()
        assert (result["failed"], result["failures"]) == (0, [])
        assert last == probed(daemon)
        service.stop()
        wait_until(lambda: not any(row["processes"] for row in deployments(daemon).values()))
        assert service.complaints() == []
        for program, path in (("requests", None), ("zipped", "/zipped")):
            logged = service.logged(path)
            row = deployments(daemon)[program]
            asked = result["answered"] if path is None else result["paths"][path]
            assert logged.total() == asked
            records.wait_complete(program, row["hits"])
            seen = records.by_process(program)
            assert (row["ran"], row["missed_hits"], row["dropped"]) == (seen.total(), 0, 0)
            assert row["hits"] == seen.total()
            assert {pid: logged[pid] for pid in first} == {pid: seen[pid] for pid in first}
