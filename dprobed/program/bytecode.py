"""``.dpb`` files: encodes a verified program as bytes, and decodes it.

All numbers are little-endian; a *string* is a 16-bit count of bytes and that much UTF-8.

    offset bytes
         0     4  magic 89 'D' 'P' 'B'
         4     2  version, 4
         6     2  0
         8     4  bytes of the whole file
        12     4  CRC-32 of everything from offset 16 on
    header
        16     1  modtype: 1 user, 2 kernel, 4 kmod
        17     1  bit 0: autostacktrace; bit 1: the local variables have names
        18     2  major
        20     2  id
        22     2  vars
        24     2  gvars
        26     2  number of names
        28     4  jmpmax
        32     4  logmax
        36     4  ex_logmax
        40     4  heapmax
        44     4  number of probes
        48     4  number of facilities
        52     4  bytes of code
        56     4  number of source files
        60     4  number of lines
        64     .  name: string
         .     .  names of the local variables, if they have some: strings
         .     2  number of maps
    each map
         0     1  kind: its place among those of ``maps``
         1     1  bit 0: signed
         2     1  keys
         3     1  number of arguments
         4     4  size
         8     8  each argument, signed
         .     .  name: string
    each probe
         0     4  index
         4     4  entry, code offset
         8     4  end, code offset
        12     4  pass_count
        16     4  max_hits
        20     4  heap
        24     2  minor
        26     2  group
        28     2  type
        30     2  ex_mask
        32     1  watchpoint: 0 x, 1 w, 2 io, 3 rw, 255 none
        33     1  bit 0: logonfault; bit 1: the place is an address, else an offset; bit 2: always;
                  bit 3: at the return
        34     1  bytes of opcode, 0: not checked
        35     4  split: code offset of the part that runs at the return; 0: no part is before it
        39     .  opcode
         .     .  place: string
    each facility
         0     1  0: a number follows, 16 bits; 1: a name follows, a string
    each name (of a value, of a symbol)
         0     .  name: string
    code, encoded as the table of instructions says
    each source file
         0     .  name: string
    each line, in the order of the code offsets
         0     4  code offset
         4     2  number of the source file, from 0
         6     4  line
        10     2  column, 0: not known
where the module's name is written, then where the place of each probe is
         0     2  number of the source file
         2     4  line; 0: not known, and all else is 0
         6     2  column, 0: not known

What the format leaves open is refused: another version (1 had no columns and no places, 2 no
names of variables and no `always`, 3 no maps, no return probes and no stacks of the target: `dprobe
compile` makes such a file again), flags that are not 0, bytes after the end.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable
from typing import Final

import msgspec

from dprobed.program.isa import ModType, Watch
from dprobed.program.maps import KIND_BY_NAME, KINDS, MapDefinition
from dprobed.program.model import (
    Diagnostic,
    Header,
    ProbeDefinition,
    Program,
    ProgramError,
    Written,
)
from dprobed.program.verifier import verify

MAGIC: Final = b"\x89DPB"
VERSION: Final = 4
#: Bytes of a ``.dpb`` file at most: what is longer is not read at all.
MAX_FILE: Final = 16 << 20

_PREFIX = struct.Struct("<4sHHII")
_HEADER = struct.Struct("<BBHHHHHIIIIIIIII")
_PROBE = struct.Struct("<IIIIIIHHHHBBBI")
_MAP = struct.Struct("<BBBBI")
_LINE = struct.Struct("<IHIH")
_WRITTEN = struct.Struct("<HIH")
_COUNT = struct.Struct("<H")
_NOWHERE = Written(0, 0, 0)
_NO_WATCH = 255
_LOGONFAULT, _IS_ADDRESS, _ALWAYS, _RETURN = 1, 2, 4, 8
_STACK_TRACE, _NAMED = 1, 2


def encode(program: Program) -> bytes:
    """The program as a ``.dpb`` file."""
    header = program.header
    body = [
        _HEADER.pack(
            ModType[header.modtype.upper()],
            _STACK_TRACE * header.autostacktrace | _NAMED * bool(header.names),
            header.major,
            header.id,
            header.vars,
            header.gvars,
            len(program.names),
            header.jmpmax,
            header.logmax,
            header.ex_logmax,
            header.heapmax,
            len(program.probes),
            len(program.facilities),
            len(program.code),
            len(program.sources),
            len(program.lines),
        ),
        _string(header.name),
        *map(_string, header.names),
        _COUNT.pack(len(header.map)),
        *map(_map, header.map),
    ]
    body += map(_probe, program.probes)
    for facility in program.facilities:
        number = isinstance(facility, int)
        body.append(struct.pack("<BH", 0, facility) if number else b"\x01" + _string(str(facility)))
    body += map(_string, program.names)
    body.append(program.code)
    body += map(_string, program.sources)
    columns = program.columns or [0] * len(program.lines)
    body += [_LINE.pack(*line, column) for line, column in zip(program.lines, columns, strict=True)]
    places = program.probes_at or [None] * len(program.probes)
    body += [_WRITTEN.pack(*(place or _NOWHERE)) for place in (program.name_at, *places)]
    rest = b"".join(body)
    return _PREFIX.pack(MAGIC, VERSION, 0, _PREFIX.size + len(rest), zlib.crc32(rest)) + rest


def _string(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<H", len(data)) + data


def _map(one: MapDefinition) -> bytes:
    number = list(KIND_BY_NAME).index(one.kind)
    fixed = _MAP.pack(number, one.signed, one.keys, len(one.arguments), one.size)
    return fixed + struct.pack(f"<{len(one.arguments)}q", *one.arguments) + _string(one.name)


def _probe(probe: ProbeDefinition) -> bytes:
    opcode = probe.opcode or b""
    place = probe.offset if probe.address is None else probe.address
    fixed = _PROBE.pack(
        probe.index,
        probe.entry,
        probe.end,
        probe.pass_count,
        probe.max_hits,
        probe.heap,
        probe.minor,
        probe.group,
        probe.type,
        probe.ex_mask,
        _NO_WATCH if probe.watchpoint is None else Watch[probe.watchpoint.upper()],
        _LOGONFAULT * probe.logonfault
        | _IS_ADDRESS * (probe.address is not None)
        | _ALWAYS * probe.always
        | _RETURN * probe.returns,
        len(opcode),
        probe.split,
    )
    return fixed + opcode + _string(place or "")


class _FormatError(Exception):
    pass


class _BytecodeReader:
    """Takes values off the front of the bytes; what is not there is a _FormatError."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.at = 0

    def bytes(self, count: int, what: str) -> bytes:
        end = self.at + count
        if end > len(self._data):
            raise _FormatError(f"cut short in its {what}")
        taken = self._data[self.at : end]
        self.at = end
        return taken

    def unpack(self, layout: struct.Struct, what: str) -> tuple[int, ...]:
        return layout.unpack(self.bytes(layout.size, what))

    def string(self, what: str) -> str:
        (size,) = struct.unpack("<H", self.bytes(2, what))
        try:
            return self.bytes(size, what).decode()
        except UnicodeDecodeError as error:
            raise _FormatError(f"its {what} is not UTF-8 text") from error

    def times(self, count: int, least: int, what: str) -> Iterable[int]:
        """A loop over so many items, each of ``least`` bytes at least: a lie ends here."""
        if count * least > len(self._data) - self.at:
            raise _FormatError(f"cut short in its {what}")
        return range(count)


