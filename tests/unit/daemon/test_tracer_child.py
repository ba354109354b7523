"""What a tracer process gives up before it becomes its user."""

from __future__ import annotations

from pathlib import Path

import pytest

from dprobed.daemon.tracer_child import give_up_protection


@pytest.mark.parametrize(("before", "after"), [("-900", "0"), ("0", "0"), ("200", "200")])
def test_the_daemons_protection_from_want_of_memory(
    tmp_path: Path, before: str, after: str
) -> None:
    """No user gets a process that is protected; what was less protected stays that."""
    score = tmp_path / "oom_score_adj"
    score.write_text(before)
    give_up_protection(score)
    assert score.read_text() == after
