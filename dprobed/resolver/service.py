"""The resolver process: reads the files whose descriptors it gets, and answers questions on them.

One thread, one question after the other. What it reads is hostile, so that it is limited in all
ways (``limits``) and simply dies where a limit is reached: SIGALRM after the time for one question,
SIGXCPU after that of the CPU. Whoever waits sees its channel end; the daemon starts it again when
somebody asks the next time. It ends when nobody can ask any more, or nobody has for a while.
"""

from __future__ import annotations

import math
import os
import resource
import select
import signal
import socket
import time
from array import array
from pathlib import Path
from typing import Final

from dprobed.arch.x86_64.paging import PAGE, WORD
from dprobed.binary.errors import LocationError
from dprobed.binary.file import Binary
from dprobed.binary.opening import identity_of
from dprobed.binary.places import Place as Found
from dprobed.binary.places import place_at, resolve, resolve_data
from dprobed.binary.relocations import ifunc_slots, import_slots
from dprobed.binary.thread_local import thread_local
from dprobed.resolver import limits
from dprobed.resolver.cache import packed
from dprobed.resolver.image import build_id_of_image
from dprobed.wire import resolver as wire
from dprobed.wire.resolver import Answer, Question

_DESCRIPTORS: Final = 4096
#: Larger sizes are no symbol's, and do not go into a message.
_LARGEST: Final = 1 << 62


class OpenFiles:
    """Opened files by identity, the least recently used first: bounded in number and bytes."""

    def __init__(self) -> None:
        self._kept: dict[tuple[tuple[int, ...], str, str], Binary] = {}

    def __len__(self) -> int:
        return len(self._kept)

    def open(self, descriptor: int, path: str, root: str) -> Binary:
        """The file behind a descriptor, which is taken over; one object for one unchanged file.

        Raises LocationError.
        """
        key = identity_of(os.fstat(descriptor)), path, root
        known = self._kept.pop(key, None)
        if known is not None:
            os.close(descriptor)
        else:
            known = Binary(descriptor, path, root, packer=packed)
        self._kept[key] = known
        return known

    def shrink(self) -> None:
        """Forget the oldest files beyond what may be kept."""
        sizes = {key: file.kept for key, file in self._kept.items()}
        left = sum(sizes.values())
        for key, size in sizes.items():
            if left <= limits.MOST_KEPT and len(self._kept) <= limits.MOST_FILES:
                break
            del self._kept[key]
            left -= size

    def forget(self) -> None:
        """Forget all files."""
        self._kept.clear()


class FileReader:
    """Answers questions about files."""

    def __init__(self) -> None:
        self.files = OpenFiles()

    def look(self, question: Question, descriptor: int) -> Answer:
        """The answer to a question; takes the descriptor over. Raises LocationError."""
        if isinstance(question, wire.ImageBuildId | wire.MemoryWords):
            try:
                return _in_memory(question, descriptor)
            except (OSError, OverflowError) as error:
                raise LocationError(f"{question.path}: cannot read its memory: {error}") from error
            finally:
                os.close(descriptor)
        file = self.files.open(descriptor, question.path, question.root)
        match question:
            case wire.Describe():
                return facts_of(file)
            case wire.Resolve():
                return _places(file, *resolve(file, question.spec))
            case wire.ResolveEach():
                return _resolve_each(file, question.specs)
            case wire.ResolveData():
                return _places(file, resolve_data(file, question.spec))
            case wire.PlaceAt():
                return _places(file, place_at(file, question.vaddr))
            case wire.IfuncSlots():
                return wire.Slots(tuple(ifunc_slots(file, question.vaddr & WORD)))
            case wire.ImportSlots():
                return wire.Slots(tuple(import_slots(file, question.symbol, question.version)))
            case wire.ThreadLocal():
                found = thread_local(file, question.symbol)
                return wire.Offset(found.vaddr, found.more, found.base)
            case wire.UnwindAt():
                return _unwinding(file, question.vaddr & WORD)


class Service:
    """Answers the questions of all channels that come through a mailbox."""

    def __init__(self, mailbox: socket.socket) -> None:
        self._mailbox = mailbox
        self._reader = FileReader()
        self._channels: dict[int, socket.socket] = {}
        self._poll = select.poll()
        self._poll.register(mailbox, select.POLLIN)

    def run(self) -> None:
        """Answer until the mailbox is closed, or nobody is connected for a while."""
        while True:
            patience = None if self._channels else 1000 * limits.LINGER
            ready = self._poll.poll(patience)
            if not ready:
                return
            for number, _ in ready:
                if number in self._channels:
                    self._listen(self._channels[number])
                elif not self._connect():
                    return

    def _connect(self) -> bool:
        """Accept a channel from the mailbox; false: it is closed."""
        message, descriptors, _, _ = socket.recv_fds(self._mailbox, len(wire.HELLO), 1)
        if not message and not descriptors:
            return False
        for descriptor in descriptors:
            channel = socket.socket(fileno=descriptor)
            self._channels[descriptor] = channel
            self._poll.register(channel, select.POLLIN)
        return True

    def _listen(self, channel: socket.socket) -> None:
        try:
            body, descriptors, _, _ = socket.recv_fds(channel, wire.MAX_MESSAGE, 1)
        except OSError:
            body, descriptors = b"", []
        if body and len(descriptors) == 1:
            answer = self._pack(self._answer(body, descriptors[0]))
            try:
                channel.send(answer, socket.MSG_DONTWAIT)
            except OSError:
                body = b""
        else:
            for descriptor in descriptors:
                os.close(descriptor)
        if not body or len(descriptors) != 1:
            self._poll.unregister(channel)
            del self._channels[channel.fileno()]
            channel.close()

    @staticmethod
    def _pack(answer: Answer) -> bytes:
        try:
            body = wire.pack(answer)
        except (OverflowError, ValueError) as error:
            body = wire.pack(wire.Refused(f"the answer cannot be said: {error}"))
        if len(body) > wire.MAX_MESSAGE:
            body = wire.pack(wire.Refused("too many places: the answer is too long"))
        return body

    def _answer(self, body: bytes, descriptor: int) -> Answer:
        limit_question()
        path = "a file"
        try:
            question = wire.decode_question(body)
            path = question.path
            return self._reader.look(question, descriptor)
        except LocationError as error:
            return wire.Refused(error.message, error.hint, error.candidates)
        except MemoryError:
            self._reader.files.forget()
            return wire.Refused(
                f"{path}: reading it takes more than {limits.ADDRESS_SPACE >> 20} MB of memory",
                "the file is damaged, or its debug information is too large",
            )
        except Exception as error:  # an internal error, or damage of a kind not thought of
            return wire.Refused(f"{path}: the resolver failed: {type(error).__name__}: {error}")
        finally:
            self._reader.files.shrink()
            signal.setitimer(signal.ITIMER_REAL, 0)


