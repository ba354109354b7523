"""The ELF core file: layout, notes, and memory with holes where it is zero.

    ELF header | program headers (PT_NOTE, one PT_LOAD a mapping) | notes | pad | memory
    (a 65,535th program header moves the count into section header 0, elf(5) PN_XNUM)

Notes as the kernel writes them: NT_PRSTATUS of the first thread, then what concerns the process,
then that thread's other registers; then PRSTATUS and the rest of each further thread. Debuggers
take the first thread for the current one.

By hand: none of the libraries that the project keeps writes ELF files (pyelftools reads them, and
the tests read cores with it).
"""

from __future__ import annotations

import contextlib
import os
import struct
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from typing import Final, NamedTuple, Protocol

import msgspec

from dprobed.arch.x86_64.breakpoint import INT3
from dprobed.arch.x86_64.core_notes import (
    NT_PRFPREG,
    PRPSINFO,
    PRSTATUS,
    portable_xstate,
)
from dprobed.arch.x86_64.paging import PAGE
from dprobed.arch.x86_64.registers import NT_X86_XSTATE
from dprobed.binary.headers import (
    EHDR,
    EM_X86_64,
    ET_CORE,
    IDENT,
    NOTE,
    PHDR,
    PN_XNUM,
    PT_LOAD,
    PT_NOTE,
    SHDR,
)
from dprobed.corefile.areas import Area
from dprobed.proc import files, mounts

NT_PRSTATUS: Final = 1
NT_PRPSINFO: Final = 3
NT_AUXV: Final = 6
NT_SIGINFO: Final = 0x53494749
NT_FILE: Final = 0x46494C45

_STATES: Final = "RSDTZW"

_PIECE: Final = 8 << 20
_CHUNK: Final = 1 << 19
_ZEROS: Final = bytes(PAGE)
_CHUNK_ZEROS: Final = bytes(_CHUNK)


class ThreadImage(msgspec.Struct):
    """One thread. ``registers``: a user_regs_struct; ``times``: four pairs (s, µs)."""

    tid: int
    registers: bytes
    fpregs: bytes = b""
    xstate: bytes = b""
    signal: int = 0
    siginfo: bytes = b""
    pending: int = 0
    blocked: int = 0
    ids: tuple[int, int, int, int] = (0, 0, 0, 0)
    times: tuple[int, ...] = (0,) * 8


class ProcessImage(msgspec.Struct):
    """A process in a core, besides its memory; the first thread is the current one."""

    threads: list[ThreadImage]
    state: str
    nice: int
    flags: int
    uid: int
    gid: int
    ids: tuple[int, int, int, int]
    name: bytes
    arguments: bytes
    auxv: bytes


class Memory(msgspec.Struct):
    """The memory to write: ``mem`` and ``pagemap`` are descriptors of /proc/PID's files.

    ``original``: bytes under our breakpoints; ``kept``: ranges that were read before.
    """

    mem: int
    pagemap: int
    original: dict[int, int] = msgspec.field(default_factory=dict)
    kept: list[tuple[int, bytes]] = msgspec.field(default_factory=list)


#: The ranges of a part of a mapping that may be other than zero.
Used = Callable[[Area, int, int], Iterable[tuple[int, int]]]


class VanishedError(Exception):
    """The process whose memory is read has ended."""


class Sink(Protocol):
    """Receives a file's parts, in ascending order; what is left out is zero."""

    def put(self, offset: int, data: bytes | memoryview) -> None:
        """Store bytes at a place behind all that were stored before."""
        ...

    def finish(self, size: int) -> None:
        """Set the file's length."""
        ...


def _note(name: bytes, kind: int, data: bytes) -> bytes:
    head = NOTE.pack(len(name) + 1, len(data), kind)
    return head + _padded(name + b"\0") + _padded(data)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


def prstatus(thread: ThreadImage) -> bytes:
    """A ``struct elf_prstatus``."""
    code, error = struct.unpack_from("<ii", thread.siginfo.ljust(12, b"\0"), 4)[::-1]
    return PRSTATUS.pack(
        thread.signal,
        code,
        error,
        thread.signal,
        thread.pending,
        thread.blocked,
        *thread.ids,
        *thread.times,
        thread.registers,
        bool(thread.fpregs),
    )


def _prpsinfo(process: ProcessImage) -> bytes:
    number = max(_STATES.find(process.state), 0)
    return PRPSINFO.pack(
        number,
        process.state.encode(),
        process.state == "Z",
        process.nice,
        process.flags,
        process.uid,
        process.gid,
        *process.ids,
        process.name[:15],
        process.arguments[:79],
    )


