"""Maps: what an update costs over a hit that only counts, and what a full map takes.

The target calls an empty function and times itself; programs that differ in one update take turns,
on one CPU. A hit that counts adds 1 to a local variable, and has no record.
"""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from statistics import median

from dprobed.program.exec.maps import CountMap, HeldMap, held_maps
from dprobed.program.maps import DEFAULT_SIZE, PROGRAM_BYTES, MapDefinition, MapRoom
from tests.benchmarks.bench_trap import kept_to
from tests.benchmarks.driver import Target, Tracer, by_load, compiled
from tests.benchmarks.figures import Figure, ratio_of_medians

_PROGRAM = """
name = "{binary}"
vars = calls
map = sizes, hist
map = one, count
map = several, count, keys=3
offset = tick
inc lv,calls
{update}
abort
"""
_UPDATES = {
    "hist, no key": "push r,rdi\nmadd sizes",
    "count, no key": "minc one",
    "count, 3 words as key": "push 1\npush 2\npush pid\nkey 3\nminc several",
}


def _hits(binary: Path, rounds: int, hits: int) -> dict[str, list[float]]:
    """Nanoseconds of a hit, by update; empty: of none."""
    cpu, *_, other = by_load() * 2
    found: dict[str, list[float]] = {"": [], **{name: [] for name in _UPDATES}}
    with ExitStack() as stack:
        running = {}
        for name in found:
            target = stack.enter_context(Target(binary, cpu))
            tracer = stack.enter_context(Tracer(target.pid))
            tracer.insert(_PROGRAM.format(binary=binary, update=_UPDATES.get(name, "")))
            running[name] = target, tracer
        for _ in range(rounds):
            for name, (target, tracer) in running.items():
                with kept_to(other):
                    target.tell(str(hits))
                    found[name].append(float(tracer.until_line(target)))
        for _, tracer in running.values():
            probe = tracer.query().probes[0]
            if probe.ran != rounds * hits:
                raise RuntimeError(f"{rounds * hits} calls, but {probe.ran} ran")
    return found


def _memory(make: Callable[[], HeldMap]) -> int:
    """Bytes that a map takes."""
    gc.collect()
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    made = make()
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    if len(made) != DEFAULT_SIZE or made.lost:
        raise RuntimeError(f"{len(made)} keys, {made.lost} lost")
    return after - before


def _full(room: MapRoom) -> HeldMap:
    """A map with as many keys of 3 words as one has where nothing is said."""
    (made,) = held_maps([MapDefinition("a", "count", keys=3)], room)
    assert isinstance(made, CountMap)
    base = 1 << 40
    for number in range(DEFAULT_SIZE):
        made.count((base + number, base - number, 7000 + number))
    return made


def measure(smoke: bool) -> tuple[list[Figure], list[str]]:
    """Updates beside a counting hit; a full map beside what its bounds take it for."""
    rounds, hits = (1, 500) if smoke else (9, 20_000)
    with compiled("tick") as tick:
        found = _hits(tick, rounds, hits)
    plain = found.pop("")
    figures = [
        Figure(
            f"hit with an update: {name}",
            median(each),
            "ns",
            "counting hit",
            median(plain),
            ratio_of_medians(each, plain),
            1.15,
        )
        for name, each in found.items()
    ]
    room = MapRoom(PROGRAM_BYTES)
    taken = _memory(lambda: _full(room))
    counted = PROGRAM_BYTES - room.left
    what = f"a map of {DEFAULT_SIZE:,} keys of 3 words"
    beside = "what it counts as"
    figures.append(Figure(what, taken, "bytes", beside, counted, taken / counted, 1.1))
    return figures, ["each program has a target and a tracer of its own; they take turns"]
