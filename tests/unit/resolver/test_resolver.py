"""The resolver: questions, answers, limits, its death, and answers that break the protocol."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn

import psutil
import pytest

from dprobed.proc import files
from dprobed.proc.maps import Mapping, Module
from dprobed.resolver import caution, client, limits, service
from dprobed.resolver.client import MappedFile, Resolver
from dprobed.resolver.errors import LocationError, LostError, SilenceError
from dprobed.resolver.files import Ask, KnownFiles
from dprobed.wire import resolver as wire
from tests.unit.location_files import (
    LIBC,
    endless_dynamic,
    endless_sections,
    endless_symbols,
    program,
)


def module_of(path: Path | str) -> Module:
    """A module of this process, as if it mapped the file."""
    status = Path(path).stat()
    device = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}"
    mapping = Mapping(0x1000, 0x2000, "r-xp", 0, device, status.st_ino, str(path), False)
    return Module(os.getpid(), 1, str(path), (device, status.st_ino), (mapping,))


class Described(Resolver):
    """A resolver whose files are taken for what is mapped."""

    def file(self, path: Path | str) -> MappedFile:
        """A file by its path."""
        facts = self.run(self._files.describe_file(str(path)))
        return MappedFile(self, module_of(path), facts, (0, 0, 0, 0, 0))

    def ask(self, file: MappedFile, question: wire.Question) -> wire.Answer:
        """Without looking whether it is still the same file."""
        descriptor = os.open(file.module.path, os.O_RDONLY)
        try:
            return self._answer(Ask(question, descriptor, file.facts))
        finally:
            os.close(descriptor)


@contextmanager
def running(prepare: Callable[[], None] = lambda: None) -> Iterator[tuple[Described, list[int]]]:
    """A resolver, started again whenever it has ended; the processes that there were."""
    mailbox, reading = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    processes: list[int] = []
    over = threading.Event()

    def keep_it_there() -> None:
        while not over.is_set():
            pid = os.fork()
            if not pid:
                mailbox.close()
                _serve(reading, prepare)
            processes.append(pid)
            os.waitpid(pid, 0)

    keeper = threading.Thread(target=keep_it_there)
    keeper.start()
    try:
        yield Described(mailbox), processes
    finally:
        over.set()
        mailbox.close()
        keeper.join(20)
        reading.close()


def _serve(reading: socket.socket, prepare: Callable[[], None]) -> NoReturn:
    with suppress(BaseException):
        prepare()
        service.main(reading)
    os._exit(0)


def test_answers_are_those_of_the_file() -> None:
    with running() as (resolver, processes):
        file = resolver.file(program())
        assert (file.facts.kind, file.facts.relocated) == ("pie", True)
        assert "libc.so.6" in file.facts.needed
        (place,) = file.resolve("main")
        assert (place.symbol, place.kind, place.boundary) == ("main", "code", "ok")
        assert file.place_at(place.vaddr) == file.resolve(hex(place.file_offset))[0]
        assert file.resolve_data("global_data").kind == "data"
        assert file.import_slots("printf", "")
        libc = resolver.file(LIBC)
        assert libc.facts.soname == "libc.so.6"
        assert libc.ifunc_slots(libc.resolve("memcpy")[0].vaddr)
        assert libc.thread_local("errno").vaddr > 0
        with pytest.raises(LocationError, match="no thread-local variable errnoo"):
            libc.thread_local("errnoo")
        with pytest.raises(LocationError, match="no symbol mainn") as caught:
            file.resolve("mainn")
        assert "main" in caught.value.candidates
        assert len(processes) == 1


def test_words_of_a_process() -> None:
    """What cannot be read is told as such, wherever it is said to be."""
    kept = array("Q", [7, 1 << 63])
    there = kept.buffer_info()[0]
    memory = os.open("/proc/self/mem", os.O_RDONLY)
    with running() as (resolver, _):
        asked = (0, there, 1 << 63, (1 << 64) - 1, there + 8)
        words = resolver.run(KnownFiles.words(os.getpid(), memory, asked))
        assert words == (None, 7, None, None, 1 << 63)
    os.close(memory)


@pytest.mark.parametrize("deadline", [limits.DEADLINE, 0.0])
def test_places_are_asked_for_together(monkeypatch: pytest.MonkeyPatch, deadline: float) -> None:
    """Where there is no time for all, in several questions; each answer is what it is alone."""
    asked: list[wire.Question] = []

    def send(channel: socket.socket, ask: Ask) -> None:
        asked.append(ask.question)
        client_send(channel, ask)

    client_send = client.send
    monkeypatch.setattr(client, "send", send)
    monkeypatch.setattr(limits, "DEADLINE", deadline)
    monkeypatch.setattr(service, "limit_question", lambda: None)
    with running() as (alone, processes):
        path = program()
        together = Resolver(alone._mailbox)
        facts = together.run(together._files.describe_file(str(path)))
        with Path(path).open("rb") as opened:
            identity = files.facts(opened.fileno())
        file = MappedFile(together, module_of(path), facts, identity)
        specs = ["main", "mainn", "main", "main+1", "no such", "0x10"]
        asked.clear()
        file.learn_places(specs)
        distinct = list(dict.fromkeys(specs))
        assert len(asked) == (1 if deadline else len(distinct))
        asked.clear()
        single = alone.file(path)
        for spec in specs:
            assert _told(file, spec) == _told(single, spec)
        assert [each for each in asked if isinstance(each, wire.Resolve)] == [
            wire.Resolve(str(path), "", spec) for spec in specs
        ], "only what was asked alone was asked again"
        assert len(processes) == 1


def _told(file: MappedFile, spec: str) -> object:
    try:
        return file.resolve(spec)
    except LocationError as error:
        return error.message, error.hint, error.candidates


def test_a_dynamic_section_of_six_gigabytes_is_no_trouble(tmp_path: Path) -> None:
    with running() as (resolver, processes):
        # Read to its end it would be beyond the limit of time.
        assert resolver.file(endless_dynamic(tmp_path / "hostile")).facts.needed == ()
        assert len(processes) == 1


@pytest.mark.slow
@pytest.mark.parametrize("limit", ["time", "cpu"])
def test_what_takes_too_long_is_refused_and_others_go_on(
    limit: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(caution, "PATIENCE", 90.0)

    def prepare() -> None:
        # Only the one limit can be what ends it.
        limits.DEADLINE = 1.0 if limit == "time" else 600.0  # type: ignore[misc]
        limits.CPU_SECONDS = 600 if limit == "time" else 1  # type: ignore[misc]

    path = endless_symbols(tmp_path / "hostile")
    with running(prepare) as (resolver, processes):
        hostile, good = resolver.file(path), resolver.file(program())
        with pytest.raises(LostError, match=r"took too long|ended while it read this one"):
            hostile.resolve("main")
        assert good.resolve("main")
        # Not asked about again: it would take as long.
        with pytest.raises(LostError):
            hostile.resolve("other")
        assert len(processes) == 2


@pytest.mark.slow
def test_the_message_after_the_deadline(tmp_path: Path) -> None:
    with running() as (resolver, _):
        hostile = resolver.file(endless_symbols(tmp_path / "hostile"))
        with pytest.raises(LostError) as caught:
            hostile.resolve("main")
    assert caught.value.message.endswith("hostile: reading it took too long (the limit is 5 s)")


def test_what_takes_too_much_memory_is_refused_and_it_goes_on(tmp_path: Path) -> None:
    def prepare() -> None:
        limits.ADDRESS_SPACE = 256 << 20  # type: ignore[misc]

    with running(prepare) as (resolver, processes):
        with pytest.raises(LocationError, match="takes more than 256 MB of memory"):
            resolver.file(endless_sections(tmp_path / "hostile"))
        assert resolver.file(program()).resolve("main")
        assert len(processes) == 1


def test_killed_while_it_reads(tmp_path: Path) -> None:
    with running() as (resolver, processes):
        hostile = resolver.file(endless_symbols(tmp_path / "hostile"))
        killer = threading.Thread(target=kill_at_work, args=processes)
        killer.start()
        with pytest.raises(LostError, match=r"the resolver, .* ended while it read this one"):
            hostile.resolve("main")
        killer.join()
        assert resolver.file(program()).resolve("main")
        assert len(processes) == 2


def kill_at_work(pid: int) -> None:
    """Kill a resolver when it has been at work on a question for a while."""
    before = psutil.Process(pid).cpu_times().user
    while psutil.Process(pid).cpu_times().user < before + 0.2:
        threading.Event().wait(0.01)
    os.kill(pid, signal.SIGKILL)


def test_killed_between_two_questions() -> None:
    with running() as (resolver, processes):
        assert resolver.file(program()).resolve("main")
        os.kill(processes[0], signal.SIGKILL)
        assert resolver.file(program("-O2")).resolve("main")


def test_a_question_that_it_had_not_read_is_asked_again() -> None:
    mailbox, reading = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

    def first_ends_then_answers() -> None:
        for answers in (False, True):
            _, descriptors, _, _ = socket.recv_fds(reading, 64, 1)
            with socket.socket(fileno=descriptors[0]) as channel:
                if answers:
                    channel.recv(1 << 16)
                    channel.send(wire.pack(FACTS))
                else:
                    threading.Event().wait(0.2)

    FACTS = wire.FileFacts(None, None, "dyn", True, (), (wire.Segment(0, 0, 64, 64, True, False),))
    thread = threading.Thread(target=first_ends_then_answers)
    thread.start()
    assert Described(mailbox).file(program()).facts == FACTS
    thread.join()
    mailbox.close()
    reading.close()


@pytest.mark.slow
def test_a_resolver_that_is_stopped_is_waited_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    patience = 3.0
    monkeypatch.setattr(caution, "PATIENCE", patience)
    monkeypatch.setattr(caution, "_TRIAL", 0.1)
    monkeypatch.setattr(caution, "_SILENCE", 0.4)
    with running() as (resolver, processes):
        assert resolver.file(program()).resolve("main")
        os.kill(processes[0], signal.SIGSTOP)
        try:
            begun = time.monotonic()
            for path in (program("-O2"), program("-O3"), LIBC):
                with pytest.raises(SilenceError, match=r"did not answer|does not answer"):
                    resolver.file(path)
            # For one of them, not for each.
            assert patience <= time.monotonic() - begun < 2 * patience
            # It is tried again, for a short time.
            threading.Event().wait(0.5)
            begun = time.monotonic()
            with pytest.raises(SilenceError, match="did not answer in 0"):
                resolver.file(LIBC)
            assert time.monotonic() - begun < patience
        finally:
            os.kill(processes[0], signal.SIGCONT)
        monkeypatch.setattr(caution, "_TRIAL", 60.0)  # It has much to do first.
        threading.Event().wait(0.5)
        # What was not waited for on trial may be asked about at once.
        assert resolver.file(LIBC).resolve("getenv")


CODE = wire.Segment(0, 0, 0x1000, 0x1000, True, False)
GOOD = wire.FileFacts("ab", "lib.so", "dyn", True, ("libc.so.6",), (CODE,))


def place(**changes: object) -> wire.Places:
    """One place, with something wrong about it."""
    found = wire.Place(0x10, 0x10, "f+0x0", "f", 0, "code", 4, "ok", code=b"\xc3")
    return wire.Places((found._replace(**changes),))  # type: ignore[arg-type]


LIES: list[tuple[type[wire.Question], bytes]] = [
    (wire.Describe, b"\xff" * 40),
    (wire.Describe, b"\x81"),
    (wire.Describe, wire.pack(place())),
    (wire.Describe, wire.pack(wire.Slots((1,)))),
    (wire.Describe, wire.pack(wire.FileFacts("ab", None, "dyn", True, (), ()))),
    (wire.Describe, wire.pack(wire.FileFacts("ab", "x" * 5000, "dyn", True, (), (CODE,)))),
    (
        wire.Describe,
        wire.pack(
            wire.FileFacts(None, None, "dyn", True, (), (CODE._replace(vaddr=(1 << 64) - 16),))
        ),
    ),
    (wire.Resolve, wire.pack(wire.Places(()))),
    (wire.Resolve, wire.pack(place(vaddr=0x1000))),
    (wire.Resolve, wire.pack(place(vaddr=0x7FFF_0000_0000))),
    (wire.Resolve, wire.pack(place(file_offset=0x20))),
    (wire.Resolve, wire.pack(place(name="x" * 5000))),
    (wire.Resolve, wire.pack(place(code=b""))),
    (wire.Resolve, wire.pack(place(code=bytes(16)))),
    (wire.Resolve, wire.pack(place()).replace(b"code", b"kode")),
    (wire.ResolveEach, wire.pack(place())),
    (wire.ResolveEach, wire.pack(wire.EachPlaces(()))),
    (wire.ResolveEach, wire.pack(wire.EachPlaces((place(), place(), place())))),
    (wire.ResolveEach, wire.pack(wire.EachPlaces((place(), place(code=b""))))),
    (wire.ResolveEach, wire.pack(wire.EachPlaces((wire.Refused("x" * 5000),)))),
    (wire.ImportSlots, wire.pack(wire.Slots((0x1000,)))),
    (wire.ImportSlots, wire.pack(wire.Slots((0x10, -8)))),
    (wire.ThreadLocal, wire.pack(wire.Offset(0x1000, 0))),
    (wire.ThreadLocal, wire.pack(wire.Offset(0x10, 1 << 40))),
    (wire.ThreadLocal, wire.pack(wire.Offset(0, -1 << 40, "thread"))),
    (wire.ThreadLocal, wire.pack(wire.Offset(0, 8, "module")).replace(b"module", b"nodule")),
    (wire.MemoryWords, wire.pack(wire.Words(()))),
    (wire.MemoryWords, wire.pack(wire.Words((1, 2)))),
    (wire.MemoryWords, wire.pack(wire.Words((1 << 63,))).replace(b"\xcf\x80", b"\xd3\x80")),
    (wire.Resolve, wire.pack(wire.Refused("x" * 5000))),
]


@pytest.mark.parametrize(("kind", "lie"), LIES)
def test_answers_that_break_the_protocol_are_refused(kind: type[wire.Question], lie: bytes) -> None:
    mailbox, reading = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

    def tell() -> None:
        _, descriptors, _, _ = socket.recv_fds(reading, 64, 1)
        with socket.socket(fileno=descriptors[0]) as channel:
            while body := channel.recv(1 << 16):
                honest = isinstance(wire.decode_question(body), wire.Describe)
                channel.send(wire.pack(GOOD) if honest and kind is not wire.Describe else lie)

    thread = threading.Thread(target=tell)
    thread.start()
    resolver = Described(mailbox)
    with pytest.raises(LostError, match="protocol error from the resolver"):
        file = resolver.file(program())
        if kind is wire.ImportSlots:
            file.import_slots("f", "")
        elif kind is wire.ResolveEach:
            resolver.ask(file, wire.ResolveEach("a file", "", ("f", "g")))
        elif kind is wire.ThreadLocal:
            file.thread_local("f")
        elif kind is wire.MemoryWords:
            resolver.ask(file, wire.MemoryWords("a process", "", (8,)))
        else:
            file.resolve("f")
    thread.join()
    mailbox.close()
    reading.close()


def test_files_are_bounded_in_number_and_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "MOST_FILES", 8)
    files = service.OpenFiles()
    before = len(list(Path("/proc/self/fd").iterdir()))
    raw = program().read_bytes()
    for number in range(20):
        path = tmp_path / f"copy{number}"
        path.write_bytes(raw)
        file = files.open(os.open(path, os.O_RDONLY), str(path), "")
        path.unlink()
        files.shrink()
    assert len(files) == 8
    assert len(list(Path("/proc/self/fd").iterdir())) <= before + 9
    monkeypatch.setattr(limits, "MOST_KEPT", 3 * len(file.symbols.data) // 2)
    libc = files.open(os.open(LIBC, os.O_RDONLY), LIBC, "")
    assert libc.symbols.find("malloc")
    files.shrink()
    assert len(files) <= 1


def test_one_object_for_one_unchanged_file(tmp_path: Path) -> None:
    path = tmp_path / "copy"
    path.write_bytes(program().read_bytes())
    files = service.OpenFiles()

    def opened() -> object:
        return files.open(os.open(path, os.O_RDONLY), str(path), "")

    first = opened()
    assert opened() is first
    other = tmp_path / "other"
    other.write_bytes(program("-O2").read_bytes())
    other.replace(path)
    assert opened() is not first
