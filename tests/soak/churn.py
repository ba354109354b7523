"""Processes come and go while programs go into all of them, and out again.

One daemon, and ``mill``, which starts fifty processes a second. Round after round programs are
deployed into all of them, stay for a while and are removed; one client attaches to a process by
itself and is killed. A few processes are there all the time.

What must hold, and is printed: no process ended otherwise than without us; the hits that the daemon
counted are those that the processes themselves say they met (tests/targets/soaked.c says how they
know); daemon and tracers keep no memory, descriptor, process or zombie; the processes that stayed
are as they were.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Final

import psutil

from tests.integration.client_support import (
    DPROBE,
    Daemon,
    Json,
    children,
    running_daemon,
    tracer_of,
    wait_end,
)
from tests.integration.harness import text

ROOT: Final = Path(__file__).parents[2]
#: Processes a second.
RATE: Final = 50.0
STAYING: Final = 3
#: Seconds that the programs are in, each round.
ROUND: Final = 2.0
#: Megabytes that the daemon may grow over the second half: its log of records is full by then.
MAY_GROW: Final = 3.0
#: Seconds in which all that was begun is done when nothing new begins.
SETTLE: Final = 60.0

#: Each call of ``probed``; nothing is reported.
CALLED: Final = """
name = {folder}/soaked
offset = probed
    abort
"""
#: What all of them write, with a record each.
WRITTEN: Final = """
name = libc.so.6
offset = write
    push r,rdx
    log 1
    exit
"""
#: For the client that is killed.
TOLD: Final = """
name = {folder}/soaked
offset = call
    push r,rsi
    log 1
    exit
"""


@dataclass
class Sample:
    """What the daemon and its tracers take, between two rounds."""

    megabytes: float
    descriptors: int
    threads: int
    processes: int
    zombies: int


@dataclass
class Report:
    """What came of it."""

    seconds: float = 0.0
    rounds: int = 0
    mill: dict[str, Any] = field(default_factory=dict)
    staying_sure: int = 0
    staying_unsure: int = 0
    #: Sums over all deployments of the program that only counts.
    sums: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    samples: list[Sample] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    @property
    def sure(self) -> int:
        """Hits that the processes are sure of."""
        return int(self.mill["sure"]) + self.staying_sure

    @property
    def unsure(self) -> int:
        """Hits that may have been some."""
        return int(self.mill["unsure"]) + self.staying_unsure

    @property
    def grown(self) -> float:
        """Megabytes by which the daemon has grown over the second half."""
        sizes = [sample.megabytes for sample in self.samples]
        quarter = max(1, len(sizes) // 4)
        return median(sizes[-quarter:]) - median(sizes[quarter : 2 * quarter] or sizes[:1])

    def check(self) -> list[str]:
        """What is not as it must be."""
        faults = list(self.faults)
        counted = self.sums["hits"] + self.sums["missed_hits"]
        if not self.sure <= counted <= self.sure + self.unsure:
            faults.append(
                f"{counted} hits were counted, the processes met {self.sure} and perhaps "
                f"{self.unsure} more"
            )
        if self.mill["wrong"]:
            faults.append(f"{self.mill['wrong']} ended wrongly: {self.mill['described']}")
        first, last = self.samples[0], self.samples[-1]
        for name in ("descriptors", "threads", "processes", "zombies"):
            if getattr(last, name) > getattr(first, name):
                faults.append(f"{name}: {getattr(first, name)} before, {getattr(last, name)} now")
        if self.grown > MAY_GROW:
            faults.append(f"the daemon has grown by {self.grown:.1f} MB")
        return faults

    def lines(self) -> Iterator[str]:
        """The report in words."""
        mill, sums = self.mill, self.sums
        yield (
            f"{mill['processes']} processes in {mill['seconds']:.0f} s, "
            f"{mill['processes'] / mill['seconds']:.1f} a second; {self.rounds} rounds"
        )
        yield f"started: {', '.join(f'{count} {name}' for name, count in mill['started'].items())}"
        yield f"ended otherwise than they should: {mill['wrong']}"
        yield (
            f"programs were in {sums['entered']} processes; missed {sums['missed']}, "
            f"unseen {sums['unseen']}, refused {dict(self.refused)}"
        )
        yield (
            f"hits {sums['hits']}, missed {sums['missed_hits']}; the processes met {self.sure} "
            f"and perhaps {self.unsure} more, in {mill['calls']} calls"
        )
        sizes = [sample.megabytes for sample in self.samples]
        steps = [sizes[(len(sizes) - 1) * step // 10] for step in range(11)]
        yield f"daemon, MB by tenths of the way: {' '.join(f'{size:.1f}' for size in steps)}"
        yield f"daemon at the beginning: {self.samples[0]}"
        yield f"daemon at the end: {self.samples[-1]}"


class Staying:
    """A process that is there all the time and calls when it is told to."""

    def __init__(self, folder: Path) -> None:
        self._process = subprocess.Popen(
            [folder / "soaked", "stays"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.pid = self._process.pid
        self.call(1)
        self.before = text(self.pid)
        self.maps = _maps(self.pid)

    def call(self, count: int) -> tuple[int, int]:
        """Have it call; hits that it is sure of, and those that may have been."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{count}\n")
        self._process.stdin.flush()
        calls, sure, unsure = map(int, self._process.stdout.readline().split())
        assert calls == count
        return sure, unsure

    def faults(self) -> Iterator[str]:
        """How it is not as it was."""
        if tracer_of(self.pid):
            yield f"process {self.pid} is still traced by {tracer_of(self.pid)}"
        if text(self.pid) != self.before:
            yield f"the text of process {self.pid} is not as it was"
        if left := _maps(self.pid) - self.maps:
            yield f"process {self.pid} has new mappings: {left}"

    def end(self) -> None:
        """It ends well."""
        self._process.communicate(timeout=SETTLE)


