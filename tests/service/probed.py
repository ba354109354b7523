"""nginx with probes that a daemon looks after: what both of them have counted."""

from __future__ import annotations

import json
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final

from tests.integration.client_support import DPROBE, Daemon, Json
from tests.service.nginx import Nginx
from tests.service.surroundings import wait_until

#: One record for each request, by the process that serves it.
REQUESTS: Final = """
name = nginx
offset = ngx_http_process_request
    push pid
    log 1
    exit
"""
#: One for each answer that is made smaller.
ZIPPED: Final = """
name = libz.so.1
offset = deflateInit2_
    push pid
    log 1
    exit
"""
PROGRAMS: Final = {"requests": REQUESTS, "zipped": ZIPPED}


def sources(folder: Path) -> list[Path]:
    """The programs as files."""
    paths = []
    for name, text in PROGRAMS.items():
        path = folder / f"{name}.rpn"
        path.write_text(text)
        paths.append(path)
    return paths


def deployments(daemon: Daemon) -> dict[str, Json]:
    """What the daemon says of each program, over all processes."""
    return {row["program"]: row for row in daemon.json("query") if row["type"] == "deployment"}


def _probes(daemon: Daemon, program: str) -> list[Json]:
    rows = daemon.json("query", program)
    return [row for row in rows if row["type"] == "probe"]


def active(daemon: Daemon, program: str) -> set[int]:
    """The processes in which a program of one probe is active."""
    return {row["pid"] for row in _probes(daemon, program) if row["state"] == "active"}


def hits(daemon: Daemon, program: str) -> dict[int, int]:
    """How often its probe was hit in each process in which it is active."""
    rows = _probes(daemon, program)
    return {row["pid"]: row["hits"] for row in rows if row["state"] == "active"}


def probed(daemon: Daemon) -> set[int]:
    """The processes in which all programs are active."""
    rows = [row for row in daemon.json("query") if row["type"] == "probe"]
    active = Counter(row["pid"] for row in rows if row["state"] == "active")
    return {pid for pid, count in active.items() if count == len(PROGRAMS)}


def wait_probed(daemon: Daemon, service: Nginx) -> None:
    """Wait until the programs are in the master and all workers."""
    wait_until(lambda: {service.master, *service.workers()} <= probed(daemon))


class Records:
    """Everything that probes report, from now on."""

    def __init__(self, daemon: Daemon, path: Path) -> None:
        self._path = path
        self._daemon = daemon
        self._file: IO[bytes] = path.open("wb")
        self._process = subprocess.Popen(
            [DPROBE, "--socket", daemon.socket, "log", "-f", "--json"], stdout=self._file
        )

    def by_process(self, program: str) -> Counter[int]:
        """How many records of a program came from each process."""
        counts: Counter[int] = Counter()
        for line in self._path.read_bytes().splitlines():
            record = json.loads(line)
            if record["program"] == program:
                assert record["log"] == [{"words": [record["pid"]]}]
                counts[record["pid"]] += 1
        return counts

    def wait_complete(self, program: str, hits: int) -> None:
        """Wait for as many records as there were hits."""
        wait_until(lambda: self.by_process(program).total() >= hits)

    def close(self) -> None:
        """Follow no longer."""
        self._process.terminate()
        self._process.wait(20)
        self._file.close()


@contextmanager
def followed(daemon: Daemon, folder: Path) -> Iterator[Records]:
    """The records of a daemon, as long as the block lasts."""
    records = Records(daemon, folder / "records")
    try:
        yield records
    finally:
        records.close()
