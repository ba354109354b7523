"""nginx with its workers under load: no request fails for our sake, and the counts agree."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.client_support import (
    WITHOUT_EVENTS,
    Daemon,
    children,
    running_daemon,
    tracer_of,
    wait_end,
)
from tests.service.load import Load
from tests.service.nginx import Nginx, nginx
from tests.service.probed import (
    active,
    deployments,
    followed,
    hits,
    probed,
    sources,
    wait_probed,
)
from tests.service.surroundings import only_policy, wait_gone, wait_until

#: Only counted.
COUNTED = """
name = {module}
offset = {place}
    abort
"""
#: Requests that are served between one event and the next.
STEP = 1500


@pytest.fixture
def service() -> Iterator[Nginx]:
    with nginx() as ready:
        yield ready


def deploy(daemon: Daemon, service: Nginx, folder: Path) -> None:
    daemon.json("insert", *sources(folder), "--exe", service.executable)


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
    wait_until(
        lambda: service.logged().total() >= result["answered"]
    )  # It logs when it has answered.
    assert service.logged().total() == result["answered"]
    service.stop()
    assert service.complaints() == []


@pytest.mark.parametrize("before", [(), WITHOUT_EVENTS], ids=["connector", "polling"])
def test_by_a_policy_alone_every_request_is_counted_and_none_fails(
    service: Nginx, tmp_path: Path, before: tuple[str, ...]
) -> None:
    """Master and workers get the programs as they start, and no client says anything."""
    configuration = only_policy(tmp_path, service.executable, sources(tmp_path))
    with running_daemon(tmp_path, "--config", configuration, before=before) as daemon:
        service.start()
        wait_probed(daemon, service)
        with followed(daemon, tmp_path) as records:
            with Load(service.port, "/plain", "/zipped") as load:
                go_through_everything(service, load)
                result = load.end()
            assert (result["failed"], result["failures"]) == (0, [])
            wait_until(lambda: {service.master, *service.workers()} == probed(daemon))
            service.stop()
            wait_until(lambda: not any(row["processes"] for row in deployments(daemon).values()))
            for program, path in (("requests", None), ("zipped", "/zipped")):
                logged = service.logged(path)
                assert logged.total() == (
                    result["answered"] if path is None else result["paths"][path]
                )
                row = deployments(daemon)[program]
                counts = [row[name] for name in ("hits", "ran", "missed_hits", "dropped")]
                assert counts == [logged.total(), logged.total(), 0, 0]
                records.wait_complete(program, row["hits"])
                assert records.by_process(program) == logged
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
        daemon.json("insert", tmp_path / f"{name}.rpn", "--exe", service.executable)
    (tmp_path / "both.rpn").write_text(COUNTED.format(module="libz.so.1", place="deflateEnd"))
    daemon.json("insert", tmp_path / "both.rpn", "--exe", service.executable)
    workers = {name: service.workers(master) for name, master in masters.items()}
    everyone = {*masters.values(), *workers["old"], *workers["new"]}
    wait_until(lambda: active(daemon, "both") == everyone)
    for name, master in masters.items():
        assert active(daemon, name) == {master, *workers[name]}
    with Load(service.port, "/zipped") as load:
        load.more(STEP)
        wait_until(lambda: all(service.logged()[pid] for pid in (*workers["old"], *workers["new"])))
        result = load.end()
    wait_until(
        lambda: service.logged().total() >= result["answered"]
    )  # It logs when it has answered.
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
                deploy(daemon, service, folder)
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
    """Its workers lose their probes, and nothing else: not a request fails. The master, another
    user's, is in another tracer and keeps its probes.
    """
    service.start()
    deploy(daemon, service, tmp_path)
    wait_probed(daemon, service)
    master = service.master
    with Load(service.port, "/plain", "/zipped") as load:
        load.more(STEP)
        workers = service.workers()
        tracer = tracer_of(workers[0])
        assert tracer
        os.kill(tracer, signal.SIGKILL)
        assert wait_end(tracer)
        wait_until(lambda: probed(daemon) == {master})
        load.more(STEP)
        result = load.end()
    assert service.master == master
    assert service.workers() == workers
    assert result["failed"] == 0
    for row in deployments(daemon).values():
        assert set(row["refused"]) == {"the tracer was killed by SIGKILL"}
    service.stop()
    assert service.complaints() == []


def test_two_daemons_at_once(daemon: Daemon, service: Nginx, tmp_path: Path) -> None:
    """The second says whose the processes are, and takes them over when they are free."""
    service.start()
    everyone = {service.master, *service.workers()}
    deploy(daemon, service, tmp_path)
    wait_probed(daemon, service)
    folder = tmp_path / "second"
    folder.mkdir()
    with running_daemon(folder) as second, Load(service.port, "/plain", "/zipped") as load:
        deploy(second, service, folder)
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
