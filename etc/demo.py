"""`make demo`: probe programs in a real multi-threaded program, live.

Starts Debian's python3 on a job of four threads (``demo_job.py``), puts five of the example
programs into it while it runs, shows what fires, takes them out, lets the job go on without them,
and compares what it made with a run that was never probed.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

HERE = Path(__file__).parent
TARGET = Path("/usr/bin/python3").resolve()
DPROBE = Path(sys.executable).with_name("dprobe")
PROGRAMS = ("big_malloc", "opens", "largest_write", "who_writes", "fake_uid")
DEFINES = {"MIN": 100_000, "UID": 4711, "MODULE": TARGET.name, "VARIABLE": "environ"}
#: Records shown of each program; the rest is counted.
SHOWN = 6
COLOURS = dict(zip(PROGRAMS, ("cyan", "green", "yellow", "magenta", "red"), strict=True))

Record = dict[str, Any]

console = Console(highlight=False)


class DemoError(Exception):
    """The demo cannot go on; the text says why."""


def words(record: Record) -> list[int]:
    """All the words that a record logged."""
    return [word for item in record["log"] for word in item.get("words", [])]


def place(record: Record) -> str:
    """What is at the address that a record logged; the address itself where that is not known."""
    item = next(item for item in record["log"] if item.get("kind") == "ptr")
    return str(item.get("place") or hex(item["value"]))


def string(record: Record) -> str:
    """The string that a record logged."""
    return next((item["string"] for item in record["log"] if "string" in item), "?")


SAY: dict[str, Callable[[Record], str]] = {
    "big_malloc": lambda r: f"allocates {words(r)[0]:,} bytes, from {words(r)[1]:#x}",
    "opens": lambda r: f"opens {string(r)}",
    "largest_write": lambda r: f"writes {words(r)[0]:,} bytes to fd {words(r)[1]}, the most so far",
    "who_writes": lambda r: f"the instruction before {place(r)} sets `environ`",
    "fake_uid": lambda r: f"asks for its user id, and is told {words(r)[0]}",
}


class Job:
    """The target. Nothing in it is prepared for probes."""

    def __init__(self, folder: str) -> None:
        self.process = subprocess.Popen(
            [TARGET, HERE / "demo_job.py", folder],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.printed = ""
        self.line()  # "ready"

    def line(self) -> str:
        """The next line that it prints."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().rstrip()

    def turn(self) -> None:
        """Tell it to do its next turn."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def end(self) -> str:
        """Its last line, the checksum; raises DemoError when it did not end well."""
        checksum = self.line()
        status = self.process.wait(timeout=60)
        if status != 0:
            raise DemoError(f"the job ended with status {status}")
        return checksum


def unprobed() -> str:
    """The checksum that the job comes to when nobody looks."""
    with tempfile.TemporaryDirectory() as folder:
        job = Job(folder)
        for _ in range(2):
            job.turn()
            job.line()
        return job.end()


def attach(pid: int) -> subprocess.Popen[str]:
    """`dprobe attach` with the programs in; what it reports comes as JSON lines."""
    defines = [part for name, value in DEFINES.items() for part in ("-D", f"{name}={value}")]
    programs = [f"etc/examples/{name}.rpn" for name in PROGRAMS]
    command = ["dprobe", "attach", "--format", "json", *defines, str(pid), *programs]
    say("$ " + " ".join(command), "bold")
    client = subprocess.Popen(
        [DPROBE, *command[1:]],
        cwd=HERE.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert client.stderr is not None
    ready = client.stderr.readline().rstrip()
    say(ready)
    if client.poll() is not None or "probes in" not in ready:
        raise DemoError(client.stderr.read().rstrip() or "dprobe did not put its probes in")
    return client


def say(text: str, style: str = "") -> None:
    """A line of text, whatever characters are in it."""
    console.print(Text(text, style=style), soft_wrap=True)


def altered(pid: int) -> int:
    """How many bytes of the process's code are not what is in the files that it is mapped from."""
    count = 0
    with open(f"/proc/{pid}/mem", "rb") as memory:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            span, rights, offset, _, _, *path = line.split(maxsplit=5)
            if "x" not in rights or not path or not path[0].startswith("/"):
                continue
            start, end = (int(part, 16) for part in span.split("-"))
            memory.seek(start)
            live = memory.read(end - start)
            with open(path[0], "rb") as file:
                file.seek(int(offset, 16))
                same = file.read(end - start)
            count += sum(a != b for a, b in zip(live, same, strict=False)) if live != same else 0
    return count


def show(record: Record, seen: Counter[str]) -> None:
    """Print a record, unless enough of its program were printed."""
    program = Path(record["program"]).stem
    seen[program] += 1
    if seen[program] > SHOWN:
        return
    line = Text(f"  {record['tid']:>7} {record['comm'][:15]:15} ")
    line.append(f"{program:14} ", style=COLOURS[program])
    line.append(f"{record['place']:12} ", style="dim")
    line.append(SAY[program](record))
    console.print(line, soft_wrap=True)


def watch(client: subprocess.Popen[str]) -> Record:
    """Show what the client reports, until its last line: the summary, which is returned."""
    seen: Counter[str] = Counter()
    assert client.stdout is not None
    for line in client.stdout:
        message = json.loads(line)
        if message["type"] == "record":
            show(message, seen)
        elif message["type"] == "summary":
            more = [f"{count - SHOWN:,} of {name}" for name, count in seen.items() if count > SHOWN]
            say("  and " + ", ".join(more) if more else "", "dim")
            return dict(message)
    raise DemoError("dprobe ended without a summary")


def table(summary: Record) -> Table:
    """Counters of all probes."""
    shown = Table(title="What was counted", title_justify="left")
    columns = ("program", "place", "state", "hits", "ran", "missed", "dropped")
    for column in columns:
        shown.add_column(column, justify="left" if column in columns[:3] else "right")
    for probe in summary["probes"]:
        probe["program"] = Path(probe["program"]).stem
        shown.add_row(*(f"{probe[c]:,}" if c in columns[3:] else probe[c] for c in columns))
    return shown


def probed(folder: str) -> str:
    """The first turn with probes, the second without; the checksum of what came out."""
    job = Job(folder)
    with job.process:
        say(f"{TARGET.name} runs as process {job.process.pid}, unprepared; four threads at work")
        client = attach(job.process.pid)
        with client:
            say(f"bytes of its code that differ from the files: {altered(job.process.pid)}")
            job.turn()
            told = threading.Thread(target=stop_after_turn, args=(job, client))
            told.start()
            summary = watch(client)
            told.join()
        console.print(table(summary))
        say(f"bytes of its code that differ from the files: {altered(job.process.pid)}")
        say(f"the job, with probes:    {job.printed}")
        job.turn()
        say(f"the job, without probes: {job.line()}")
        return job.end()


def stop_after_turn(job: Job, client: subprocess.Popen[str]) -> None:
    """When the job's turn is over, end the client as Ctrl-C does."""
    job.printed = job.line()
    client.send_signal(signal.SIGINT)


def main() -> int:
    """The whole demo."""
    try:
        plain = unprobed()
        with tempfile.TemporaryDirectory() as folder:
            checksum = probed(folder)
    except DemoError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    same = checksum == plain
    say(
        f"its output: sha256 {checksum[:32]}…, {'as' if same else 'NOT as'} in a run without probes"
    )
    say("the job ended with status 0", "green" if same else "red")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
