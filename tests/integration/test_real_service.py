"""nginx with its workers under load: no request fails for our sake, and the counts agree."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.client_support import (
    Daemon,
    children,
    running_daemon,
    tracer_of,
    wait_end,
)
from tests.service.load import CONNECTIONS, Load
from tests.service.nginx import WORKERS, Nginx, nginx, wait_gone, wait_until
from tests.service.probed import (
    active,
    deployments,
    followed,
    hits,
    probed,
    sources,
    wait_probed,
)

#: Only counted.
COUNTED = """
name = {module}
offset = {place}
    abort
"""
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


def test_where_forks_are_followed_every_request_is_counted(
    daemon: Daemon, service: Nginx, tmp_path: Path
) -> None:
    """From the first instruction of each worker, and through the master's `exec`."""
    service.start()
    for pid in (service.master, *service.workers()):
        daemon.json("insert", "--follow-forks", "--pid", pid, *sources(tmp_path))
    with Load(service.port, "/plain", "/zipped") as load:
        go_through_everything(service, load)
        result = load.end()
    assert (result["failed"], result["failures"]) == (0, [])
    service.stop()
    for program, path in (("requests", None), ("zipped", "/zipped")):
        rows = [row for row in daemon.json("query", program) if row["hits"] or row["missed"]]
        assert {row["pid"]: row["hits"] for row in rows} == service.logged(path)
        assert sum(row["missed"] + row["dropped"] for row in rows) == 0
    assert service.logged().total() == result["answered"]
    assert service.complaints() == []


def test_two_builds_of_a_library_side_by_side(
    daemon: Daemon, service: Nginx, tmp_path: Path
) -> None:
    """A probe by build-id counts where that build is mapped, wherever the file is now."""
    service.start()
    builds = {"old": service.build_id}
    service.replace_library()
    builds["new"] = service.build_id
    assert builds["old"] != builds["new"]
    masters = {"old": service.start_another(), "new": service.master}
    for name, build in builds.items():
        (tmp_path / f"{name}.rpn").write_text(COUNTED.format(module=build, place="deflateInit2_"))
        daemon.json("insert", tmp_path / f"{name}.rpn", "--exe", "nginx")
    (tmp_path / "both.rpn").write_text(COUNTED.format(module="libz.so.1", place="deflateEnd"))
    daemon.json("insert", tmp_path / "both.rpn", "--exe", "nginx")
    workers = {name: service.workers(master) for name, master in masters.items()}
    everyone = {*masters.values(), *workers["old"], *workers["new"]}
    wait_until(lambda: active(daemon, "both") == everyone)
    for name, master in masters.items():
        assert active(daemon, name) == {master, *workers[name]}
    with Load(service.port, "/zipped") as load:
        load.more(STEP)
        wait_until(lambda: all(service.logged()[pid] for pid in (*workers["old"], *workers["new"])))
        result = load.end()
    assert (result["failed"], service.logged().total()) == (0, result["answered"])
    for name in builds:
        logged = {pid: service.logged()[pid] for pid in (masters[name], *workers[name])}
        assert hits(daemon, name) == logged
    assert hits(daemon, "both") == {pid: service.logged()[pid] for pid in everyone}
    os.kill(masters["old"], signal.SIGQUIT)
    wait_gone(masters["old"])
    service.stop()


def test_a_killed_daemon_and_another_one_in_its_place(service: Nginx, tmp_path: Path) -> None:
    service.start()
    everyone = {service.master, *service.workers()}
    with Load(service.port, "/plain", "/zipped") as load:
        for name in ("one", "another"):
            folder = tmp_path / name
            folder.mkdir()
            with running_daemon(folder) as daemon:
                deploy(daemon, folder)
                wait_until(lambda daemon=daemon: everyone <= probed(daemon))  # type: ignore[misc]
                load.more(STEP)
                tracers = children(daemon.process.pid)
                daemon.process.kill()
                daemon.process.wait()
            assert all(map(wait_end, tracers))
            assert {tracer_of(pid) for pid in everyone} == {0}
            load.more(STEP)
        result = load.end()
    assert (result["failed"], result["failures"]) == (0, [])
    assert service.logged().keys() <= everyone
    service.stop()
    assert service.complaints() == []


def test_a_killed_tracer(daemon: Daemon, service: Nginx, tmp_path: Path) -> None:
    """Nobody can take its breakpoints out: its worker ends, and the one in its place gets probes.

    Whatever the worker had begun fails; nothing else does.
    """
    service.start()
    deploy(daemon, tmp_path)
    wait_probed(daemon, service)
    with Load(service.port, "/plain", "/zipped") as load:
        load.more(STEP)
        worker = service.workers()[0]
        os.kill(tracer_of(worker), signal.SIGKILL)
        wait_gone(worker)
        wait_until(lambda: len(set(service.workers()) - {worker}) == WORKERS)
        wait_probed(daemon, service)
        before = load.more(STEP)
        result = load.end()
    assert before["failed"] == result["failed"] <= CONNECTIONS
    for row in deployments(daemon).values():
        assert row["refused"] == {"the tracer was killed by SIGKILL": 1}
    service.stop()
    assert len(service.complaints()) == 1
    assert f"worker process {worker} exited on signal 5" in service.complaints()[0]


def test_two_daemons_at_once(daemon: Daemon, service: Nginx, tmp_path: Path) -> None:
    """The second says whose the processes are, and takes them over when they are free."""
    service.start()
    everyone = {service.master, *service.workers()}
    deploy(daemon, tmp_path)
    wait_probed(daemon, service)
    folder = tmp_path / "second"
    folder.mkdir()
    with running_daemon(folder) as second, Load(service.port, "/plain", "/zipped") as load:
        deploy(second, folder)
        wait_until(lambda: all(len(row["refusals"]) == 3 for row in deployments(second).values()))
        for row in deployments(second).values():
            assert {int(pid) for pid in row["refusals"]} == everyone
            (reason,) = row["refused"]
            assert reason.startswith("already traced by dprobed")
        load.more(STEP)
        assert probed(second) == set()
        daemon.json("remove", "--all")
        wait_until(lambda: everyone <= probed(second))
        load.more(STEP)
        result = load.end()
        assert (result["failed"], result["failures"]) == (0, [])
    assert {tracer_of(pid) for pid in everyone} == {0}
    assert service.logged().keys() <= everyone
    service.stop()
