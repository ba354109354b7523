"""What the kernel is asked for: memory, which so never faults, and names; see ``abi``."""

from __future__ import annotations

from typing import Final

from dprobed.arch.x86_64.fxsave import XMM, XMM_SIZE
from dprobed.arch.x86_64.paging import PAGE
from dprobed.arch.x86_64.syscalls import (
    SYS_GETTID,
    SYS_PRCTL,
    SYS_PROCESS_VM_READV,
    SYS_PROCESS_VM_WRITEV,
)
from dprobed.program.exec.interface import ADDRESS_END
from dprobed.program.exec.native.abi import (
    HIT_BYTES,
    NO_REGISTER,
    ArgumentKind,
    Data,
    Hit,
    Place,
)
from dprobed.program.exec.native.code import I64, PAIR, PTR, CodeWriter, Value, word
from dprobed.program.exec.native.library import Begin, Library, makes

_PR_GET_NAME: Final = 16
#: Below ``hit``, what may be ours.
_OURS: Final = 16384


def _in_own_page(c: CodeWriter, hit: Value, address: Value, length: Value) -> Value:
    """Whether all of it is in the page of the last word of ``hit``."""
    page = c.b.and_(c.b.add(c.address(hit), word(HIT_BYTES - 8)), word(-PAGE))
    offset = c.b.sub(address, page)
    left = c.b.sub(word(PAGE), offset)
    return c.b.and_(c.test("<", offset, PAGE), c.test("<=", length, left))


def _is_direct(c: CodeWriter, data: Value, address: Value, length: Value) -> Value:
    """Whether all of it is in what ``data`` says can be read."""
    low, high = c.load(data, Data.DIRECT_LOW), c.load(data, Data.DIRECT_HIGH)
    inside = c.b.and_(c.test(">=", address, low), c.test("<", address, high))
    return c.b.and_(inside, c.test("<=", length, c.b.sub(high, address)))


def _transfer(c: CodeWriter, number: int, pieces: list[tuple[Value, Value, Value]]) -> Value:
    """Copy pieces (ours, the target's, length); how many bytes, negative where none."""
    vectors = c.room(32 * len(pieces))
    theirs = c.at(vectors, 16 * len(pieces))
    for n, (ours, address, length) in enumerate(pieces):
        c.store(c.address(ours), vectors, 16 * n)
        c.store(length, vectors, 16 * n + 8)
        c.store(address, theirs, 16 * n)
        c.store(length, theirs, 16 * n + 8)
    count = len(pieces)
    thread = c.system_call(SYS_GETTID)
    return c.system_call(number, thread, c.address(vectors), count, c.address(theirs), count, 0)


@makes("copy_in")
def _copy_in(library: Library, begin: Begin) -> CodeWriter:
    """(hit, data, to, address, length): how many bytes could be read, from the first on."""
    c = begin(PTR, PTR, PTR, I64, I64)
    hit, data, to, address, length = c.arguments
    with c.when(c.test(">=", address, ADDRESS_END)):
        c.give(0)
    length = c.least(length, c.b.sub(word(ADDRESS_END), address))
    quick = c.b.or_(_in_own_page(c, hit, address, length), _is_direct(c, data, address, length))
    with c.when(quick):
        c.copy(to, c.b.inttoptr(address, PTR), length, 1)
        c.give(length)
    done = _transfer(c, SYS_PROCESS_VM_READV, [(to, address, length)])
    c.give(c.choose(c.test("s<", done, 0), 0, done))
    return c


def _makes_words(width: int) -> None:
    @makes(f"read_{width}")
    def _read(library: Library, begin: Begin) -> CodeWriter:
        """(hit, data, address): the number, and whether it could be read."""
        c = begin(PTR, PTR, I64, result=PAIR)
        hit, data, address = c.arguments
        length = word(width)
        quick = c.b.or_(_in_own_page(c, hit, address, length), _is_direct(c, data, address, length))
        with c.when(c.b.and_(quick, c.test("<", address, ADDRESS_END))):
            c.give(c.load(c.b.inttoptr(address, PTR), 0, width), 1)
        with c.when(c.test(">=", address, ADDRESS_END)):
            c.give(0, 0)
        number = c.room(8)
        c.store(0, number)
        done = _transfer(c, SYS_PROCESS_VM_READV, [(number, address, length)])
        c.give(c.load(number), c.choose(c.test("==", done, width), 1, 0))
        return c

    @makes(f"write_{width}")
    def _write(library: Library, begin: Begin) -> CodeWriter:
        """(hit, address, number): whether it could be written."""
        c = begin(PTR, I64, I64)
        _, address, number = c.arguments
        with c.when(c.test(">=", address, ADDRESS_END)):
            c.give(0)
        _write_to_stack(c, width)
        ours = c.room(8)
        c.store(number, ours)
        first = c.b.sub(word(PAGE), c.b.and_(address, word(PAGE - 1)))
        with c.when(c.test(">=", first, width)):
            done = _transfer(c, SYS_PROCESS_VM_WRITEV, [(ours, address, word(width))])
            c.give(c.choose(c.test("==", done, width), 1, 0))
        _write_to_two_pages(c, width, ours, first)
        return c


