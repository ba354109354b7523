"""What is counted of a probe, wherever it is told."""

from __future__ import annotations

import msgspec
import pytest
from dprobe.lib.summary import SummaryProbe

from dprobed.wire import messages, protocol
from dprobed.wire.counters import NAMES, Counters


@pytest.mark.parametrize(
    "told",
    [
        protocol.ProbeStatus,
        messages.ProbeInfo,
        messages.EarlierInfo,
        messages.DeploymentInfo,
        SummaryProbe,
    ],
)
def test_all_of_them_are_told_everywhere(told: type[msgspec.Struct]) -> None:
    fields = set(told.__struct_fields__)
    if told is messages.DeploymentInfo:
        fields |= {"missed"} if "missed_hits" in fields else set()  # else of processes
    assert fields >= set(NAMES)


def test_sums() -> None:
    one = Counters(hits=3, ran=2, missed=1, uncounted_ns=5)
    other = Counters(hits=4, unwound=7)
    assert one + other == Counters(hits=7, ran=2, missed=1, unwound=7, uncounted_ns=5)
    assert Counters.of(one, other, one) == one + other + one
    assert Counters.of() == Counters()
    assert Counters.named({"hits": 2, "overhead_ns": 9}) == Counters(hits=2)
    assert Counters.named(one.as_dict()) == one
    assert other.lacking(one) == {"ran": 2, "missed": 1, "uncounted_ns": 5}
