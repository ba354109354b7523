"""From the text of a program's ``offset`` or ``address`` key to places in a file.

    symbol  symbol+n  symbol-n  symbol@VERSION  file.c:symbol  n (a file offset)  file.c:line
    usdt:PROVIDER:NAME (each place of a static probe)
    and for data: symbol:length

Of several symbols of one name a global or weak one is meant, of several versions the default one.
Local symbols of the same name are never chosen among: that is an error that lists them, each in a
form that names it alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from fnmatch import translate
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from dprobed.arch.x86_64.argument import MOST, Argument, ArgumentError, parse
from dprobed.binary.boundary import Boundary
from dprobed.binary.errors import SIMILAR, LocationError
from dprobed.binary.file import Binary
from dprobed.binary.go import is_go, stack_check
from dprobed.binary.numbers import number_of
from dprobed.binary.relocations import imports
from dprobed.binary.suggest import similar
from dprobed.binary.symbols import (
    CODE_TYPES,
    STT_GNU_IFUNC,
    STT_NOTYPE,
    STT_TLS,
    Rank,
    Symbol,
    SymbolTable,
)

if TYPE_CHECKING:
    from dprobed.binary.static_probes import StaticProbe

_NUMBER: Final = r"0[xX][0-9a-fA-F]+|[0-9]+"
_OFFSET_SPEC: Final = re.compile(rf"(?:{_NUMBER})\Z")
_LINE_SPEC: Final = re.compile(r"(?P<file>.+):(?P<line>[0-9]+)\Z")
_SYMBOL_SPEC: Final = re.compile(
    rf"(?:(?P<source>[^:]+\.[A-Za-z0-9+]+):)?(?P<name>.+?)"
    rf"(?:\s*(?P<sign>[+-])\s*(?P<addend>{_NUMBER}))?\Z"
)
_STATIC_SPEC: Final = re.compile(r"usdt:(?P<provider>[^:]*):(?P<name>[^:]*)\Z")
_LENGTH_SPEC: Final = re.compile(rf"(?P<symbol>.+):(?P<length>{_NUMBER})\Z")

#: ``Place.file_offset`` of data that has no bytes in the file (.bss).
NO_OFFSET: Final = -1


class Place(NamedTuple):
    """A place in one file at which a probe can be inserted.

    ``name``: as shown (``malloc+0x0``). ``spec``: the text from which ``resolve`` gets this place.
    ``kind``: ``code``; ``ifunc``: ``vaddr`` is the resolver's, ``symbol_offset`` counts from the
    function that it chose in the process; ``data``. ``boundary``: ``ok`` if an instruction begins
    here, ``unknown`` if nothing can tell (no symbol and no unwind entry covers it).
    ``size`` is the symbol's, or the length asked for; 0 if unknown. ``version`` and ``source`` (the
    source file of a local symbol) are empty if unknown.
    ``semaphore``: the address of the word that counts who is told of a static probe; 0: it has
    none. ``arguments``: where those of a static probe are, or why that is not known.
    ``goroutine``: it is in Go's code, whose runtime moves stacks while functions run on them.
    ``symbol_offset`` of a function of Go's is 0 behind its look at the stack, too: see ``go``.
    """

    file_offset: int
    vaddr: int
    name: str
    symbol: str
    symbol_offset: int
    kind: Literal["code", "ifunc", "data"]
    size: int
    boundary: Boundary
    version: str = ""
    source: str = ""
    spec: str = ""
    semaphore: int = 0
    arguments: tuple[Argument | str, ...] = ()
    goroutine: bool = False


def resolve(elf: Binary, spec: str) -> list[Place]:
    """The code that ``spec`` means: one place, or several for ``file.c:line`` and static probes.

    Raises LocationError for what is unknown, ambiguous, not code, or not where an instruction
    begins.
    """
    spec = spec.strip()
    if not spec.isprintable():
        raise LocationError(f"{spec!r} is not a place")
    if not spec:
        raise LocationError("an empty place", "give a symbol, symbol+n, file.c:line or file offset")
    found = _resolve(elf, spec)
    return [each._replace(goroutine=True) for each in found] if is_go(elf) else found


def _resolve(elf: Binary, spec: str) -> list[Place]:
    if _OFFSET_SPEC.match(spec):
        return [_at_offset(elf, number_of(spec))]
    static = _STATIC_SPEC.match(spec)
    if static:
        return _static(elf, static["provider"], static["name"])
    line = _LINE_SPEC.match(spec)
    if line:
        return _at_line(elf, line["file"], number_of(line["line"].lstrip("0") or "0"))
    symbol, addend = _find(elf, spec, code=True)
    place = _code_place(elf, symbol, addend)
    return [_in_go(elf, place, symbol) if is_go(elf) else place]


def resolve_data(elf: Binary, spec: str) -> Place:
    """The data (or code) that a watchpoint's ``address`` names: ``symbol[±n][:length]``.

    Without a length ``size`` is what is left of the symbol. Raises LocationError. An absolute
    address is not a matter of any file: the caller reads it with ``numbers.number_of``.
    """
    spec = spec.strip()
    if not spec.isprintable():
        raise LocationError(f"{spec!r} is not a place")
    length = 0
    match = _LENGTH_SPEC.match(spec)
    if match:
        spec, length = match["symbol"], number_of(match["length"])
    symbol, addend = _find(elf, spec, code=False)
    if symbol.type in CODE_TYPES and _in_code(elf, symbol.value):
        place = _code_place(elf, symbol, addend)
        return place._replace(size=length) if length else place
    if elf.segment_at(symbol.value + addend) is None:
        raise LocationError(f"{elf.path}: {_named(symbol, addend)} is not in any segment")
    return _data_place(elf, symbol, addend, length)


def _data_place(elf: Binary, symbol: Symbol, addend: int, length: int) -> Place:
    """Data at a symbol; length 0: what is left of the symbol."""
    vaddr = symbol.value + addend
    offset = elf.vaddr_to_offset(vaddr)
    left = symbol.size - addend if 0 <= addend < symbol.size else 0
    return Place(
        NO_OFFSET if offset is None else offset,
        vaddr,
        _named(symbol, addend),
        symbol.name,
        addend,
        "data",
        length or left,
        "ok",
        symbol.version,
        symbol.source,
        _spec_of(elf.symbols, symbol, addend),
    )


def place_at(elf: Binary, vaddr: int) -> Place:
    """The code at an address of the file, named by its symbol; raises LocationError."""
    segment = elf.segment_at(vaddr)
    if segment is None:
        raise LocationError(f"{elf.path}: {vaddr:#x} is not in any segment")
    if not segment.executable or vaddr - segment.vaddr >= segment.file_size:
        raise LocationError(f"{elf.path}: {vaddr:#x} is not in an executable segment")
    offset = vaddr - segment.vaddr + segment.offset
    symbol = elf.symbols.code_at(vaddr)
    if symbol is None or (not symbol.size and not _same_section(elf, symbol.value, vaddr)):
        return _checked(
            elf,
            Place(offset, vaddr, f"{offset:#x}", "", 0, "code", 0, "unknown", spec=f"{offset:#x}"),
        )
    addend = vaddr - symbol.value
    return _checked(
        elf,
        Place(
            offset,
            vaddr,
            _named(symbol, addend),
            symbol.name,
            addend,
            "code",
            symbol.size,
            "unknown",
            symbol.version,
            symbol.source,
            f"{offset:#x}",
        ),
    )


def list_places(elf: Binary, pattern: str = "*") -> Iterator[Place]:
    """What can be probed by name: code by address, then data (for watchpoints) by address.

    ``pattern`` is a shell pattern for symbol names.
    """
    wanted = re.compile(translate(pattern)).match
    seen: set[tuple[str, int]] = set()
    table = elf.symbols
    for symbol in table.code():
        if not wanted(symbol.name) or not _in_code(elf, symbol.value):
            continue
        if symbol.type == STT_NOTYPE and not symbol.size and symbol.rank == Rank.LOCAL:
            continue  # assembler's labels
        spec = _spec_of(table, symbol, 0)
        if (spec, symbol.value) not in seen:
            seen.add((spec, symbol.value))
            yield _code_place(elf, symbol, 0)
    for symbol in table.variables():
        spec = _spec_of(table, symbol, 0)
        if wanted(symbol.name) and _fits(elf, symbol, code=False) and (spec, 0) not in seen:
            seen.add((spec, 0))
            yield _data_place(elf, symbol, 0, 0)


def _at_offset(elf: Binary, offset: int) -> Place:
    segment = elf.code_segment(offset)
    if segment is None:
        hint = "code lies at " + ", ".join(
            f"{s.offset:#x}..{s.offset + s.file_size:#x}" for s in elf.segments if s.executable
        )
        meant = elf.segment_at(offset)
        if meant is not None and meant.executable and offset - meant.vaddr < meant.file_size:
            hint = (
                f"{offset:#x} is an address; its file offset is "
                f"{offset - meant.vaddr + meant.offset:#x}"
            )
        raise LocationError(
            f"{elf.path}: file offset {offset:#x} is not in an executable segment", hint
        )
    return place_at(elf, offset - segment.offset + segment.vaddr)


def _at_line(elf: Binary, file: str, line: int) -> list[Place]:
    places = []
    functions: set[int] = set()
    for vaddr in elf.lines.addresses(elf, file, line):
        segment = elf.segment_at(vaddr)
        if segment is None or not segment.executable:
            continue  # code that the linker threw away keeps its lines
        symbol = elf.symbols.code_at(vaddr)
        # One place in each function: the first, as loops come back to their line.
        if symbol is not None and symbol.size:
            if symbol.value in functions:
                continue
            functions.add(symbol.value)
        place = place_at(elf, vaddr)
        # The compiler says that its code for a line begins there.
        places.append(place._replace(boundary="ok"))
    if not places:
        raise LocationError(f"{elf.path}: the code of {file}:{line} is not in this file")
    return places


def _static(elf: Binary, provider: str, name: str) -> list[Place]:
    """The places of a static probe; raises LocationError."""
    found = [each for each in elf.static_probes if (each.provider, each.name) == (provider, name)]
    places = {}
    for probe in found:
        if not _in_code(elf, probe.address):
            raise LocationError(
                f"{elf.path}: usdt:{provider}:{name} at {probe.address:#x} is not in its code"
            )
        semaphore = elf.segment_at(probe.semaphore)
        if probe.semaphore and (semaphore is None or not semaphore.writable):
            raise LocationError(
                f"{elf.path}: the semaphore of usdt:{provider}:{name} is not in its data"
            )
        offset = elf.vaddr_to_offset(probe.address)
        assert offset is not None  # it is in code
        places[probe.address] = Place(
            offset,
            probe.address,
            f"usdt:{provider}:{name}",
            "",
            0,
            "code",
            0,
            "ok",  # the assembler put a no-op there
            spec=f"usdt:{provider}:{name}",
            semaphore=probe.semaphore,
            arguments=_arguments(elf, probe),
        )
    if not places:
        raise _no_static(elf, f"{provider}:{name}")
    return list(places.values())


def _no_static(elf: Binary, name: str) -> LocationError:
    names = sorted({f"{each.provider}:{each.name}" for each in elf.static_probes})
    if not names:
        return LocationError(f"{elf.path}: it has no static probes")
    close = similar(name, names)
    hint = SIMILAR if close else "`dprobe places --usdt` lists them"
    candidates = tuple(f"usdt:{each}" for each in close)
    return LocationError(f"{elf.path}: no static probe {name}", hint, candidates)


def _arguments(elf: Binary, probe: StaticProbe) -> tuple[Argument | str, ...]:
    """Where the arguments of a static probe are; of one that is not known, why."""

    def symbol(name: str) -> int:
        values = {each.value for each in elf.symbols.find(name)}
        if len(values) != 1:
            raise ArgumentError(f"{name}: " + ("several symbols" if values else "no symbol"))
        return values.pop()

    found: list[Argument | str] = []
    for text in probe.arguments.split()[:MOST]:
        try:
            found.append(parse(text, symbol))
        except ArgumentError as error:
            found.append(str(error))
    return tuple(found)


class _Wanted(NamedTuple):
    name: str
    version: str
    source: str
    addend: int


def _parse(spec: str) -> _Wanted:
    match = _SYMBOL_SPEC.match(spec)
    if match is None:
        raise LocationError(f"{spec!r} is not a place", "give a symbol, symbol+n or file.c:line")
    addend = number_of(match["addend"]) if match["addend"] else 0
    name, _, version = match["name"].partition("@")
    return _Wanted(
        name,
        version.removeprefix("@"),
        match["source"] or "",
        -addend if match["sign"] == "-" else addend,
    )


def _find(elf: Binary, spec: str, *, code: bool) -> tuple[Symbol, int]:
    wanted = _parse(spec)
    table = elf.symbols
    # A name may itself look like another form (C++'s operators do not, Go's methods do).
    named = table.find(wanted.name)
    found = [
        symbol
        for symbol in named
        if (not wanted.version or symbol.version == wanted.version)
        and (not wanted.source or _is_source(symbol.source, wanted.source))
    ]
    if not found:
        raise _unknown(elf, wanted, named)
    fitting = [symbol for symbol in found if _fits(elf, symbol, code=code)]
    if not fitting:
        raise _unfit(elf, found[0], code=code)
    best = min(symbol.rank for symbol in fitting)
    places = {symbol.value: symbol for symbol in fitting if symbol.rank == best}
    if len(places) > 1:
        raise _ambiguous(elf, wanted, list(places.values()))
    return next(iter(places.values())), wanted.addend


def _is_source(source: str, wanted: str) -> bool:
    return source == wanted or source.endswith("/" + wanted)


def _in_code(elf: Binary, vaddr: int) -> bool:
    segment = elf.segment_at(vaddr)
    if segment is None or not segment.executable or vaddr - segment.vaddr >= segment.file_size:
        return False
    section = elf.section_at(vaddr)
    return section is None or section.executable


def _same_section(elf: Binary, one: int, other: int) -> bool:
    return elf.section_at(one) == elf.section_at(other)


def _fits(elf: Binary, symbol: Symbol, *, code: bool) -> bool:
    if symbol.type == STT_TLS:
        return False
    if code:
        return symbol.type in CODE_TYPES and _in_code(elf, symbol.value)
    return elf.segment_at(symbol.value) is not None


def _unfit(elf: Binary, symbol: Symbol, *, code: bool) -> LocationError:
    if symbol.type == STT_TLS:
        return LocationError(
            f"{elf.path}: {symbol.name} is thread-local: it has another address in each thread",
            "watch an absolute address",
        )
    if code and symbol.type not in CODE_TYPES:
        return LocationError(
            f"{elf.path}: {symbol.name} is data, not code", "use a watchpoint with address="
        )
    return LocationError(
        f"{elf.path}: {symbol.name} at {symbol.value:#x} is not "
        + ("code" if code else "in any segment")
    )


def _unknown(elf: Binary, wanted: _Wanted, named: list[Symbol]) -> LocationError:
    if named:
        forms = tuple(sorted({_described(elf, symbol) for symbol in named}))
        what = f"version {wanted.version}" if wanted.version else f"source file {wanted.source}"
        return LocationError(f"{elf.path}: no {wanted.name} of {what}", "use one of these", forms)
    if wanted.name in imports(elf):
        return LocationError(
            f"{elf.path}: {wanted.name} is not in this file, which takes it from a library",
            "name the library as the program's module",
        )
    close = similar(wanted.name, elf.symbols.names())
    hints = [SIMILAR] if close else []
    if elf.is_stripped:
        hints.append("the file is stripped: install its debug symbols, or use a file offset")
    return LocationError(f"{elf.path}: no symbol {wanted.name}", " ".join(hints), tuple(close))


def _ambiguous(elf: Binary, wanted: _Wanted, found: list[Symbol]) -> LocationError:
    return LocationError(
        f"{elf.path}: {wanted.name} is ambiguous: {len(found)} symbols have this name",
        "name one of them as file.c:symbol, symbol@VERSION or by its file offset",
        tuple(_described(elf, symbol) for symbol in found),
    )


def _described(elf: Binary, symbol: Symbol) -> str:
    spec = _spec_of(elf.symbols, symbol, 0)
    if not spec:
        offset = elf.vaddr_to_offset(symbol.value)
        spec = f"{symbol.value:#x}" if offset is None else f"{offset:#x}"
    name = f"{symbol.source}:{symbol.name}" if symbol.source else symbol.name
    return (
        f"{spec} ({name} at {symbol.value:#x})" if name != spec else f"{spec} at {symbol.value:#x}"
    )


def _named(symbol: Symbol, addend: int) -> str:
    version = f"@{symbol.version}" if symbol.rank == Rank.OLD_VERSION else ""
    sign = "-" if addend < 0 else "+"
    return f"{symbol.name}{version}{sign}{abs(addend):#x}"


def _spec_of(table: SymbolTable, symbol: Symbol, addend: int) -> str:
    """A text that names this symbol and no other."""
    same = table.find(symbol.name)
    suffix = f"{'-' if addend < 0 else '+'}{abs(addend):#x}" if addend else ""

    def alone(others: Iterable[Symbol]) -> bool:
        return all(other.value == symbol.value for other in others)

    if not same:
        return ""  # a name that cannot be written
    if alone(s for s in same if s.rank <= symbol.rank):
        return symbol.name + suffix
    versioned = [s for s in same if s.version == symbol.version]
    if symbol.version and alone(versioned):
        return f"{symbol.name}@{symbol.version}{suffix}"
    sourced = [s for s in same if _is_source(s.source, symbol.source)]
    if symbol.source and alone(sourced):
        return f"{symbol.source}:{symbol.name}{suffix}"
    return ""


def _code_place(elf: Binary, symbol: Symbol, addend: int) -> Place:
    vaddr = symbol.value + addend
    segment = elf.segment_at(vaddr)
    if segment is None or not segment.executable or vaddr - segment.vaddr >= segment.file_size:
        raise LocationError(f"{elf.path}: {_named(symbol, addend)} is not in an executable segment")
    offset = vaddr - segment.vaddr + segment.offset
    ifunc = symbol.type == STT_GNU_IFUNC
    place = Place(
        offset,
        vaddr,
        _named(symbol, addend),
        symbol.name,
        addend,
        "ifunc" if ifunc else "code",
        symbol.size,
        "ok" if not addend else "unknown",
        symbol.version,
        symbol.source,
        _spec_of(elf.symbols, symbol, addend) or f"{offset:#x}",
    )
    if ifunc:
        return place._replace(file_offset=offset - addend, vaddr=symbol.value)
    return place if not addend else _checked(elf, place)


def _in_go(elf: Binary, place: Place, symbol: Symbol) -> Place:
    """A place in Go's code; the entry of a function is where its stack has room."""
    skipped = 0 if place.symbol_offset else stack_check(elf, place.vaddr, symbol.size)
    return place._replace(
        file_offset=place.file_offset + skipped,
        vaddr=place.vaddr + skipped,
        name=_named(symbol, place.symbol_offset + skipped),
    )


def _checked(elf: Binary, place: Place) -> Place:
    """The place, its boundary known; raises LocationError if no instruction begins there."""
    section = elf.section_at(place.vaddr)
    if section is not None and not section.executable:
        raise LocationError(
            f"{elf.path}: {place.name} is in section {section.name}, which is not code"
        )
    return place._replace(boundary=elf.boundary(place.vaddr, place.name))