def decode(data: bytes, file: str = "") -> Program:
    """The program of a ``.dpb`` file, verified; ``file``: its name for diagnostics.

    Raises ProgramError, whatever the bytes are.
    """
    try:
        program = _read(data)
    except _FormatError as error:
        hint = "make it again with `dprobe compile`"
        message = f"not a usable .dpb file: {error}"
        raise ProgramError((Diagnostic(file or "program", 0, 0, message, hint),)) from error
    verify(program, file)
    return program


def _read(data: bytes) -> Program:
    reader = _BytecodeReader(data)
    if data[: len(MAGIC)] != MAGIC:
        raise _FormatError("it does not begin as one")
    _, version, flags, size, crc = _PREFIX.unpack(reader.bytes(_PREFIX.size, "first 16 bytes"))
    if version != VERSION:
        raise _FormatError(f"it has version {version}; version {VERSION} is known")
    if flags:
        raise _FormatError("it has unknown flags")
    if size != len(data):
        raise _FormatError(f"it says {size} bytes, and there are {len(data)}")
    if zlib.crc32(data[reader.at :]) != crc:
        raise _FormatError("its check sum is wrong")
    fixed = reader.unpack(_HEADER, "header")
    names = fixed[6]
    probes, facilities, code, sources, lines = fixed[11:]
    header = _read_header(reader, fixed)
    program = Program(
        header,
        tuple(_read_probe(reader) for _ in reader.times(probes, _PROBE.size + 2, "probes")),
        facilities=tuple(_read_facility(reader) for _ in reader.times(facilities, 3, "facilities")),
        names=tuple(reader.string("names") for _ in reader.times(names, 2, "names")),
        code=reader.bytes(code, "code"),
        sources=tuple(reader.string("sources") for _ in reader.times(sources, 2, "sources")),
    )
    rows = [reader.unpack(_LINE, "lines") for _ in reader.times(lines, _LINE.size, "lines")]
    columns = tuple(column for *_, column in rows)
    places = [_read_written(reader) for _ in range(1 + len(program.probes))]
    if reader.at != len(data):
        raise _FormatError("there are bytes after its end")
    return msgspec.structs.replace(
        program,
        lines=tuple((offset, source, line) for offset, source, line, _ in rows),
        columns=columns if any(columns) else (),
        name_at=places[0],
        probes_at=tuple(places[1:]) if any(places[1:]) else (),
    )


