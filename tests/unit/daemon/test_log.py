"""Where the daemon's log goes: lines, or entries with fields."""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path

import pytest

from dprobed import systemd_journal
from dprobed.daemon import log

ROOT = Path(__file__).parents[3]


def test_whether_a_descriptor_leads_to_the_journal(tmp_path: Path) -> None:
    with open(tmp_path / "stream", "wb") as stream:
        status = os.fstat(stream.fileno())
        environ = {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}
        assert log.is_journal(stream.fileno(), environ)
        assert not log.is_journal(stream.fileno(), {"JOURNAL_STREAM": "1:2"})
        assert not log.is_journal(stream.fileno(), {"JOURNAL_STREAM": "x"})
        assert not log.is_journal(stream.fileno(), {})
    assert not log.is_journal(9999, environ)


@pytest.mark.parametrize(("everything", "count"), [(True, 2), (False, 1)])
def test_messages_become_entries_with_our_fields(
    everything: bool, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[dict[str, str]] = []
    monkeypatch.setattr(systemd_journal, "post", sent.append)
    handler = log._SystemdJournal(everything)
    logger = logging.Logger("dprobed")
    logger.addHandler(handler)
    logger.info("plain %s", "text")
    logger.warning("no\nmore", extra=systemd_journal.about("denied", uid=7, pid=8))
    assert len(sent) == count
    denied = sent[-1]
    assert denied["MESSAGE"] == "no\n    more"
    assert denied["MESSAGE_ID"] == systemd_journal.EVENTS["denied"]
    assert (denied["DPROBE_UID"], denied["OBJECT_PID"], denied["PRIORITY"]) == ("7", "8", "4")
    assert denied["SYSLOG_IDENTIFIER"] == "dprobed"
    assert all(re.fullmatch("[A-Z_]+", name) for name in denied)


def test_every_kind_of_entry_is_explained() -> None:
    text = (ROOT / "etc/systemd/dprobed.catalog").read_text()
    assert re.findall("^-- ([0-9a-f]{32})$", text, re.MULTILINE) == list(
        systemd_journal.EVENTS.values()
    )
    assert set(re.findall("@DPROBE_([A-Z_]+)@", text)) <= {
        *("VERSION", "UID", "PID", "RULE", "RULE_PLACE", "RIGHTS"),
        *("PROGRAM", "PROBES", "NUMBER", "CORE"),
        *("BY_PID", "UNTIL", "SELECTION", "WHY", "TID", "THREADS", "REQUEST"),
    }
