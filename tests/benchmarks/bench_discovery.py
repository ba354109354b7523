"""Global probes: how soon they are in new processes, what is missed, and a thousand processes.

`brief` says when its main began and calls `tick` all the time; the record of the first hit says
when its probe was there. Processes that live up to 10 ms show what share is missed, and that
each is counted. Then 1,000 processes that wait for input: how long until the program is in all of
them, the memory for each, and what they cost while nothing happens.
"""

from __future__ import annotations

import contextlib
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median, quantiles

import psutil
from dprobe.lib.connection import Connection

from dprobed.program.bytecode import encode
from dprobed.program.rpn.parser import assemble
from dprobed.wire import messages
from tests.benchmarks.driver import compiled
from tests.benchmarks.figures import Figure
from tests.integration.client_support import WITHOUT_EVENTS

PROGRAM = """
name = "{binary}"
offset = tick
max_hits = 1
exit
"""

#: Tasks that begin on the machine in a second, for it to count as quiet.
QUIET = 20


class Deployed:
    """A daemon with one program in every process of a binary."""

    def __init__(self, daemon: psutil.Process, connection: Connection, binary: Path) -> None:
        self.daemon = daemon
        self._connection = connection
        #: Process → when its first hit was, in ns.
        self.first: dict[int, int] = {}
        connection.listen(self._record)
        bytecode = encode(assemble(PROGRAM.format(binary=binary), "bench.rpn"))
        connection.request(
            lambda number: messages.Deploy(
                id=number,
                programs=[messages.Upload(label="brief", bytecode=bytecode)],
                selection=messages.Selection(exe=str(binary)),
            ),
            messages.Deployed,
        )

    def _record(self, line: bytes) -> None:
        record = messages.decode_from_daemon(line)
        assert isinstance(record, messages.Record)
        self.first.setdefault(record.pid, record.time)

    def info(self) -> messages.DeploymentInfo:
        """What became of the processes so far; the records have been taken in, too."""
        answer = self._connection.request(lambda number: messages.Query(id=number), messages.Status)
        return answer.deployments[0]

    def settle(self) -> messages.DeploymentInfo:
        """Wait until no process is on the way in, or there."""
        while (info := self.info()).waiting or info.processes:
            time.sleep(0.05)
        return info

    def tracers(self) -> list[psutil.Process]:
        """The processes that trace."""
        children = self.daemon.children(recursive=True)
        return [each for each in children if each.name() != "dprobed-resolve"]

    def busy(self) -> float:
        """Seconds of CPU that the daemon and its tracers have used."""
        return sum(map(cpu_of, (self.daemon, *self.tracers())))


def cpu_of(process: psutil.Process) -> float:
    """Seconds of CPU that a process has used."""
    times = process.cpu_times()
    return float(times.user + times.system)


@contextlib.contextmanager
def deployed(binary: Path, before: tuple[str, ...] = ()) -> Iterator[Deployed]:
    """A daemon of our own with the program deployed."""
    with tempfile.TemporaryDirectory(prefix="dprobed-bench-") as folder:
        path = Path(folder) / "control.sock"
        command = [*before, str(Path(sys.executable).with_name("dprobed")), "--socket", str(path)]
        daemon = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert daemon.stderr is not None
        try:
            daemon.stderr.readline()
            with Connection.open(path) as connection:
                yield Deployed(psutil.Process(daemon.pid), connection, binary)
        finally:
            daemon.terminate()
            daemon.communicate(timeout=60)


def start(binary: Path, microseconds: int) -> subprocess.Popen[bytes]:
    """A process that lives so long."""
    return subprocess.Popen([binary, str(microseconds)], stdout=subprocess.PIPE)


def delays(deployed: Deployed, binary: Path, count: int, life: int, at_once: int) -> list[float]:
    """For each process that was caught: ms from the begin of its main to its first hit."""
    begun: dict[int, int] = {}
    while len(begun) < count:
        together = [start(binary, life) for _ in range(min(at_once, count - len(begun)))]
        for process in together:
            output, _ = process.communicate()
            begun[process.pid] = int(output)
    deployed.settle()
    return [(deployed.first[pid] - begun[pid]) / 1e6 for pid in begun if pid in deployed.first]