def _is_zombie(process: psutil.Process) -> bool:
    try:
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _maps(pid: int) -> set[str]:
    """What is mapped; the heap and the stack may grow by themselves."""
    lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    return {line for line in lines if not line.endswith(("[heap]", "[stack]"))}


#: What the daemon may say: what it was asked to do, that an `attach` ended, that a process ended
#: while it was at it, and that the kernel dropped events, after which it looks at every process.
_USUAL: Final = re.compile(
    r"dprobed: (user 0 deployed|.*user 0 (inserted|removed)|process \d+.* is gone$"
    r"|process \d+: told is out: its client has ended$"
    r"|process \d+: \[Errno 3\]|events of processes were lost)"
)


class Listener:
    """Takes in what the daemon says on its standard error, which nobody else reads here."""

    def __init__(self, daemon: Daemon) -> None:
        self._lines: list[str] = []
        self._errors = daemon.process.stderr
        self._thread = threading.Thread(target=self._listen)
        self._thread.start()

    def _listen(self) -> None:
        assert self._errors is not None
        self._lines.extend(self._errors)

    def complaints(self) -> list[str]:
        """What it should not have said; when it has ended."""
        self._thread.join(SETTLE)
        return [line for line in self._lines if not _USUAL.match(line)]


def prepare(folder: Path) -> None:
    """The executables, of our own: nobody else's processes are to be probed."""
    shutil.copy("/bin/dash", folder / "sh")
    shutil.copy("/bin/cat", folder / "cat")
    shutil.copy("/usr/bin/tr", folder / "tr")
    shutil.copy(Path("/usr/bin/python3").resolve(), folder / "python")
    source = ROOT / "tests/targets/soaked.c"
    command: list[str | Path] = ["gcc", "-g", "-O1", "-pthread", "-o", folder / "soaked", source]
    subprocess.run(command, check=True, timeout=60)
    for name, source_text in (("called", CALLED), ("written", WRITTEN), ("told", TOLD)):
        (folder / f"{name}.rpn").write_text(source_text.format(folder=folder))


