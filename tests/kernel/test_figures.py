"""The bench of hits in the kernel works; its figures, of so few hits, mean nothing."""

from __future__ import annotations

from tests.benchmarks.bench_kernel import added, flood
from tests.kernel.device import check, insert_module, remove_module
from tests.kernel.machine import Machine


def test_each_kind_is_hit_by_each_call(machine: Machine) -> None:
    insert_module(machine, name="dpbare")
    taken = added(machine, rounds=2, calls=200)
    assert {kind: len(times) for kind, times in taken.items()} == {
        "bare": 2,
        "count": 2,
        "record": 2,
    }
    check(remove_module(machine, "dpbare"))


def test_records_of_two_cpus_are_read_or_counted_as_lost(machine: Machine) -> None:
    flooded = flood(machine, reads=20)
    assert flooded.rate > 0
    assert 0 <= flooded.lost < 100