def _in_memory(question: wire.ImageBuildId | wire.MemoryWords, memory: int) -> Answer:
    """The answer to a question about the memory behind a descriptor; raises OSError."""
    if isinstance(question, wire.ImageBuildId):
        return wire.Image(
            build_id_of_image(lambda address, size: os.pread(memory, size, address), question.start)
        )
    return wire.Words(tuple(_word_at(memory, address) for address in question.addresses))


def _word_at(memory: int, address: int) -> int | None:
    try:
        word = os.pread(memory, 8, address)
    except (OSError, OverflowError):
        return None
    return int.from_bytes(word, "little") if len(word) == 8 else None


def facts_of(file: Binary) -> wire.FileFacts:
    """The facts about a file that tracers and daemon use; raises LocationError."""
    return wire.FileFacts(
        file.build_id,
        file.soname,
        file.kind,
        file.relocated,
        file.needed,
        tuple(wire.Segment(**each._asdict()) for each in file.segments),
    )


def _places(file: Binary, *found: Found) -> wire.Places:
    """The same places as they travel, each with its code."""
    places = []
    for each in found:
        fields = each._asdict()
        fields["size"] = min(each.size, _LARGEST)
        places.append(wire.Place(**fields, code=_code_at(file, each)))
    return wire.Places(tuple(places))


def _unwinding(file: Binary, vaddr: int) -> wire.UnwindBlock:
    found = file.unwind_rows.block(vaddr)
    addresses = array("I", [address - found.start for address in found.addresses])
    # Not by the names of the fields, which takes twice as long: a tenth of the answer's time.
    table = tuple(
        wire.Rule(*rule[:3], tuple(wire.How(*each) for each in rule.registers), *rule[4:])
        for rule in found.table
    )
    rules = array("H", found.rules).tobytes()
    return wire.UnwindBlock(found.start, found.end, addresses.tobytes(), rules, table)


def _resolve_each(file: Binary, specs: tuple[str, ...]) -> wire.EachPlaces:
    """The answers to as many as there are time and room for: who asks, asks again for the rest."""
    answers: list[wire.Places | wire.Refused] = []
    until = time.monotonic() + limits.DEADLINE / 4
    size = 0
    for spec in specs:
        answer: wire.Places | wire.Refused
        try:
            answer = _places(file, *resolve(file, spec))
        except LocationError as error:
            answer = wire.Refused(error.message, error.hint, error.candidates)
        size += len(wire.pack(answer))
        if answers and (size > wire.MAX_MESSAGE // 2 or time.monotonic() > until):
            break
        answers.append(answer)
    return wire.EachPlaces(tuple(answers))


def _code_at(file: Binary, place: Found) -> bytes:
    segment = file.segment_at(place.vaddr)
    if place.kind == "data" or segment is None:
        return b""
    left = segment.file_size - (place.vaddr - segment.vaddr)
    return file.read_vaddr(place.vaddr, min(left, wire.LONGEST_CODE))


def limit_question() -> None:
    """Set the limits for one question, from now on."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    seconds = math.ceil(used.ru_utime + used.ru_stime) + limits.CPU_SECONDS
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    if hard == resource.RLIM_INFINITY or seconds < hard:
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, hard))
    signal.setitimer(signal.ITIMER_REAL, limits.DEADLINE)


def limit_process() -> None:
    """Set the limits of this process, from now on."""
    for number in (signal.SIGALRM, signal.SIGXCPU):
        signal.signal(number, signal.SIG_DFL)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    room = pages * PAGE + limits.ADDRESS_SPACE
    if hard == resource.RLIM_INFINITY or room < hard:
        resource.setrlimit(resource.RLIMIT_AS, (room, hard))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if resource.RLIM_INFINITY != soft < _DESCRIPTORS:
        room = _DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _DESCRIPTORS)
        resource.setrlimit(resource.RLIMIT_NOFILE, (room, hard))


def main(mailbox: socket.socket) -> None:
    """Run a resolver on a mailbox; returns when nobody asks any more."""
    limit_process()
    Service(mailbox).run()
