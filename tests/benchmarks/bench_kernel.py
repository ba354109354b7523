"""A hit in the kernel, beside a bare kprobe whose handler is written in C.

In a virtual machine with Debian's kernel, whose processor is emulated: only what the two come to
beside each other means something. Both are at the entry of getppid(2), and do the same: they count
twice. They alternate, each beside the call without a probe, whose time is taken off.
"""

from __future__ import annotations

import struct
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import NamedTuple

from tests.benchmarks.figures import Figure
from tests.kernel.device import (
    GETPPID,
    KILL,
    READ,
    Device,
    check,
    insert_module,
    text_of,
    write_text,
)
from tests.kernel.machine import (
    AREA,
    Machine,
    build_modules,
    called,
    fetched,
    find_kernel,
    why_not,
)
from tests.kernel.test_bridge import PLACE, kernel_program

_CLOCK_GETTIME, _MONOTONIC = 228, 1
_SIGKILL = 9
#: Bytes of a ring, and that are read at once.
_ROOM = 1 << 18
_ON = "/sys/module/dpbare/parameters/on"
_COUNT = "inc lv,0\ninc gv,0\nabort"
_RECORD = "push pid\nlog 1\nexit"


def _call(machine: Machine, calls: int) -> float:
    """Nanoseconds of a call, by the machine's own clock."""
    clocks = [called(_CLOCK_GETTIME, _MONOTONIC, AREA + at) for at in (0, 16)]
    answer = machine.exchange(clocks[0], called(GETPPID, count=calls), clocks[1], fetched(AREA, 32))
    begun, begun_ns, ended, ended_ns = struct.unpack("<4q", answer[-32:])
    return float(((ended - begun) * 10**9 + ended_ns - begun_ns) / calls)


def _bare(machine: Machine, calls: int) -> float:
    before = int(text_of(machine, _ON))
    write_text(machine, _ON, "1")
    taken = _call(machine, calls)
    write_text(machine, _ON, "0")
    if int(text_of(machine, _ON)) - before != calls:
        raise RuntimeError("the bare kprobe has not counted each call")
    return taken


def _program(machine: Machine, device: Device, text: str, calls: int) -> float:
    loaded = device.load(kernel_program(text, "vars = 1\ngvars = 1"), ring=1 << 22)
    loaded.attach(PLACE)
    taken = _call(machine, calls)
    query, stats = loaded.query(), loaded.stats()
    if (query.runs, query.missed, stats.lost) != (calls, 0, 0):
        raise RuntimeError(f"{calls} calls, but {query.runs} runs, {stats.lost} lost")
    loaded.close()
    return taken


def added(machine: Machine, rounds: int, calls: int) -> dict[str, list[float]]:
    """What a probe of each kind adds to a call, round by round, in nanoseconds."""
    device = Device(machine)
    taken: dict[str, list[float]] = {"bare": [], "count": [], "record": []}
    for _ in range(rounds):
        without = _call(machine, calls)
        taken["bare"].append(_bare(machine, calls) - without)
        for name, text in (("count", _COUNT), ("record", _RECORD)):
            taken[name].append(_program(machine, device, text, calls) - without)
    device.close()
    return taken


class Flood(NamedTuple):
    """What came of processes on both CPUs that hit a probe as fast as they can."""

    #: Records a second that were read.
    rate: float
    #: How many of a hundred had no room.
    lost: float


def flood(machine: Machine, reads: int) -> Flood:
    """Hits on two CPUs, a record each, read in so many turns; each is read or counted as lost."""
    device = Device(machine)
    loaded = device.load(kernel_program(_RECORD), ring=_ROOM)
    loaded.attach(PLACE)
    clocks = [called(_CLOCK_GETTIME, _MONOTONIC, AREA + at) for at in (0, 16)]
    # A record that has been read leaves its room to another: what is at this address is not looked
    # at, and the line to this machine, which is slow, has nothing to do with it.
    reading = called(READ, loaded.fd, AREA + 4096, _ROOM, count=reads)
    processes = []
    for cpu in (1, 0):
        machine.run_on(cpu)
        processes.append(machine.for_ever(GETPPID))
    answer = machine.exchange(clocks[0], reading, clocks[1], fetched(AREA, 32))
    before = loaded.stats()
    for pid in processes:
        check(machine.call(KILL, pid, _SIGKILL))
        machine.wait(pid)
    query, stats = loaded.query(), loaded.stats()
    cpus: set[int] = set()
    while loaded.ready():
        cpus.update(hit.record.cpu for hit in loaded.read())
    if query.runs != stats.written + stats.lost or query.missed or len(cpus) != 2:
        raise RuntimeError(f"{query.runs} hits, {stats.written} records, {stats.lost} lost, {cpus}")
    loaded.close()
    device.close()
    begun, begun_ns, ended, ended_ns = struct.unpack("<4q", answer[-32:])
    seconds = ended - begun + (ended_ns - begun_ns) / 1e9
    return Flood(before.written / seconds, 100 * before.lost / (before.written + before.lost))


def measure(smoke: bool) -> tuple[list[Figure], list[str]]:
    """Each of three kinds in turn, round by round."""
    missing, release = why_not(), find_kernel()
    if missing or release is None:
        return [], [f"not measured: {missing}"]
    rounds, calls = (1, 500) if smoke else (9, 20_000)
    with TemporaryDirectory(prefix="dprobed-bench-") as name:
        folder = Path(name)
        machine = Machine(folder, release, build_modules(release, folder))
        try:
            insert_module(machine)
            insert_module(machine, name="dpbare")
            taken = added(machine, rounds, calls)
            flooded = flood(machine, 20 if smoke else 500)
        finally:
            machine.close()
    bare = median(taken["bare"])
    counts, records = (median(taken[name]) for name in ("count", "record"))
    return [
        Figure("count twice", counts, "ns", "bare kprobe", bare, counts / bare, at_most=2),
        Figure("a record of one word", records, "ns", "bare kprobe", bare, records / bare),
        Figure("records from two CPUs that do nothing else", flooded.rate / 1000, "thousand/s"),
        Figure("of these had no room, and were counted", flooded.lost, "%"),
    ], ["the processor is emulated: the ratio is the figure"]
