"""What `dprobe run` adds to a command, and the memory that dprobed takes.

/bin/true alone and under `dprobe run` with one probe, alternating. Memory is what the processes
that serve a running `cat` hold resident: the client, the private daemon and the tracer; below it,
what the parts add to an empty Python, one after the other.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

from tests.benchmarks.driver import dprobe, relatives, timed
from tests.benchmarks.figures import Figure

PROGRAM = """
name = libc.so.6
offset = {symbol}
push r,rdi
log 1
exit
"""

#: Imported one after the other, to see what each adds.
PARTS = (
    "asyncio",
    "msgspec",
    "dprobed.program",
    "elftools.elf.elffile",
    "iced_x86",
    "dprobed.location",
    "dprobed.tracer.main",
    "dprobed.daemon.main",
    "dprobe.main",
)

GROWTH = """
import importlib, sys
def resident():
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * 4096 / 1e6
last = resident()
print(f"{last:.1f} an empty Python", end="")
for part in sys.argv[1:]:
    importlib.import_module(part)
    now = resident()
    print(f" + {now - last:.1f} {part}", end="")
    last = now
print(f" = {last:.1f} MB")
"""


def memory(program: Path) -> tuple[list[Figure], list[str]]:
    """Resident memory of all that serves one small target."""
    client = subprocess.Popen(
        dprobe("run", "--format", "json", "-o", "/dev/null", program, "--", "cat"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert client.stdin is not None and client.stdout is not None
    client.stdin.write(b"in\n")
    client.stdin.flush()
    client.stdout.readline()
    figures, notes = [], []
    limits = {"daemon": 60.0, "tracer": 50.0}
    for role, process in relatives(client.pid).items():
        full = process.memory_full_info()
        megabytes = full.rss / 1e6
        figures.append(Figure(f"{role}, resident", megabytes, "MB", at_most=limits.get(role)))
        notes.append(f"{role}: {full.pss / 1e6:.1f} MB its share, {full.uss / 1e6:.1f} MB its own")
    client.communicate(timeout=30)
    return figures, notes


def measure(smoke: bool) -> tuple[list[Figure], list[str]]:
    """Alternate the command alone and under `dprobe run`."""
    rounds = 1 if smoke else 11
    alone: list[float] = []
    probed: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "exit.rpn"
        program.write_text(PROGRAM.format(symbol="_exit"))
        for _ in range(rounds):
            alone.append(timed(["/bin/true"]))
            probed.append(timed(dprobe("run", "-o", "/dev/null", program, "--", "/bin/true")))
        program.write_text(PROGRAM.format(symbol="read"))
        figures, notes = memory(program)
    more = median(probed) - median(alone)
    growth = subprocess.run(
        [sys.executable, "-c", GROWTH, *PARTS], check=True, capture_output=True, text=True
    )
    return [
        Figure("dprobe run /bin/true", median(probed), "s", "/bin/true", median(alone)),
        Figure("dprobe run adds", more, "s", at_most=0.6),
        *figures,
    ], [*notes, growth.stdout.strip()]
