"""One ELF file, read piece by piece: headers, segments, sections, dynamic section, build-id.

Only what a probe needs is read, with ``pread``: never through a memory mapping, since a file cut
short under a mapping kills the reader with SIGBUS. Every offset and size in the file is taken as
hostile: a read that leaves the file raises LocationError, and no loop is longer than the file gives
reason for.

Not pyelftools, which reads the same (``tests/unit/binary/test_oracle`` compares the two): its
segments, section names, dynamic section and notes take 16 ms in libc and 4 ms in ``ls``, these 0.15
and 0.18 ms, and a module that is just being mapped is waited for by the thread that maps it. To
import it takes 60 ms besides. ``static_probes`` uses it.
"""

from __future__ import annotations

import struct
import zlib
from bisect import bisect_right
from collections.abc import Iterator
from functools import cached_property
from typing import Final, Literal, NamedTuple

from dprobed.binary.errors import LocationError
from dprobed.binary.headers import (
    EHDR,
    EM_X86_64,
    ET_CORE,
    ET_DYN,
    ET_EXEC,
    ET_REL,
    MAGIC,
    NOTE,
    PF_W,
    PF_X,
    PHDR,
    PN_XNUM,
    PT_DYNAMIC,
    PT_GNU_EH_FRAME,
    PT_INTERP,
    PT_LOAD,
    PT_NOTE,
    PT_TLS,
    SHDR,
    SHF_ALLOC,
    SHF_COMPRESSED,
    SHF_EXECINSTR,
    SHF_TLS,
    SHT_NOBITS,
)
from dprobed.binary.reading import ReadableFile

_DYN: Final = struct.Struct("<QQ")

_MACHINES: Final = {
    3: "i386",
    8: "MIPS",
    20: "PowerPC",
    21: "PowerPC 64",
    22: "S/390",
    40: "ARM",
    183: "AArch64",
    243: "RISC-V",
    258: "LoongArch",
}
_NT_GNU_BUILD_ID: Final = 3

DT_PLTRELSZ, DT_STRTAB, DT_SYMTAB, DT_RELA, DT_RELASZ, DT_STRSZ = 2, 5, 6, 7, 8, 10
DT_SONAME, DT_JMPREL, DT_GNU_HASH, DT_HASH = 14, 23, 0x6FFFFEF5, 4
_DT_NEEDED = 1
_DT_FLAGS_1, _DF_1_PIE = 0x6FFFFFFB, 0x08000000

#: No header table or section may be larger than this; the largest real ones are far below.
_SIZE_LIMIT: Final = 1 << 31
#: Before a compressed section: kind, reserved, size and alignment of what it becomes.
_COMPRESSED: Final = struct.Struct("<IIQQ")
#: Bytes of a dynamic section that are read at once; few are longer.
_DYNAMIC_PART: Final = 1 << 14


class Segment(NamedTuple):
    """One PT_LOAD program header: what is mapped, where."""

    offset: int
    vaddr: int
    file_size: int
    memory_size: int
    executable: bool
    writable: bool


class _Headers(NamedTuple):
    """The file's header, as far as it is needed, and its program headers."""

    type: int
    entry: int
    shoff: int
    shnum: int
    shstrndx: int
    program: list[tuple[int, ...]]


class ThreadLocalBlock(NamedTuple):
    """A PT_TLS program header: how a thread's copy of the module's variables begins."""

    vaddr: int
    size: int
    alignment: int


class Section(NamedTuple):
    """One section header."""

    name: str
    type: int
    flags: int
    address: int
    offset: int
    size: int
    link: int
    info: int

    @property
    def executable(self) -> bool:
        """Whether it holds instructions."""
        return bool(self.flags & SHF_EXECINSTR)


def text_of(raw: bytes) -> str:
    """A name in a file as text that can be shown: whatever it holds, one line of it."""
    text = raw.decode("utf-8", "backslashreplace")
    return text if text.isprintable() else text.encode("unicode_escape").decode("ascii")


def name_bytes(text: str) -> bytes:
    """A name that a user gave, as the file may have it."""
    return text.encode("utf-8", "replace")


def string_at(table: bytes, offset: int) -> bytes:
    """The NUL-terminated string at ``offset``; empty where there is none."""
    end = table.find(b"\0", offset)
    return table[offset:end] if end >= 0 else table[offset:]


