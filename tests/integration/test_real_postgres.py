"""PostgreSQL, which forks a process for each connection: every query is counted, none fails."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.integration.client_support import WITHOUT_EVENTS, running_daemon
from tests.service.postgres import Postgres, postgres
from tests.service.probed import active, deployments, followed
from tests.service.surroundings import only_policy, wait_until

CLIENTS = 4
#: Transactions of each client on one connection, and on one each.
KEPT, FRESH = 300, 25

#: One record for each query, and one each time that a server process is ready for the next.
PLACES = {"queries": "PortalRun", "ready": "ReadyForQuery"}
PROGRAM = """
name = postgres
offset = {place}
    push pid
    log 1
    exit
"""


@pytest.fixture
def service() -> Iterator[Postgres]:
    with postgres() as ready:
        yield ready


def sources(folder: Path) -> list[Path]:
    """The programs as files."""
    paths = []
    for name, place in PLACES.items():
        path = folder / f"{name}.rpn"
        path.write_text(PROGRAM.format(place=place))
        paths.append(path)
    return paths


def go_through_everything(service: Postgres, started: Callable[[], None]) -> int:
    """What may happen to a server in its life, while it serves; the transactions that were done.

    ``started`` is called when it has just started, and before anybody asks it for something.
    """
    clients = ("-c", str(CLIENTS))
    service.control("start")
    started()
    with service.load(*clients, "-t", str(KEPT)) as load:
        done = load.end()
    with service.load("-C", *clients, "-t", str(FRESH)) as load:
        service.configure("work_mem = '5MB'\n")
        service.control("reload")
        done += load.end()
    wait_until(lambda: service.said('"work_mem" changed to "5MB"') == [service.main])
    service.control("-m", "fast", "restart")
    started()
    with service.load("-C", *clients, "-t", str(FRESH)) as load:
        done += load.end()
    return done


def stop_at_once(service: Postgres) -> None:
    """With clients, whose processes end by SIGQUIT."""
    before = len(service.connected())
    with service.load("-c", str(CLIENTS), "-T", "60") as load:
        # The first one is to see that the server is there.
        wait_until(lambda: len(service.connected()) == before + 1 + CLIENTS)
        service.control("-m", "immediate", "stop")
        assert "terminating connection due to immediate shutdown" in load.failure()


def test_without_probes_no_transaction_fails(service: Postgres) -> None:
    """What the others are to be compared with: otherwise they would show nothing of ours."""
    done = go_through_everything(service, lambda: None)
    assert done == CLIENTS * (KEPT + 2 * FRESH)
    stop_at_once(service)
    assert service.complaints() == []


@pytest.mark.parametrize("before", [(), WITHOUT_EVENTS], ids=["connector", "polling"])
def test_by_a_policy_alone_every_query_is_counted_and_none_fails(
    service: Postgres, tmp_path: Path, before: tuple[str, ...]
) -> None:
    """The server and all that it forks have the programs, and no client says anything."""
    configuration = only_policy(tmp_path, service.executable, sources(tmp_path))
    with (
        running_daemon(tmp_path, "--config", configuration, before=before) as daemon,
        followed(daemon, tmp_path) as records,
    ):

        def lacking() -> dict[str, set[int]]:
            found = {each: service.processes() - active(daemon, each) for each in PLACES}
            return {name: missing for name, missing in found.items() if missing}

        def started() -> None:
            try:
                wait_until(lambda: not lacking())
            except AssertionError:
                said = daemon.dprobe("query", "-x").stdout + daemon.dprobe("status").stdout
                raise AssertionError(f"not in {lacking()}:\n{said}") from None

        done = go_through_everything(service, started)
        assert done == CLIENTS * (KEPT + 2 * FRESH)
        records.wait_complete("queries", done)
        connected = service.connected()
        records.wait_complete("ready", done + len(connected))
        queries, ready = map(records.by_process, PLACES)
        assert queries.total() == done
        # Each process was ready once before its first query, and after each of them.
        assert ready - queries == dict.fromkeys(connected, 1)
        stop_at_once(service)
        wait_until(lambda: not any(row["processes"] for row in deployments(daemon).values()))
        for name, row in deployments(daemon).items():
            counts = [row[count] for count in ("ran", "missed_hits", "dropped", "refused")]
            assert counts == [row["hits"], 0, 0, {}]
            records.wait_complete(name, row["hits"])
    assert service.complaints() == []
