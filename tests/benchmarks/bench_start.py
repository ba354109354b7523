"""What `dprobe run` adds to a command, and the memory that dprobed takes.

/bin/true alone and under `dprobe run` with one probe, alternating; in wall time, and in CPU of all
processes, which a machine at other work hardly changes. Our modules are compiled beforehand, as pip
does at an installation. Memory is what the processes
that serve a running `cat` hold resident: the client, the private daemon and the tracer; below it,
what the parts add to an empty Python, one after the other.
"""

from __future__ import annotations

import compileall
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

from tests.benchmarks.driver import dprobe, relatives, timed
from tests.benchmarks.figures import Figure

#: Of the repository.
ROOT = Path(__file__).resolve().parents[2]

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
    "dprobed.program.verifier",
    "dprobed.wire.messages",
    "dprobed.daemon.private_service",
    "dprobed.arch.x86_64.python_ptrace",
    "iced_x86",
    "dprobed.tracer.main",
    "dprobed.resolver.service",
    "dprobe.main",
    "dprobe.commands.run",
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


def cpu_of(command: list[str | Path]) -> float:
    """Seconds of CPU, user and system, of a command and the processes that it waits for."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def measure(smoke: bool) -> tuple[list[Figure], list[str]]:
    """Alternate the command alone and under `dprobe run`."""
    rounds = 1 if smoke else 11
    alone: list[float] = []
    probed: list[float] = []
    cpu: list[float] = []
    for package in ("dprobed", "clients"):
        compileall.compile_dir(ROOT / package, quiet=1)
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "exit.rpn"
        program.write_text(PROGRAM.format(symbol="_exit"))
        for _ in range(rounds):
            alone.append(timed(["/bin/true"]))
            command = dprobe("run", "-o", "/dev/null", program, "--", "/bin/true")
            probed.append(timed(command))
            cpu.append(cpu_of(command))
        program.write_text(PROGRAM.format(symbol="read"))
        figures, notes = memory(program)
    more = median(probed) - median(alone)
    growth = subprocess.run(
        [sys.executable, "-c", GROWTH, *PARTS], check=True, capture_output=True, text=True
    )
    return [
        Figure("dprobe run /bin/true", median(probed), "s", "/bin/true", median(alone)),
        Figure("dprobe run adds", more, "s", at_most=0.3),
        Figure("dprobe run, CPU of all processes", median(cpu), "s"),
        *figures,
    ], [*notes, growth.stdout.strip()]