def _write_to_stack(c: CodeWriter, width: int) -> None:
    """Writes to the stack of the thread near ``hit``: only what is the thread's own is written."""
    hit, address, number = c.arguments
    own = c.load(hit, Hit.RED_ZONE)
    low = c.b.sub(c.address(hit), word(_OURS + width))
    here = c.test("!=", own, 0)
    ours = c.b.and_(c.test(">", address, low), c.test("<", address, own))
    with c.when(c.b.and_(here, ours)):
        bytes_ = c.room(8)
        c.store(number, bytes_)
        with c.each(word(width)) as n:
            at = c.b.add(address, n)
            with c.when(c.test(">=", at, own)):
                c.store(c.load(bytes_, n, 1), c.b.inttoptr(at, PTR), 0, 1)
        c.give(1)
    above = c.b.and_(c.test(">=", address, own), _in_own_page(c, hit, address, word(width)))
    with c.when(c.b.and_(here, above)):
        c.store(number, c.b.inttoptr(address, PTR), 0, width)
        c.give(1)


def _write_to_two_pages(c: CodeWriter, width: int, ours: Value, first: Value) -> None:
    """All of it or nothing: ``first`` bytes are before the border, and are written last."""
    address = c.arguments[1]
    old = c.room(8)
    length = word(width)
    with c.when(c.test("!=", _transfer(c, SYS_PROCESS_VM_READV, [(old, address, length)]), width)):
        c.give(0)
    behind, rest = c.b.add(address, first), c.b.sub(length, first)
    pieces = [(c.at(ours, first), behind, rest), (ours, address, first)]
    done = _transfer(c, SYS_PROCESS_VM_WRITEV, pieces)
    with c.when(c.test("==", done, width)):
        c.give(1)
    with c.when(c.test("s>", done, 0)):
        _transfer(c, SYS_PROCESS_VM_WRITEV, [(c.at(old, first), behind, rest)])
    c.give(0)


for _width in (1, 2, 4, 8):
    _makes_words(_width)


@makes("name")
def _name(library: Library, begin: Begin) -> CodeWriter:
    """(): the name of the thread, in two words."""
    c = begin(result=PAIR)
    name = c.room(16)
    c.system_call(SYS_PRCTL, _PR_GET_NAME, c.address(name))
    c.give(c.load(name), c.load(name, 8))
    return c


@makes("argument")
def _argument(library: Library, begin: Begin) -> CodeWriter:
    """(hit, data, place, number, bad): the word, and whether it could be read; ``bad``: where the
    address goes that could not."""
    c = begin(PTR, PTR, PTR, I64, PTR, result=PAIR)
    hit, data, place, number, bad = c.arguments
    at = c.at(place, c.b.add(word(Place.ARGUMENTS), c.b.mul(number, word(16))))
    how, value = c.load(at), c.variable(c.load(at, 8))

    def field(shift: int) -> Value:
        return c.b.and_(c.b.lshr(how, word(shift)), word(0xFF))

    def register(index: Value) -> Value:
        return c.load(c.at(hit, c.b.mul(index, word(8))), Hit.REGS)

    kind, size, base = field(0), field(8), field(32)
    with c.when(c.test("==", kind, ArgumentKind.REGISTER)):
        c.set(value, c.b.lshr(register(base), c.get(value)))
    with c.when(c.test("==", kind, ArgumentKind.SSE)):
        image = c.load_pointer(hit, Hit.FXSAVE)
        c.set(value, c.load(c.at(image, c.b.mul(base, word(XMM_SIZE))), XMM))
    with c.when(c.test("==", kind, ArgumentKind.MEMORY)):
        with c.when(c.test("!=", base, NO_REGISTER)):
            c.add_to(value, register(base))
        with c.when(c.test("!=", field(40), NO_REGISTER)):
            c.add_to(value, c.b.mul(register(field(40)), field(24)))
        address, read = c.get(value), c.room(8)
        c.store(0, read)
        count = c.call(library("copy_in"), hit, data, read, address, size)
        with c.when(c.test("<", count, size)):
            c.store(c.b.add(address, count), bad)
            c.give(0, 0)
        c.set(value, c.load(read))
    above = c.b.sub(word(64), c.b.mul(size, word(8)))
    raw = c.b.shl(c.get(value), above)
    signed = c.test("!=", field(16), 0)
    c.give(c.b.select(signed, c.b.ashr(raw, above), c.b.lshr(raw, above)), 1)
    return c
