"""The soak for a minute; ``make soak`` takes its time."""

from __future__ import annotations

import pytest

from tests.soak import churn


@pytest.mark.timeout(300)
def test_processes_come_and_go_with_probes_in_and_out() -> None:
    report = churn.soak(60.0)
    assert report.check() == [], "\n".join(report.lines())
    # It would show nothing if programs did not get into processes, and these did not hit them.
    assert report.sums["entered"] >= 20
    assert report.sure >= 100