def how_soon(binary: Path, smoke: bool) -> tuple[list[Figure], list[str]]:
    """New processes, by each way to hear of them."""
    figures, notes = [], []
    ways = (("connector", (), 100_000, 1), ("polling", WITHOUT_EVENTS, 1_800_000, 20))
    for way, before, life, at_once in ways:
        count = 4 if smoke else 500
        with deployed(binary, before) as found:
            found.info()
            times = delays(found, binary, count, life, at_once)
            info = found.info()
        cuts = quantiles(times, n=100)
        figures.append(Figure(f"main to first hit, {way}, median", median(times), "ms"))
        figures.append(Figure(f"main to first hit, {way}, 99th percentile", cuts[98], "ms"))
        notes.append(
            f"{way}: {count} processes that live {life / 1000:g} ms, {at_once} at a time: "
            f"hits in {len(times)}; missed {info.missed}"
        )
    return figures, notes


def short_lives(binary: Path, smoke: bool) -> tuple[list[Figure], list[str]]:
    """Processes that live up to 10 ms: which share has the probe in, and is the rest counted?"""
    count = 4 if smoke else 500
    lives = random.Random(1)
    with deployed(binary) as found:
        before = found.info()
        for _ in range(count):
            start(binary, lives.randint(100, 10_000)).communicate()
        info = found.settle()
    missed = info.missed + min(info.unseen - before.unseen, count - info.entered - info.missed)
    return [
        Figure("live up to 10 ms, and are missed", 100 * (1 - info.entered / count), "%"),
        Figure("of those counted", 100 * missed / max(1, count - info.entered), "%", at_least=100),
    ], [
        f"of {count}: the program was in {info.entered}, {info.missed} were known to be meant and "
        "missed, the others had ended before a look (unseen)"
    ]


def thousand(binary: Path, smoke: bool) -> tuple[list[Figure], list[str]]:
    """Many processes that wait."""
    count = 10 if smoke else 1000
    seconds = 1 if smoke else 60
    processes = [
        subprocess.Popen([binary], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
        for _ in range(count)
    ]
    try:
        with deployed(binary) as found:
            start_time = time.monotonic()
            while (info := found.info()).processes < count:
                assert not info.refused, info.refused
                time.sleep(0.2)
            taken = time.monotonic() - start_time
            memory = sum(each.memory_full_info().uss for each in found.tracers())
            begun, before = processes_begun(), (found.busy(), cpu_of(found.daemon))
            time.sleep(seconds)
            others = (processes_begun() - begun) / seconds
            busy, own = found.busy() - before[0], cpu_of(found.daemon) - before[1]
            resident = found.daemon.memory_info().rss / 1e6
            tracers = len(found.tracers())
    finally:
        for process in processes:
            process.communicate()
    assert {process.returncode for process in processes} == {0}
    return [
        Figure(f"into {count} processes", taken, "s", at_most=30),
        Figure("memory, each", memory / count / 1e6, "MB", at_most=8),
        # The daemon hears of every process of the machine: what that costs is not its idling.
        Figure(
            "CPU while nothing happens",
            100 * busy / seconds,
            "%",
            at_most=1 if others < QUIET else None,
        ),
        Figure("of that the tracers", 100 * (busy - own) / seconds, "%", at_most=1),
    ], [
        f"{tracers} tracers; the daemon has {resident:.0f} MB resident; while nothing happened "
        f"there, {others:.0f} tasks a second began elsewhere on this machine"
    ]


def processes_begun() -> int:
    """Processes and threads since boot."""
    for line in Path("/proc/stat").read_text().splitlines():
        if line.startswith("processes "):
            return int(line.split()[1])
    raise AssertionError("no count in /proc/stat")


def measure(smoke: bool) -> tuple[list[Figure], list[str]]:
    """All of it."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    figures, notes = [], []
    with compiled("brief") as binary:
        for part in (how_soon, short_lives, thousand):
            more_figures, more_notes = part(binary, smoke)
            figures += more_figures
            notes += more_notes
    return figures, notes
