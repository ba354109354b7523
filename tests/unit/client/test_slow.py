"""What takes long is said, and nothing where it does not."""

from __future__ import annotations

import threading

from dprobe.lib.slow import said_if_slow


def test_what_takes_long_is_said() -> None:
    said: list[str] = []
    told = threading.Event()

    def say(text: str) -> None:
        said.append(text)
        told.set()

    with said_if_slow("reading", say, 0.0):
        assert told.wait(60)
    assert said == ["reading"]


def test_what_does_not_is_not() -> None:
    said: list[str] = []
    with said_if_slow("reading", said.append, 60.0):
        pass
    assert said == []
    assert all(not isinstance(each, threading.Timer) or each.finished.is_set()
               for each in threading.enumerate())  # fmt: skip
