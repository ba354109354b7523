"""What the metrics say of programs and processes that come and go."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from dprobed.daemon.metrics.families import as_text
from dprobed.daemon.metrics.service import Metrics
from dprobed.daemon.metrics.snapshot import Counts
from dprobed.wire import messages, protocol
from tests.fakes.backend import PID, PROGRAM, FakeClient, FakeDaemon, status
from tests.unit.daemon.conftest import Script

ETC = Path(__file__).parents[4] / "etc" / "prometheus"
Values = dict[str, float]


def counts_of(daemon: FakeDaemon) -> Counts:
    core = daemon.app.core
    counts = Counts(core.targets, core.dispatcher, (), core.clients, core.gate.audit.refusals)
    core.targets.counts = counts
    return counts


def values(counts: Counts, *, open_metrics: bool = False) -> Values:
    """Sample with its labels → value, without those of the daemon's own process."""
    page, _ = as_text(counts.snapshot(), open_metrics=open_metrics)
    lines = [line for line in page.decode().splitlines() if line.startswith("dprobed_")]
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}


def hits(found: Values, program: str = "x0") -> float:
    # No process of these numbers has a name.
    return found[f'dprobed_hits_total{{process="?",program="{program}"}}']


def test_counters_stay_when_programs_and_processes_go(run: Callable[[Script], None]) -> None:
    async def script(daemon: FakeDaemon) -> None:
        counts = counts_of(daemon)
        client = FakeClient()
        backend = await daemon.attach(client)
        await daemon.insert(client)
        told = status(
            1, hits=7, ran=6, missed=1, unwound=4, dumped=2, uncounted_ns=3 * 10**9, spent_ns=10**8
        )
        backend.tell(protocol.Changed(PID, [told]))
        found = values(counts)
        assert hits(found) == 7
        assert found['dprobed_unwound_total{process="?",program="x0"}'] == 4
        assert found['dprobed_cores_total{process="?",program="x0"}'] == 2
        assert found['dprobed_uncounted_seconds_total{process="?",program="x0"}'] == 3
        assert found['dprobed_spent_seconds_total{process="?",program="x0"}'] == 0.1
        assert found['dprobed_missed_total{process="?",program="x0"}'] == 1
        assert (found["dprobed_targets"], found["dprobed_programs"]) == (1, 1)
        assert found['dprobed_probes{state="active"}'] == 1
        # Between two scrapes: it counts on, and is taken out.
        backend.tell(protocol.Changed(PID, [status(1, hits=9)]))
        await daemon.ask(client, messages.Detach(id=1, pid=PID), messages.Removed)
        found = values(counts)
        assert hits(found) == 9
        assert (found["dprobed_targets"], found["dprobed_programs"]) == (0, 0)
        assert found['dprobed_probes{state="active"}'] == 0
        # And another of that name, all of whose life is between two scrapes.
        await daemon.attach(client, PID + 1)
        await daemon.insert(client, PID + 1)
        target = daemon.app.core.targets.by_pid[PID + 1]
        assert target.tracer is not None
        ended = protocol.Ended(PID + 1, "exited", 0, [status(2, hits=4)], 5_000_000)
        target.tracer.backend.tell(ended)  # type: ignore[attr-defined]
        await target.finished.wait()
        found = values(counts)
        assert hits(found) == 13
        assert found['dprobed_overhead_seconds_total{process="?"}'] == 0.005

    run(script)


def test_both_formats_are_what_they_say(run: Callable[[Script], None]) -> None:
    async def script(daemon: FakeDaemon) -> None:
        counts = counts_of(daemon)
        client = FakeClient()
        await daemon.attach(client)
        upload = messages.Upload(label='a"b\\\n{}', bytecode=PROGRAM)
        await daemon.ask(
            client, messages.Insert(id=2, pid=PID, programs=[upload]), messages.Inserted
        )
        plain, kind = as_text(counts.snapshot(), open_metrics=False)
        assert kind.startswith("text/plain; version=")
        names = {family.name for family in text_string_to_metric_families(plain.decode())}
        assert "dprobed_hits" in names
        page, kind = as_text(counts.snapshot(), open_metrics=True)
        assert kind.startswith("application/openmetrics-text")
        assert page.endswith(b"# EOF\n")
        # A line feed in a name is escaped twice: for terminals, and in the text format.
        assert b'program="a\\"b\\\\\\\\n{}"' in page

    run(script)


def test_a_tracer_that_does_not_answer_keeps_no_scraper(
    run: Callable[[Script], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dprobed.daemon.metrics.service._ANSWERS", 0.01)
    monkeypatch.setattr("dprobed.daemon.metrics.service._FRESH", 0.0)

    async def script(daemon: FakeDaemon) -> None:
        core = daemon.app.core
        client = FakeClient()
        backend = await daemon.attach(client)
        await daemon.insert(client)
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(str(tmp_path / "m"))
            sock.listen()
            metrics = Metrics(sock, counts_of(daemon), core.targets, core.detaching, core.tasks)
            await metrics.begin()
            pause = backend.pause(protocol.Query)
            for _ in range(3):
                reader, writer = await asyncio.open_unix_connection(str(tmp_path / "m"))
                writer.write(b"GET /metrics HTTP/1.0\r\n\r\n")
                assert b"dprobed_targets 1.0" in await reader.read()
                writer.close()
            # It was asked once, and not again before it has answered.
            assert len(backend.of(protocol.Query)) == 1
            pause.go.set()
            metrics.stop()

    run(script)


def _expressions() -> Iterator[str]:
    board = json.loads((ETC / "dashboard.json").read_text())
    for panel in board["panels"]:
        for target in panel["targets"]:
            yield target["expr"]
    for line in (ETC / "dprobed.rules.yml").read_text().splitlines():
        if found := re.match(r"\s+expr: (.*)", line):
            yield found[1]


def test_dashboard_and_alerts_name_metrics_that_there_are(run: Callable[[Script], None]) -> None:
    async def script(daemon: FakeDaemon) -> None:
        page, _ = as_text(counts_of(daemon).snapshot(), open_metrics=False)
        there = {line.split(" ")[2] for line in page.decode().splitlines() if "# TYPE" in line}
        named = set()
        for expression in _expressions():
            bare = re.sub(r"\{[^}]*\}|\[[^]]*\]|\"[^\"]*\"", "", expression)
            named |= set(re.findall(r"\b(?:dprobed|process)_\w+", bare))
        assert named
        assert named <= there
        # And every metric of ours is shown somewhere.
        assert {name for name in there if name.startswith("dprobed_")} <= named | {
            "dprobed_build_info"
        }

    run(script)


@pytest.mark.skipif(shutil.which("promtool") is None, reason="no prometheus here")
def test_prometheus_takes_the_alert_rules() -> None:
    subprocess.run(["promtool", "check", "rules", ETC / "dprobed.rules.yml"], check=True)