class Soak:
    """The daemon, the mill and those who stay, for some rounds."""

    def __init__(self, daemon: Daemon, folder: Path) -> None:
        self.report = Report()
        self._daemon = daemon
        self._folder = folder
        self._staying = [Staying(folder) for _ in range(STAYING)]

    def run(self, seconds: float) -> Report:
        """All of it; how it went."""
        begun = time.monotonic()
        mill = subprocess.Popen(
            [sys.executable, "-m", "tests.soak.mill", self._folder, str(RATE)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        try:
            self._ask()
            self._round()  # What is needed once is there after it.
            self._sample()
            while time.monotonic() - begun < seconds:
                self._round()
                self._sample()
            output, _ = mill.communicate(timeout=SETTLE + 30)
        finally:
            if mill.poll() is None:
                mill.kill()
                mill.communicate()
        self.report.mill = json.loads(output)
        self._end()
        self.report.seconds = time.monotonic() - begun
        return self.report

    def _ask(self) -> None:
        """Have the daemon ask something about a file: it keeps a connection to its resolver from
        then on, for as long as it asks again. The client of the first round does that, too, but
        where the machine is busy it is killed before."""
        pid = self._staying[0].pid
        self._daemon.json("insert", "-p", pid, self._folder / "told.rpn")
        self._daemon.json("remove", "told")

    def _round(self) -> None:
        folder, daemon = self._folder, self._daemon
        everything = ("--exe", f"{folder}/*")
        daemon.json("insert", folder / "called.rpn", folder / "written.rpn", *everything)
        client = subprocess.Popen(
            [
                *(DPROBE, "--socket", daemon.socket, "attach"),
                *(str(self._staying[0].pid), folder / "told.rpn"),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        ends = time.monotonic() + ROUND
        while time.monotonic() < ends:
            for staying in self._staying:
                sure, unsure = staying.call(20)
                self.report.staying_sure += sure
                self.report.staying_unsure += unsure
            self._note_daemon()
            time.sleep(0.1)
        client.kill()
        client.wait()
        self._add(daemon.json("remove", "called"))
        daemon.json("remove", "written")
        self.report.rounds += 1

    def _add(self, rows: list[Json]) -> None:
        (row,) = [row for row in rows if row["type"] == "deployment"]
        for name in ("hits", "missed_hits", "entered", "missed", "unseen"):
            self.report.sums[name] += row[name]
        self.report.refused.update(row["refused"])

    def _note_daemon(self) -> None:
        if self._daemon.process.poll() is not None:
            raise RuntimeError("the daemon has ended")

    def _sample(self) -> None:
        """When the tracers of the round are gone: they end after their targets."""
        pid = self._daemon.process.pid
        deadline = time.monotonic() + SETTLE
        daemon = psutil.Process(pid)
        own = daemon.children()
        # A resolver that has just ended is collected in a moment.
        while (children(pid) or any(map(_is_zombie, own))) and time.monotonic() < deadline:
            time.sleep(0.01)
            own = daemon.children()
        self.report.samples.append(
            Sample(
                megabytes=daemon.memory_info().rss / 1e6,
                descriptors=daemon.num_fds(),
                threads=daemon.num_threads(),
                processes=len(own),
                zombies=sum(map(_is_zombie, own)),
            )
        )

    def _end(self) -> None:
        for staying in self._staying:
            self.report.faults += staying.faults()
            staying.end()
        if rows := self._daemon.json("query"):
            self.report.faults.append(f"the daemon still has {rows}")

    def stop(self) -> None:
        """Leave nothing behind, whatever happened."""
        for staying in self._staying:
            with contextlib.suppress(ProcessLookupError):
                os.kill(staying.pid, 9)
            wait_end(staying.pid)


def soak(seconds: float) -> Report:
    """Run it in a folder of its own."""
    with tempfile.TemporaryDirectory(prefix="dprobed-soak-") as name:
        folder = Path(name)
        prepare(folder)
        with running_daemon(folder) as daemon:
            said = Listener(daemon)
            run = Soak(daemon, folder)
            try:
                report = run.run(seconds)
            finally:
                run.stop()
        report.faults += said.complaints()
        return report