def _nt_file(areas: Iterable[Area]) -> bytes:
    files = [area for area in areas if area.is_file]
    ranges = b"".join(struct.pack("<QQQ", a.start, a.end, a.offset // PAGE) for a in files)
    names = b"".join(area.path + b"\0" for area in files)
    return struct.pack("<QQ", len(files), PAGE) + ranges + names


def notes(process: ProcessImage, areas: Iterable[Area]) -> bytes:
    """The contents of PT_NOTE."""
    parts = []
    for index, thread in enumerate(process.threads):
        parts.append(_note(b"CORE", NT_PRSTATUS, prstatus(thread)))
        if index == 0:
            parts += [
                _note(b"CORE", NT_PRPSINFO, _prpsinfo(process)),
                _note(b"CORE", NT_SIGINFO, thread.siginfo.ljust(128, b"\0")),
                _note(b"CORE", NT_AUXV, process.auxv),
                _note(b"CORE", NT_FILE, _nt_file(areas)),
            ]
        elif thread.siginfo:
            parts.append(_note(b"CORE", NT_SIGINFO, thread.siginfo))
        if thread.fpregs:
            parts.append(_note(b"CORE", NT_PRFPREG, thread.fpregs))
        if thread.xstate:
            parts.append(_note(b"LINUX", NT_X86_XSTATE, portable_xstate(thread.xstate)))
    return b"".join(parts)


class Piece(NamedTuple):
    """A part of a mapping, of limited size, and its offset ``place`` in the file."""

    area: Area
    start: int
    end: int
    place: int


def layout(
    process: ProcessImage,
    segments: list[tuple[Area, int]],
    used: Used,
) -> tuple[bytes, list[Piece], int]:
    """The file's headers and notes, the pieces of memory with their offsets, and its size.

    ``segments``: each mapping with how much of it goes in.
    """
    note = notes(process, [area for area, _ in segments])
    count = len(segments) + 1
    many = count >= PN_XNUM
    headers_end = EHDR.size + count * PHDR.size
    note_at = headers_end + (SHDR.size if many else 0)
    at = -(-(note_at + len(note)) // PAGE) * PAGE
    header = EHDR.pack(
        IDENT,
        ET_CORE,
        EM_X86_64,
        1,
        0,
        EHDR.size,
        headers_end if many else 0,
        0,
        EHDR.size,
        PHDR.size,
        PN_XNUM if many else count,
        SHDR.size if many else 0,
        int(many),
        0,
    )
    parts = [header, PHDR.pack(PT_NOTE, 0, note_at, 0, 0, len(note), 0, 4)]
    pieces = []
    for area, size in segments:
        rights = sum(4 >> bit for bit, letter in enumerate(b"rwx") if area.perms[bit] == letter)
        length = area.end - area.start
        parts.append(PHDR.pack(PT_LOAD, rights, at, area.start, 0, size, length, PAGE))
        for start, end in _spans(used(area, area.start, area.start + size)):
            pieces.append(Piece(area, start, end, at + start - area.start))
        at += size
    if many:
        parts.append(SHDR.pack(0, 0, 0, 0, 0, 0, 0, count, 0, 0))
    return b"".join([*parts, note]), pieces, at


def _spans(ranges: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Few ranges of limited size in which all of these are."""
    start = end = 0
    for low, high in ranges:
        if end and high - start <= _PIECE:
            end = high
            continue
        if end:
            yield start, end
        for start in range(low, high, _PIECE):
            end = min(high, start + _PIECE)
            if end < high:
                yield start, end
    if end:
        yield start, end


def write_pieces(sink: Sink, pieces: Iterable[Piece], memory: Memory, used: Used) -> None:
    """Write memory.

    What cannot be read is zero: a page behind the end of a mapped file, or a guard. Raises
    VanishedError.
    """
    reader = _Reader(memory, used)
    for piece in pieces:
        for address, data in reader.pages(piece):
            sink.put(piece.place + address - piece.start, data)


class _Reader:
    """Reads the memory of the process, without pages of zeros."""

    def __init__(self, memory: Memory, used: Used) -> None:
        self._memory = memory
        self._used = used
        self._buffer = bytearray(_CHUNK)
        self._view = memoryview(self._buffer)
        self._patched = sorted(memory.original)

    def pages(self, piece: Piece) -> Iterator[tuple[int, memoryview]]:
        """Runs of pages that are not zero; a view is good until the next one is asked for."""
        for low, high in self._used(piece.area, piece.start, piece.end):
            for address in range(low, high, _CHUNK):
                length = min(_CHUNK, high - address)
                self._read(piece.area, address, length)
                self._restore(address, length)
                for start, end in self._filled(length):
                    yield address + start, self._view[start:end]

    def _read(self, area: Area, address: int, length: int) -> None:
        for at, data in self._memory.kept:
            if at <= address and address + length <= at + len(data):
                self._view[:length] = data[address - at : address - at + length]
                return
        if area.is_file and not mounts.is_local(mounts.device_of(area.device)):
            self._read_slowly(area, address, length)
            return
        # Not process_vm_readv: it pins pages, and the kernel gives a pinned page that is shared
        # after a ``fork`` a copy of its own (gup_must_unshare): all memory twice.
        done = 0
        while done < length:
            try:
                got = os.preadv(self._memory.mem, [self._view[done:length]], address + done)
            except OSError:
                got = PAGE
                self._view[done : done + PAGE] = _ZEROS
            if not got:  # nobody uses that memory any longer (mem_rw, fs/proc/base.c)
                raise VanishedError
            done += got

    def _read_slowly(self, area: Area, address: int, length: int) -> None:
        """Read what a file server may have to be asked for; zeros where it does not answer."""
        self._view[:length] = bytes(length)
        about = area.device, area.inode
        with contextlib.suppress(OSError):
            data = files.peek(about, self._memory.mem, length, address)
            self._view[: len(data)] = data

    def _restore(self, address: int, length: int) -> None:
        first = bisect_left(self._patched, address)
        for at in self._patched[first:]:
            if at >= address + length:
                break
            if self._buffer[at - address] == INT3[0]:
                self._buffer[at - address] = self._memory.original[at]

    def _filled(self, length: int) -> Iterator[tuple[int, int]]:
        """Runs of pages in the buffer that are not zero."""
        buffer = self._buffer
        if length == _CHUNK and buffer == _CHUNK_ZEROS:
            return
        start = -1
        for at in range(0, length, PAGE):
            if buffer[at] or buffer[at : at + PAGE] != _ZEROS:
                if start < 0:
                    start = at
            elif start >= 0:
                yield start, at
                start = -1
        if start >= 0:
            yield start, length