class ElfFile(ReadableFile):
    """An opened x86-64 executable or shared library.

    ``path`` is what to call it in messages; ``build_id`` hex digits; ``kind`` one of ``exec``,
    ``pie``, ``dyn`` (a shared library) and ``static``. ``root`` is put before paths when separate
    debug files are searched (``/proc/PID/root`` for a process in another mount namespace).
    ``debug_file`` opens separate debug files, which have the segments' addresses only; without
    ``mapped`` also files that are never mapped and need not have any (.dwo, what ``dwz`` makes).

    Raises LocationError for whatever is not a sound x86-64 ELF file.
    """

    def __init__(
        self,
        fd: int,
        path: str,
        root: str = "",
        *,
        debug_file: bool = False,
        mapped: bool = True,
    ) -> None:
        super().__init__(fd, path)
        self.root = root
        self.debug_file = debug_file
        self._mapped = mapped
        self._headers = self._read_headers()
        self.entry = self._headers.entry
        self.segments = tuple(self._load_segments())
        if not self.segments and mapped:
            raise self.damaged("nothing in it is to be loaded")
        self.build_id = self._find_build_id()
        self.soname = self._find_soname()
        self.kind = self._find_kind()

    def __repr__(self) -> str:
        return f"<ElfFile {self.path} {self.kind} build-id {self.build_id}>"

    def _read_headers(self) -> _Headers:
        if self.size < 20 or self.read(0, 4) != MAGIC:
            raise LocationError(f"{self.path}: not an ELF file")
        ident = self.read(0, 20)
        self._check_machine(ident)
        if self.size < EHDR.size:
            raise self.damaged("its header is cut off")
        header = EHDR.unpack(self.read(0, EHDR.size))
        kind, entry, phoff, shoff = header[1], *header[4:7]
        phentsize, phnum, shentsize, shnum, shstrndx = header[9:14]
        if kind not in (ET_EXEC, ET_DYN) and (self._mapped or kind != ET_REL):
            what = {ET_REL: "a relocatable object", ET_CORE: "a core dump"}.get(
                kind, f"of ELF type {kind}"
            )
            raise LocationError(
                f"{self.path}: {what}, not an executable or shared library",
                "name the file that processes map",
            )
        if shoff and shentsize != SHDR.size:
            raise self.damaged(f"section headers of {shentsize} bytes")
        if phnum == PN_XNUM and shoff:
            phnum = SHDR.unpack(self.read(shoff, SHDR.size))[7]
        if (phnum or self._mapped) and (phentsize != PHDR.size or not phnum):
            raise self.damaged("it has no program headers")
        program = list(PHDR.iter_unpack(self.read(phoff, phnum * PHDR.size)))
        return _Headers(kind, entry, shoff, shnum, shstrndx, program)

    def _check_machine(self, ident: bytes) -> None:
        number = int.from_bytes(ident[18:20], "big" if ident[5] == 2 else "little")
        machine = _MACHINES.get(number, f"machine {number}")
        if ident[4] not in (1, 2):
            raise self.damaged(f"class {ident[4]}")
        if ident[4] == 1:
            if number == EM_X86_64:
                machine = "x32"
            raise LocationError(
                f"{self.path}: a 32-bit ELF file ({machine})", "only x86-64 code can be probed"
            )
        if ident[5] != 1 or number != EM_X86_64:
            raise LocationError(
                f"{self.path}: an ELF file for {machine}", "only x86-64 code can be probed"
            )

    def _load_segments(self) -> list[Segment]:
        segments = []
        for kind, flags, offset, vaddr, _, file_size, memory_size, _ in self._headers.program:
            if kind != PT_LOAD:
                continue
            if vaddr + memory_size > 1 << 64 or file_size > memory_size:
                raise self.damaged(f"a segment at {vaddr:#x} of {memory_size:#x} bytes")
            if not self.debug_file and offset + file_size > self.size:
                raise self.damaged(f"its segment at {offset:#x} reaches past its end")
            segments.append(
                Segment(
                    offset, vaddr, file_size, memory_size, bool(flags & PF_X), bool(flags & PF_W)
                )
            )
        return segments

    def _header(self, kind: int) -> tuple[int, int, int, int] | None:
        """Offset, vaddr, file size and memory size of the first program header of ``kind``."""
        for header in self._headers.program:
            if header[0] == kind:
                return header[2], header[3], header[5], header[6]
        return None

    @property
    def thread_local_block(self) -> ThreadLocalBlock | None:
        """PT_TLS: the module's thread-local variables; None: it has none."""
        for kind, _, _, vaddr, _, _, size, alignment in self._headers.program:
            if kind == PT_TLS:
                return ThreadLocalBlock(vaddr, size, alignment)
        return None

    @property
    def relocated(self) -> bool:
        """Whether the file can be mapped anywhere (PIE, shared library)."""
        return self._headers.type == ET_DYN

    @cached_property
    def dynamic(self) -> dict[int, int]:
        """The dynamic section: tag → value (the last one where a tag is repeated)."""
        return dict(self._dynamic_entries()) if not self.debug_file else {}

    def _dynamic_entries(self) -> Iterator[tuple[int, int]]:
        """Tag and value of each entry up to the DT_NULL that ends the dynamic section."""
        header = self._header(PT_DYNAMIC)
        if header is None:
            return
        offset, size = header[0], header[2] & ~15
        if offset + size > self.size:
            raise self.damaged(f"{size:#x} bytes at {offset:#x} reach past its end")
        while size:
            part = self.read(offset, min(size, _DYNAMIC_PART))
            for tag, value in _DYN.iter_unpack(part):
                if not tag:
                    return
                yield tag, value
            offset += len(part)
            size -= len(part)

    def _find_build_id(self) -> str | None:
        for header in self._headers.program:
            if header[0] == PT_NOTE and not self.debug_file:
                found = build_id_in_notes(self.read(header[2], min(header[5], 1 << 16)))
                if found:
                    return found
        if self.debug_file or not any(header[0] == PT_NOTE for header in self._headers.program):
            section = self.section(".note.gnu.build-id")
            if section is not None and section.type != SHT_NOBITS:
                return build_id_in_notes(self.read(section.offset, min(section.size, 1 << 16)))
        return None

    def _find_soname(self) -> str | None:
        offset = self.dynamic.get(DT_SONAME)
        if offset is None or DT_STRTAB not in self.dynamic:
            return None
        start = self.vaddr_to_offset(self.dynamic[DT_STRTAB])
        if start is None or start + offset >= self.size:
            raise self.damaged("the name of the library is outside the file")
        raw = self.read(start + offset, min(4096, self.size - start - offset))
        return text_of(string_at(raw, 0))

    @cached_property
    def needed(self) -> tuple[str, ...]:
        """The libraries that the loader maps with it: its own DT_NEEDED, not theirs."""
        start = self.vaddr_to_offset(self.dynamic.get(DT_STRTAB, -1))
        if start is None:
            return ()
        names = []
        for tag, offset in self._dynamic_entries():
            if tag == _DT_NEEDED and start + offset < self.size:
                raw = self.read(start + offset, min(4096, self.size - start - offset))
                names.append(text_of(string_at(raw, 0)))
        return tuple(names)

    def _find_kind(self) -> Literal["exec", "pie", "dyn", "static"]:
        interpreted = self._header(PT_INTERP) is not None
        if self._headers.type == ET_EXEC:
            return "exec" if interpreted or self.dynamic else "static"
        if self.dynamic.get(_DT_FLAGS_1, 0) & _DF_1_PIE:
            return "pie" if interpreted else "static"
        # libc.so.6 has an interpreter too; what makes it a library is its name.
        return "pie" if interpreted and self.soname is None else "dyn"

    @cached_property
    def sections(self) -> tuple[Section, ...]:
        """All section headers; none where they were stripped off."""
        if not self._headers.shoff:
            return ()
        count, names = self._headers.shnum, self._headers.shstrndx
        first = SHDR.unpack(self.read(self._headers.shoff, SHDR.size))
        count = count or first[5]
        if names == PN_XNUM:
            names = first[6]
        headers = list(SHDR.iter_unpack(self.read(self._headers.shoff, count * SHDR.size)))
        if not headers:
            return ()
        if names >= len(headers):
            raise self.damaged(f"section names in section {names} of {len(headers)}")
        table = self.read(headers[names][4], headers[names][5])
        return tuple(
            Section(text_of(string_at(table, h[0])), h[1], h[2], h[3], h[4], h[5], h[6], h[7])
            for h in headers
        )

    def section(self, name: str) -> Section | None:
        """The first section of this name."""
        return next((section for section in self.sections if section.name == name), None)

    def content(self, section: Section) -> bytes:
        """The section's bytes, decompressed; raises LocationError."""
        if section.type == SHT_NOBITS:
            return b""
        raw = self.read(section.offset, section.size)
        return self._decompress(section.name, raw) if section.flags & SHF_COMPRESSED else raw

    def _decompress(self, name: str, raw: bytes) -> bytes:
        if len(raw) < _COMPRESSED.size:
            raise self.damaged(f"section {name} is cut off")
        kind, _, size, _ = _COMPRESSED.unpack_from(raw)
        if kind != 1:
            raise LocationError(
                f"{self.path}: section {name} is compressed in an unknown way ({kind})",
                "decompress it: objcopy --decompress-debug-sections",
            )
        if size > _SIZE_LIMIT:
            raise self.damaged(f"section {name} says that it has {size:#x} bytes")
        try:
            data = zlib.decompressobj().decompress(memoryview(raw)[_COMPRESSED.size :], size or 1)
        except zlib.error as error:
            raise self.damaged(f"section {name}: {error}") from error
        if len(data) != size:
            raise self.damaged(f"section {name} has {len(data):#x} bytes, not {size:#x}")
        return data

    def vaddr_to_offset(self, vaddr: int) -> int | None:
        """The file offset of the byte at ``vaddr``; ``None`` for .bss and unmapped addresses."""
        for segment in self.segments:
            if segment.vaddr <= vaddr < segment.vaddr + segment.file_size:
                return vaddr - segment.vaddr + segment.offset
        return None

    def segment_at(self, vaddr: int) -> Segment | None:
        """The segment in whose memory ``vaddr`` lies."""
        for segment in self.segments:
            if segment.vaddr <= vaddr < segment.vaddr + segment.memory_size:
                return segment
        return None

    def code_segment(self, file_offset: int) -> Segment | None:
        """The executable segment that holds this byte of the file."""
        for segment in self.segments:
            if segment.executable and 0 <= file_offset - segment.offset < segment.file_size:
                return segment
        return None

    @cached_property
    def allocated(self) -> tuple[Section, ...]:
        """The sections that are mapped, by address (thread-local .tbss takes no room)."""
        return tuple(
            sorted(
                (
                    s
                    for s in self.sections
                    if s.flags & SHF_ALLOC and s.size and not s.flags & SHF_TLS
                ),
                key=lambda s: s.address,
            )
        )

    def section_at(self, vaddr: int) -> Section | None:
        """The mapped section that holds ``vaddr``."""
        index = bisect_right(self._section_starts, vaddr) - 1
        if index < 0:
            return None
        section = self.allocated[index]
        return section if vaddr < section.address + section.size else None

    @cached_property
    def _section_starts(self) -> list[int]:
        return [section.address for section in self.allocated]

    @cached_property
    def unwind_table(self) -> bytes:
        """The content of .eh_frame_hdr; empty if there is none."""
        if self.unwind_header is None or self.vaddr_to_offset(self.unwind_header[0]) is None:
            return b""
        return self.read_vaddr(*self.unwind_header)

    @cached_property
    def unwind_header(self) -> tuple[int, int] | None:
        """Address and size of .eh_frame_hdr."""
        header = self._header(PT_GNU_EH_FRAME)
        return (header[1], header[2]) if header else None

    def read_vaddr(self, vaddr: int, size: int) -> bytes:
        """``size`` bytes as they are mapped at ``vaddr``; raises LocationError."""
        offset = self.vaddr_to_offset(vaddr)
        if offset is None:
            raise self.damaged(f"{vaddr:#x} is not in the file")
        return self.read(offset, size)


def build_id_in_notes(notes: bytes) -> str | None:
    """The build-id (hex) among the notes of a PT_NOTE segment or section."""
    position = 0
    while position + NOTE.size <= len(notes):
        name_size, size, kind = NOTE.unpack_from(notes, position)
        start = position + NOTE.size
        description = start + (name_size + 3 & ~3)
        if kind == _NT_GNU_BUILD_ID and notes[start : start + name_size] == b"GNU\0":
            found = notes[description : description + size]
            return found.hex() if size and len(found) == size else None
        # gABI says 8-byte alignment for 64-bit files; only .note.gnu.property follows it, and its
        # notes are multiples of 8 anyway.
        position = description + (size + 3 & ~3)
    return None


def content_size(elf: ElfFile, section: Section) -> int:
    """How many bytes ``content`` has, as the file says; raises LocationError."""
    if section.type == SHT_NOBITS:
        return 0
    if not section.flags & SHF_COMPRESSED:
        return section.size
    raw = elf.read(section.offset, min(section.size, _COMPRESSED.size))
    return int(_COMPRESSED.unpack(raw)[2]) if len(raw) == _COMPRESSED.size else 0
