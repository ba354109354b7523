"""Refusals are written down, not so many that they fill the disk, and none silently."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from dprobed.daemon.audit import Audit
from dprobed.daemon.history import BURST, History, some
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
        "denied: no (30 more such denials since the last one logged)"
    )
    audit.deny(denial)
    assert caplog.records[-1].getMessage() == "denied: no"


def test_a_flood_of_one_user_hides_nothing_of_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("DPROBED_JOURNAL_SOCKET", str(tmp_path / "none"))
    audit = Audit(lambda: 100.0)
    for uid in (1000, 1001):
        denial = Denial("no", "no", "default", "", 1, uid, frozenset({Right.ALTER}))
        caplog.clear()
        caplog.set_level(logging.WARNING)
        for _ in range(BURST + 1):
            audit.deny(denial)
        assert len(caplog.records) == BURST


def test_what_users_do_is_cut_and_counted_but_not_what_root_does(
    caplog: pytest.LogCaptureFixture,
) -> None:
    now = 100.0
    history = History(lambda: now)
    caplog.set_level(logging.INFO)
    for uid, written in ((1000, BURST), (0, BURST + 30)):
        caplog.clear()
        for _ in range(BURST + 30):
            history.note(uid, "done")
        assert len(caplog.records) == written
    now += 1
    history.note(1000, "done")
    assert caplog.records[-1].getMessage() == (
        "done (30 more such lines about user 1000 were left out before)"
    )


def test_one_cause_does_not_hide_another(caplog: pytest.LogCaptureFixture) -> None:
    history, audit = History(lambda: 100.0), Audit(lambda: 100.0)
    caplog.set_level(logging.INFO)
    for _ in range(BURST + 30):
        history.note(1000, "no dump: limit", "dump no dump")
        audit.deny(Denial("no", "no", "default", "", 1, 1000, frozenset({Right.ALTER})))
    caplog.clear()
    history.note(1000, "core: x", "dump core")
    audit.deny(Denial("no", "no", "default", "", 1, 1000, frozenset({Right.DUMP})))
    audit.deny(Denial("no", "no", "other", "", 1, 1000, frozenset({Right.ALTER})))
    assert len(caplog.records) == 3


def test_many_and_long_labels_make_a_short_line() -> None:
    assert some(["a", "b", "a"]) == "a, b"
    assert some(str(number) for number in range(8)) == "0, 1, 2, 3, 4 and 3 more"
    assert some(["x" * 255]) == "x" * 64 + "…"
