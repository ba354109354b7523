"""Names of threads as they are now."""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from dprobed.proc import names
from dprobed.proc.names import ThreadNames

PR_SET_NAME = 15


@pytest.fixture
def read() -> Iterator[ThreadNames]:
    made = ThreadNames()
    yield made
    made.close()


def rename(name: bytes) -> None:
    ctypes.CDLL(None).prctl(PR_SET_NAME, name)


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_each_name_that_a_thread_gives_itself(read: ThreadNames) -> None:
    found: list[bytes] = []

    def work() -> None:
        for name in (b"one", b"a name of fifteen letters", b"", b"line\nbreak\n"):
            rename(name)
            found.append(read.of(threading.get_native_id()))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [b"one", b"a name of fifte", b"", b"line\nbreak\n"]


def test_a_thread_that_has_ended(read: ThreadNames) -> None:
    tids = []
    thread = threading.Thread(target=lambda: tids.append(read.of(threading.get_native_id())))
    thread.start()
    thread.join()
    assert tids != [b""]
    assert read.of(2**22 + 1) == b""


def test_few_files_stay_open(read: ThreadNames, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names, "_MOST", 2)
    before = open_files()
    over = threading.Event()
    threads = [threading.Thread(target=over.wait) for _ in range(5)]
    for each in threads:
        each.start()
    for _ in range(2):
        for each in threads:
            assert each.native_id is not None
            assert read.of(each.native_id) == read.of(os.getpid())
            assert open_files() <= before + 2
    over.set()
    for each in threads:
        each.join()
        assert each.native_id is not None
        read.of(each.native_id)
    read.close()
    assert open_files() == before
