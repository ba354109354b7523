"""Processes that come and go, each of which knows how it must end.

    python -m tests.soak.mill FOLDER RATE

``FOLDER`` has the executables (see ``tests.soak.churn``); about RATE processes a second are
started, those that they fork included. At the end of its input the last ones are waited for, and a
line of JSON says how many there were, and which of them did not end as they should.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from typing import IO, Final

#: Seconds after which a process that should be there for half a second at most is given up.
HUNG: Final = 60.0
#: Wrong ends that are described; all are counted.
_DESCRIBED: Final = 10
_CALLS: Final = 12

_HASH: Final = "import hashlib; print(hashlib.sha256(b'soak').hexdigest())"
_FORKS: Final = """
import os, sys
pid = os.fork()
if pid == 0:
    os._exit(9)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
sys.exit(4)
"""


@dataclass(frozen=True)
class Kind:
    """What is started, and how it ends; ``processes``: how many it is altogether."""

    name: str
    command: list[str]
    processes: int
    status: int
    #: What it prints, as a pattern.
    output: str


def kinds() -> list[Kind]:
    """In the order in which they are started, over and over."""
    calls = str(_CALLS)
    tallies = r"(\d+) (\d+) (\d+)\n"
    ended = _CALLS % 7
    quick = Kind("quick", ["soaked", "quick", calls], 1, ended, tallies)
    slow = Kind("slow", ["soaked", "slow", calls], 1, ended, tallies)
    digest = hashlib.sha256(b"soak").hexdigest()
    return [
        quick,
        slow,
        Kind("pipeline", ["sh", "-c", "echo soak | cat | tr o 0; exit 5"], 4, 5, "s0ak\n"),
        quick,
        Kind("threads", ["soaked", "threads", calls], 1, ended, tallies),
        quick,
        Kind("forks", ["soaked", "forks", calls], 4, ended, tallies),
        slow,
        Kind("python", ["python", "-c", _HASH], 1, 0, f"{digest}\n"),
        quick,
        Kind("spawns", ["soaked", "spawns", calls], 3, ended, tallies * 2),
        Kind("python that forks", ["python", "-c", _FORKS], 2, 4, "9\n"),
        slow,
    ]


@dataclass
class Counts:
    """What has come of all of them."""

    processes: int = 0
    started: Counter[str] = field(default_factory=Counter)
    wrong: int = 0
    described: list[str] = field(default_factory=list)
    calls: int = 0
    sure: int = 0
    unsure: int = 0
    seconds: float = 0.0


class Running:
    """One that was started."""

    def __init__(self, kind: Kind, folder: Path) -> None:
        self.kind = kind
        self.begun = time.monotonic()
        self._output: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115
        program, *arguments = kind.command
        self._process = subprocess.Popen(
            [folder / program, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=subprocess.STDOUT,
            env={"PATH": str(folder)},
        )
        self.pidfd = os.pidfd_open(self._process.pid)

    def end(self, counts: Counts) -> None:
        """It has ended: as it should?"""
        status = self._process.wait()
        os.close(self.pidfd)
        self._output.seek(0)
        output = self._output.read().decode(errors="replace")
        self._output.close()
        match = re.fullmatch(self.kind.output, output)
        if status != self.kind.status or match is None:
            counts.wrong += 1
            if len(counts.described) < _DESCRIBED:
                counts.described.append(f"{self.kind.name}: status {status}, output {output!r}")
            return
        numbers = [int(number) for number in match.groups()]
        counts.calls += sum(numbers[0::3])
        counts.sure += sum(numbers[1::3])
        counts.unsure += sum(numbers[2::3])

    def give_up(self) -> None:
        """It hangs."""
        self._process.send_signal(signal.SIGKILL)


def run(folder: Path, rate: float) -> Counts:
    """Until the end of the input."""
    counts = Counts()
    running: dict[int, Running] = {}
    poll = select.poll()
    poll.register(0, select.POLLIN | select.POLLHUP)
    begun = time.monotonic()
    due: Iterator[Kind] = cycle(kinds())
    going = True
    while going or running:
        wait = 1.0
        if going:
            wait = begun + counts.processes / rate - time.monotonic()
            if wait <= 0:
                kind = next(due)
                started = Running(kind, folder)
                running[started.pidfd] = started
                poll.register(started.pidfd, select.POLLIN)
                counts.processes += kind.processes
                counts.started[kind.name] += 1
        for descriptor, _ in poll.poll(max(0.0, wait) * 1000):
            if descriptor == 0:
                poll.unregister(0)
                going = False
                counts.seconds = time.monotonic() - begun
            else:
                poll.unregister(descriptor)
                running.pop(descriptor).end(counts)
        for each in running.values():
            if time.monotonic() - each.begun > HUNG:
                each.give_up()
    return counts


if __name__ == "__main__":
    result = run(Path(sys.argv[1]), float(sys.argv[2]))
    print(json.dumps(vars(result)))
