"""nginx under load for a minute, with probes in and out while everything happens to it.

Round after round: as many requests without probes as with them, which are compared; then a worker
is replaced, the service reloaded, a library upgraded on disk and the program executed anew, with
the probes in. No request may fail.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from tests.integration.client_support import Daemon, running_daemon
from tests.service.load import Load
from tests.service.nginx import Nginx, nginx
from tests.service.probed import deployments, sources, wait_probed

#: Requests of which rates and times are taken.
MEASURED = 4000
#: Requests between one event and the next.
STEP = 1000


@dataclass
class Report:
    """What came of it."""

    bare: list[dict[str, Any]] = field(default_factory=list)
    probed: list[dict[str, Any]] = field(default_factory=list)
    result: dict[str, Any] = field(default_factory=dict)
    logged: int = 0
    complaints: list[str] = field(default_factory=list)
    #: Hits without a record, or with a record that nobody got.
    lost: int = 0

    def check(self) -> list[str]:
        """What is not as it must be."""
        faults = list(self.complaints)
        if self.result["failed"]:
            faults.append(f"{self.result['failed']} requests failed: {self.result['failures']}")
        if self.logged != self.result["answered"]:
            faults.append(f"nginx says it has served {self.logged} requests")
        if self.lost:
            faults.append(f"{self.lost} hits or records were lost")
        return faults

    def lines(self) -> Iterator[str]:
        """The report in words."""
        result = self.result
        yield (
            f"{result['answered']} requests answered, {result['failed']} failed, "
            f"{result['again']} asked again on a new connection; {len(self.bare)} rounds"
        )
        for name, unit, factor in (
            ("rate", "requests a second", 1.0),
            ("median", "ms, median", 1e3),
            ("p99", "ms, 99th percentile", 1e3),
        ):
            without = median(each[name] for each in self.bare) * factor
            having = median(each[name] for each in self.probed) * factor
            yield (
                f"without probes {without:.2f}, with them {having:.2f} {unit}: "
                f"{having / without:.2f} times"
            )


def _round(daemon: Daemon, service: Nginx, load: Load, folder: Path, report: Report) -> None:
    report.bare.append(load.more(MEASURED))
    daemon.json("insert", *sources(folder), "--exe", service.executable)
    wait_probed(daemon, service)
    load.more(STEP)
    report.probed.append(load.more(MEASURED))
    service.replace_worker(service.workers()[0])
    load.more(STEP)
    service.reload()
    load.more(STEP)
    service.replace_library()
    service.upgrade()
    load.more(STEP)
    wait_probed(daemon, service)
    for row in deployments(daemon).values():
        report.lost += row["missed_hits"] + row["dropped"]
    daemon.json("remove", "--all")
    load.more(STEP)


def soak(seconds: float) -> Report:
    """Run it."""
    report = Report()
    with (
        tempfile.TemporaryDirectory(prefix="dprobed-soak-") as folder,
        running_daemon(Path(folder)) as daemon,
        nginx() as service,
    ):
        ends = time.monotonic() + seconds
        service.start()
        with Load(service.port, "/plain", "/zipped") as load:
            load.more(STEP)
            while time.monotonic() < ends:
                _round(daemon, service, load, Path(folder), report)
            report.result = load.end()
        service.stop()
        report.logged = service.logged().total()
        report.complaints = service.complaints()
    return report
