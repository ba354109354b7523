"""Names of threads as they are now."""

from __future__ import annotations

import ctypes
import os
import queue
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
            # More than twice: then it is only looked whether it has changed.
            for _ in range(4):
                found.append(read.of(threading.get_native_id()))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    names = (b"one", b"a name of fifte", b"", b"line\nbreak\n")
    assert found == [name for name in names for _ in range(4)]


def test_threads_in_turn_that_change_their_names(read: ThreadNames) -> None:
    """In any order: each answer is the name that this thread has now."""
    turns = [queue.SimpleQueue[bytes]() for _ in range(2)]
    done = queue.SimpleQueue[int]()

    def work(turn: queue.SimpleQueue[bytes]) -> None:
        while name := turn.get():
            rename(name)
            done.put(threading.get_native_id())

    threads = [threading.Thread(target=work, args=(turn,)) for turn in turns]
    for each in threads:
        each.start()
    shown: dict[int, bytes] = {}
    for number in range(64):
        turns[number >> 1 & 1].put(b"name %d" % (number % 5))
        tid = done.get()
        shown[tid] = b"name %d" % (number % 5)
        for other in (tid, tid, *shown, tid, tid, tid)[: 1 + number % 7]:
            assert read.of(other) == shown[other]
    for turn in turns:
        turn.put(b"")
    for each in threads:
        each.join()


def test_a_closed_file_whose_descriptor_is_another_threads(read: ThreadNames) -> None:
    renamed, over = threading.Event(), threading.Event()
    ready = queue.SimpleQueue[int]()

    def changing() -> None:
        rename(b"one")
        ready.put(threading.get_native_id())
        renamed.wait()
        rename(b"other")
        ready.put(threading.get_native_id())
        over.wait()

    def staying() -> None:
        rename(b"one")
        ready.put(threading.get_native_id())
        over.wait()

    first = threading.Thread(target=changing)
    first.start()
    tid = ready.get()
    assert [read.of(tid) for _ in range(4)] == [b"one"] * 4
    read.forget(tid)
    second = threading.Thread(target=staying)
    second.start()
    assert read.of(ready.get()) == b"one"  # its file has the number of the other's
    renamed.set()
    assert read.of(ready.get()) == b"other"
    over.set()
    for each in (first, second):
        each.join()


def test_where_nothing_executable_may_be_mapped(
    read: ThreadNames, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []

    def denied() -> None:
        tried.append(1)
        raise PermissionError("planned")

    monkeypatch.setattr(names, "SameAgain", denied)
    found = {read.of(threading.get_native_id()) for _ in range(5)}
    assert found == {Path("/proc/thread-self/comm").read_bytes()[:-1]}
    assert tried == [1]


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