def _read_written(reader: _BytecodeReader) -> Written | None:
    source, line, column = reader.unpack(_WRITTEN, "places")
    if line:
        return Written(source, line, column)
    if source or column:
        raise _FormatError("a place in its source has a value that is not known")
    return None


def _read_header(reader: _BytecodeReader, fixed: tuple[int, ...]) -> Header:
    modtype, flags, major, number, variables, globals_, _, jumps, log, ex_log, heap = fixed[:11]
    if modtype not in list(ModType) or flags & ~(_STACK_TRACE | _NAMED):
        raise _FormatError("its header has a value that is not known")
    return Header(
        name=reader.string("name"),
        modtype=ModType(modtype).name.lower(),
        major=major,
        id=number,
        jmpmax=jumps,
        logmax=log,
        ex_logmax=ex_log,
        vars=variables,
        gvars=globals_,
        heapmax=heap,
        autostacktrace=bool(flags & _STACK_TRACE),
        names=tuple(reader.string("names") for _ in reader.times(variables, 2, "names"))
        if flags & _NAMED
        else (),
        map=_read_maps(reader),
    )


def _read_maps(reader: _BytecodeReader) -> tuple[MapDefinition, ...]:
    (count,) = reader.unpack(_COUNT, "maps")
    return tuple(_read_map(reader) for _ in reader.times(count, _MAP.size + 2, "maps"))


def _read_map(reader: _BytecodeReader) -> MapDefinition:
    kind, flags, keys, arguments, size = reader.unpack(_MAP, "maps")
    if kind >= len(KINDS) or flags > 1:
        raise _FormatError("a map has a value that is not known")
    values = reader.unpack(struct.Struct(f"<{arguments}q"), "maps")
    return MapDefinition(reader.string("maps"), KINDS[kind].name, values, keys, size, bool(flags))


def _read_probe(reader: _BytecodeReader) -> ProbeDefinition:
    (
        index, entry, end, pass_count, max_hits, heap, minor, group, type_, ex_mask, watch, flags,
        opcodes, split,
    ) = reader.unpack(_PROBE, "probes")  # fmt: skip
    opcode = reader.bytes(opcodes, "probes") or None
    place = reader.string("probes")
    if flags & ~(_LOGONFAULT | _IS_ADDRESS | _ALWAYS | _RETURN) or (
        watch not in list(Watch) and watch != _NO_WATCH
    ):
        raise _FormatError("a probe has a value that is not known")
    return ProbeDefinition(
        index=index,
        offset=None if flags & _IS_ADDRESS else place,
        address=place if flags & _IS_ADDRESS else None,
        watchpoint=None if watch == _NO_WATCH else Watch(watch).name.lower(),
        opcode=opcode,
        minor=minor,
        group=group,
        type=type_,
        pass_count=pass_count,
        max_hits=max_hits,
        logonfault=bool(flags & _LOGONFAULT),
        ex_mask=ex_mask,
        heap=heap,
        entry=entry,
        end=end,
        always=bool(flags & _ALWAYS),
        at="return" if flags & _RETURN else "entry",
        split=split,
    )


def _read_facility(reader: _BytecodeReader) -> int | str:
    (kind,) = reader.bytes(1, "facilities")
    if kind > 1:
        raise _FormatError("a facility is neither a number nor a name")
    if kind == 1:
        return reader.string("facilities")
    (number,) = struct.unpack("<H", reader.bytes(2, "facilities"))
    return int(number)
