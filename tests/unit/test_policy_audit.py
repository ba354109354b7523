"""Refusals are written down, not so many that they fill the disk, and none silently."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from dprobed.policy.audit import BURST, Audit
from dprobed.policy.model import Denial
from dprobed.policy.rights import Right


def test_a_flood_is_cut_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("DPROBED_JOURNAL_SOCKET", str(tmp_path / "none"))
    now = 100.0
    audit = Audit(lambda: now)
    denial = Denial("no", "no", "default", "", 1, 1000, frozenset({Right.ALTER}))
    caplog.set_level(logging.WARNING)
    for _ in range(BURST + 30):
        audit.deny(denial)
    assert len(caplog.records) == BURST
    now += 1
    audit.deny(denial)
    assert caplog.records[-1].getMessage() == (
        "denied: no (30 more were denied since the last that was written)"
    )
    audit.deny(denial)
    assert caplog.records[-1].getMessage() == "denied: no"
