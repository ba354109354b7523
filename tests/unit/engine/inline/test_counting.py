"""What is taken over of counts and records, in memory that the target can write to as well."""

from __future__ import annotations

import struct
import time
from types import SimpleNamespace
from typing import cast

from dprobed.arch.x86_64.time_stamp import TimeStamps
from dprobed.arch.x86_64.trampoline import RING_DATA, RING_HEAD
from dprobed.engine.budget import Account
from dprobed.engine.inline.counters import ProbeCounter
from dprobed.engine.inline.counting import InlineCounts
from dprobed.engine.inline.placing import Placer
from dprobed.engine.inline.records import RecordPlaces, RecordReader
from dprobed.engine.inline.rings import DAMAGE, SIZE, RingMemory
from dprobed.engine.inline.shared import SharedMemory
from dprobed.engine.interface import Listener
from dprobed.engine.probe import Probe
from dprobed.wire.limits import Limits
from dprobed.wire.protocol import State


class Kept(SimpleNamespace):
    """What is a key somewhere."""

    __hash__ = object.__hash__  # type: ignore[assignment]


def test_what_is_found_at_the_very_last_is_in_the_summary() -> None:
    """When its places are gone already."""
    told: list[tuple[State, str]] = []
    listener = SimpleNamespace(retired=lambda: None)
    probe = Kept(
        native=None, attachments=[], accounts=[], state=State.ACTIVE, over=False,
        hits=0, ran=0, dropped=0, missed=0, unwound=0, spent_ns=0, pass_count=0, last=1 << 63,
        set=lambda state, reason: told.append((state, reason)),
    )  # fmt: skip
    view = memoryview(bytearray(RING_DATA + SIZE))
    struct.pack_into("<Q", view, RING_HEAD, 12)
    shared = cast(SharedMemory, SimpleNamespace(address=0, view=view))
    counter = ProbeCounter(0, memoryview(bytearray(64)).cast("Q"))
    counter.begin(0, 0, 1 << 63)
    placer = SimpleNamespace(
        rings=RingMemory(shared, 1), clock=TimeStamps(), told_clock=None, places=RecordPlaces(),
        counters={cast(Probe, probe): counter}, end=lambda probe: counter.end(),
    )  # fmt: skip
    reader = SimpleNamespace(take=lambda *_: True)
    counts = InlineCounts(cast(Listener, listener))
    counts.sync(cast(Placer, placer), cast(RecordReader, reader), final=True)
    assert told == [(State.FAILED, DAMAGE)]
    assert counter.is_over


def test_each_hit_counts_for_a_budget_of_hits() -> None:
    overdrawn: list[Account] = []
    listener = SimpleNamespace(retired=lambda: None, overdrawn=overdrawn.append)
    account = Account(Limits(hits=1000.0), "it", time.monotonic_ns())
    probe = Kept(
        native=None, attachments=[], accounts=[account], state=State.ACTIVE, over=False,
        hits=0, ran=0, dropped=0, missed=0, unwound=0, spent_ns=0, pass_count=0, last=1 << 63,
    )  # fmt: skip
    counter = ProbeCounter(0, memoryview(bytearray(64)).cast("Q"))
    counter.begin(5000, 0, 1 << 63)
    placer = SimpleNamespace(
        rings=None, clock=None, told_clock=None, counters={cast(Probe, probe): counter}
    )
    counts = InlineCounts(cast(Listener, listener))
    counts.sync(cast(Placer, placer), cast(RecordReader, None), final=False)
    assert overdrawn == [account]
