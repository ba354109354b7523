"""A detach that several ask for."""

from __future__ import annotations

from typing import cast

from dprobed.tracee.thread_group import ThreadGroup
from dprobed.tracer.detachment import Detachment
from dprobed.wire.notices import NoticeKind


class _Group:
    """Threads of which one sleeps."""

    def __init__(self) -> None:
        self.threads = {7: None}

    def request_attention(self) -> None:
        """Nothing attends to it here."""


def _detachment(told: list[NoticeKind]) -> Detachment:
    group = cast(ThreadGroup, _Group())
    return Detachment(group, lambda kind, text: told.append(kind))


def test_each_who_asks_is_answered() -> None:
    detachment, heard = _detachment([]), list[str]()
    assert not detachment.is_due
    detachment.ask(lambda: heard.append("first"), lambda: heard.append("asleep"))
    detachment.ask(lambda: heard.append("second"), lambda: heard.append("asleep"))
    assert detachment.is_due
    detachment.done()
    assert heard == ["first", "second"]


def test_who_asks_when_it_is_known_to_sleep_is_answered_at_once() -> None:
    told: list[NoticeKind] = []
    detachment, heard = _detachment(told), list[str]()
    detachment.ask(lambda: None, lambda: heard.append("first"))
    while not detachment.is_asleep:
        detachment.note_asleep()
    assert (told, heard) == ([NoticeKind.ASLEEP], ["first"])
    detachment.ask(lambda: None, lambda: heard.append("second"))
    assert heard == ["first", "second"]
