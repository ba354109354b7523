"""Refusals are written down, not so many that they fill the disk, and none silently."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from dprobed import systemd_journal
from dprobed.daemon.audit import Audit
from dprobed.daemon.client import Forbidden
from dprobed.daemon.history import BURST, History, some
from dprobed.policy.model import Denial
from dprobed.policy.rights import Right

Told = list[Callable[[], None]]


@pytest.fixture(autouse=True)
def no_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DPROBED_JOURNAL_SOCKET", str(tmp_path / "none"))


def denial(pid: int = 1, uid: int = 1000) -> Denial:
    return Denial(f"no {pid}", "no", "default", "", pid, uid, frozenset({Right.ALTER}))


def later(told: Told) -> Callable[[float, Callable[[], None]], None]:
    return lambda seconds, call: told.append(call)


def texts(caplog: pytest.LogCaptureFixture) -> list[str]:
    found = [record.getMessage() for record in caplog.records]
    caplog.clear()
    return found


def test_a_flood_is_cut_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    now = 100.0
    told: Told = []
    audit = Audit(lambda: now, later(told))
    caplog.set_level(logging.WARNING)
    for _ in range(1 + BURST + 30):
        audit.deny(denial())
    assert texts(caplog) == ["denied: no 1"] * (1 + BURST)
    now += 1
    audit.deny(denial())
    assert texts(caplog) == ["denied: no 1 (30 more like this since the last one logged)"]
    audit.deny(denial())
    assert texts(caplog) == ["denied: no 1"]
    assert audit.refusals == {"policy": 1 + BURST + 32}
    # Nothing more is owed by then, and nothing said.
    assert len(told) == 1
    told.pop()()
    assert texts(caplog) == []


def test_what_no_further_line_says_is_told_later(caplog: pytest.LogCaptureFixture) -> None:
    told: Told = []
    audit = Audit(lambda: 100.0, later(told))
    caplog.set_level(logging.WARNING)
    for _ in range(2):
        for _ in range(1 + BURST + 30):
            audit.deny(denial())
        caplog.clear()
        assert len(told) == 1
    told.pop()()
    found = vars(caplog.records[0])
    assert texts(caplog) == [
        f"denied: user 1000: {BURST + 61} more like this (default: alter, again)"
    ]
    assert found["DPROBE_UID"] == "1000"
    assert "OBJECT_PID" not in found


def test_what_is_new_is_not_hidden_by_what_is_asked_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    audit = Audit(lambda: 100.0, later([]))
    caplog.set_level(logging.WARNING)
    for _ in range(1000):
        audit.deny(denial(1))
    caplog.clear()
    audit.deny(denial(2))
    assert texts(caplog) == ["denied: no 2"]
    # Nor can somebody who is refused something new each time fill the log.
    for pid in range(3, 1000):
        audit.deny(denial(pid))
    assert len(texts(caplog)) == BURST - 2


def test_a_flood_of_one_user_hides_nothing_of_another(caplog: pytest.LogCaptureFixture) -> None:
    audit = Audit(lambda: 100.0, later([]))
    caplog.set_level(logging.WARNING)
    for uid in (1000, 1001):
        for _ in range(BURST + 10):
            audit.deny(denial(uid=uid))
        assert len(texts(caplog)) == 1 + BURST


def test_a_refusal_says_who_asked_what(caplog: pytest.LogCaptureFixture) -> None:
    audit = Audit(lambda: 100.0, later([]))
    caplog.set_level(logging.WARNING)
    audit.refuse(77, 1000, "attach", Forbidden("process 5 is ours", "dprobed itself", 5))
    found = vars(caplog.records[0])
    assert texts(caplog) == ["refused: user 1000 (process 77), attach: process 5 is ours"]
    assert {name: value for name, value in found.items() if name.isupper()} == {
        "MESSAGE_ID": systemd_journal.EVENTS["refused"],
        "DPROBE_EVENT": "refused",
        "DPROBE_UID": "1000",
        "DPROBE_BY_PID": "77",
        "DPROBE_REQUEST": "attach",
        "DPROBE_WHY": "dprobed itself",
        "DPROBE_PID": "5",
        "OBJECT_PID": "5",
    }


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
    history, audit = History(lambda: 100.0), Audit(lambda: 100.0, later([]))
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
