"""Trampolines: what a jump at a probed instruction leads to.

A trampoline saves what its programs may clobber, calls each of them with a ``struct hit``, puts
everything back, runs the displaced instruction and jumps behind the original one. The rules:

- The 128 bytes below rsp are the thread's (System V ABI, red zone): rsp is moved over them by
  ``lea``, which alters no flag, before anything is written.
- Flags are kept in rax by ``lahf`` and ``seto``, and put back by ``sahf`` behind an ``add`` that
  overflows where ``seto`` has said so: a tenth of what ``popf`` takes. Where the flags are written
  before they are read, they are not kept.
- Only jumps lead in and out: nothing is pushed on the thread's stack before rsp was moved.
- The page below a stack is a guard, behind which something else may be. So nothing is written more
  than a page below what is known to be the thread's stack: of a large frame each page is written
  to first, from above, and what is called then takes a page at most.

The frame begins with a ``struct hit``, whose first words are the registers, in the order of
``REGISTER_NAMES``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec
from iced_x86 import Decoder, FlowControl, InstructionInfoFactory, RegisterExt, RflagsBits

from dprobed.arch.x86_64.assembly import (
    BY_ICED,
    EFLAGS,
    HARDWARE,
    R8,
    R9,
    R10,
    R11,
    RAX,
    RCX,
    RDI,
    RDX,
    RIP,
    RSI,
    Assembly,
)
from dprobed.arch.x86_64.call_table import CallFrame, CallShape, claim, find, leave
from dprobed.arch.x86_64.paging import PAGE
from dprobed.arch.x86_64.registers import RSP

#: The x86-64 ABI lets a function use so much below rsp.
RED_ZONE: Final = 128

#: Bytes of a trampoline at most, but for its programs' parts and the displaced instruction; and of
#: each of those parts.
LONGEST: Final = 448
LONGEST_RUN: Final = 1280
#: Instructions that are looked at for whether the flags are read, at most.
_LOOKED_AT: Final = 8
_ARITHMETIC: Final = (
    RflagsBits.OF | RflagsBits.SF | RflagsBits.ZF | RflagsBits.AF | RflagsBits.CF | RflagsBits.PF
)


def mentioned(code: bytes) -> frozenset[int]:
    """The general registers that any instruction of a piece of code uses, whole or in part."""
    factory = InstructionInfoFactory()
    names = set()
    for instruction in Decoder(64, code):
        for used in factory.info(instruction).used_registers():
            if RegisterExt.is_gpr(used.register):
                names.add(RegisterExt.full_register(used.register))
    return frozenset(BY_ICED[register] for register in names)


def flags_are_live(code: bytes, address: int) -> bool:
    """Whether the arithmetic flags may be read by what runs from ``address`` on: false is certain.

    Looked at are the next instructions up to one that goes elsewhere. (A ``call`` or ``ret`` does:
    that no function reads them is a convention that compilers keep, and hand-written code may not.)
    """
    decoder = Decoder(64, code, ip=address)
    factory = InstructionInfoFactory()
    unwritten = _ARITHMETIC
    for _ in range(_LOOKED_AT):
        if not decoder.can_decode:
            return True
        instruction = decoder.decode()
        if instruction.is_invalid:
            return True
        factory.info(instruction)
        if instruction.rflags_read & unwritten:
            return True
        unwritten &= ~instruction.rflags_modified
        if not unwritten:
            return False
        if instruction.flow_control != FlowControl.NEXT:
            return True
    return True


#: The words of one probe that its trampolines and we share, a cache line; by their offsets: how
#: often it was come by; hits that do not run the program; the last one that does; not 0 once it is
#: never to run again; records that were lost. Of a return probe: calls whose entry part
#: failed, that were left without returning, and that could not be followed.
CONTROL_HITS: Final = 0
CONTROL_PASSED: Final = 8
CONTROL_LAST: Final = 16
CONTROL_OVER: Final = 24
CONTROL_LOST: Final = 32
CONTROL_MISSED: Final = 40
CONTROL_UNWOUND: Final = 48
CONTROL_FULL: Final = 56
CONTROL_SIZE: Final = 64

# A ring of records: words of its own, each in a line; behind them its bytes, mapped twice in a row,
# so that a record may go over the end. What was reserved, ever; what was read, ever.
RING_HEAD: Final = 0
RING_TAIL: Final = 64
RING_DATA: Final = 4096

# A record: its bytes; 1 once it is whole; then words; behind them what is raw in its log, and that.
RECORD_SIZE: Final = 0
RECORD_STATE: Final = 4
RECORD_SITE: Final = 8
RECORD_TSC: Final = 16
RECORD_THREAD: Final = 24
RECORD_HIT: Final = 32
RECORD_EXIT: Final = 40
RECORD_CPU: Final = 48
RECORD_LOG_SIZE: Final = 56
RECORD_RAW_COUNT: Final = 64
RECORD_MAJOR: Final = 72
RECORD_MINOR: Final = 80
RECORD_EXCEPTION: Final = 88
RECORD_DATA: Final = 112


class HitLayout(msgspec.Struct, frozen=True):
    """Where fields are in a ``struct hit``, whose first words are the registers; ``kept_words``:
    how many ``kept`` points to."""

    tid: int
    pid: int
    cpu: int
    time: int
    kept: int
    kept_words: int
    scratch: int
    log: int
    log_size: int
    raw: int
    raw_count: int
    major: int
    minor: int
    exception: int
    red_zone: int
    size: int


class TrampolineFrame(msgspec.Struct, frozen=True):
    """The frame of a trampoline: a ``struct hit``, what is ours, and room for the programs.

    ``room``: bytes of that; ``stack``: of the stack that they take below it, a page at most.
    """

    hit: HitLayout
    room: int
    stack: int

    @property
    def number(self) -> int:
        """Where the number of the hit is."""
        return self.hit.size

    @property
    def flags(self) -> int:
        """Where the arithmetic flags are, as ``lahf`` and ``seto`` give them."""
        return self.hit.size + 8

    @property
    def exit(self) -> int:
        """Where what the program has returned is."""
        return self.hit.size + 16

    @property
    def calls(self) -> CallFrame:
        """Where things are that a probe at a return needs."""
        slot = self.hit.size + 24
        return CallFrame(self.size, slot, slot + 8, CONTROL_UNWOUND, CONTROL_FULL)

    @property
    def log(self) -> int:
        """Where the log is; what is raw in it, and the program's own room, come behind."""
        return self.hit.size + 32 + 8 * self.hit.kept_words

    def raw(self, record: RecordShape) -> int:
        """Where it is noted what is raw in the log."""
        return self.log + record.log

    def scratch(self, record: RecordShape | None) -> int:
        """Where the program's own room is, rounded up to 16 bytes."""
        return self.log if record is None else self.raw(record) + record.raw

    @property
    def size(self) -> int:
        """Bytes by which rsp is moved."""
        return RED_ZONE + -(-(self.log + self.room + 16) // 16) * 16

    @property
    def touched(self) -> list[int]:
        """Where it is written to before it is used, from above: nowhere where all of it and what
        is called take no more than a page."""
        if self.size + self.stack <= PAGE:
            return []
        return [*range(self.size - PAGE, 0, -PAGE), 0]


class Rings(msgspec.Struct, frozen=True):
    """Where records go. ``address``: of the first ring; ``count``: a power of 2; ``size``: of each,
    too; ``stride``: from one to the next."""

    address: int
    count: int
    size: int
    stride: int


class Clock(msgspec.Struct, frozen=True):
    """Where the address is of what makes nanoseconds of the time stamp counter: its value then, the
    nanoseconds then, and nanoseconds of a tick, times 2**32."""

    address: int


class RecordShape(msgspec.Struct, frozen=True):
    """What a program's records are made of. ``site``: the number of its place; ``raw``, ``log``:
    bytes of room for these; ``major``, ``minor``: its numbers; ``alters_numbers``: it may give
    others; ``raises``: it may end by an exception."""

    rings: Rings
    site: int
    raw: int
    log: int
    major: int
    minor: int
    alters_numbers: bool
    raises: bool


class ProgramRun(msgspec.Struct, frozen=True):
    """One program to run in a trampoline.

    ``code``: where its function is; ``data``, ``place``: its second and third argument;
    ``control``: that of its probe. ``reads`` and ``writes``: the registers of the thread that it
    looks at and alters; ``clobbers``: those that its code leaves altered; ``arguments``: those of
    rdi, rsi and rdx that it looks at. ``counted``: whether its
    hits are counted one by one, because some do not run it. ``ends``: it may end by `rem`. What
    it is told: ``pid`` (0: not asked for), ``tid``, ``cpu``, ``clock``, and where the stack of the
    thread itself ends (``stores``: it writes to memory).
    ``call``: the call that begins here, of which this is the entry part (``code`` 0: there is none)
    or the return part.
    """

    code: int
    data: int
    place: int
    control: int
    reads: frozenset[int]
    writes: frozenset[int]
    clobbers: frozenset[int]
    arguments: frozenset[int]
    counted: bool
    ends: bool
    scratch: bool
    record: RecordShape | None
    pid: int = 0
    tid: bool = False
    cpu: bool = False
    clock: Clock | None = None
    stores: bool = False
    call: CallShape | None = None


def trampoline(
    at: int, address: int, runs: Sequence[ProgramRun], frame: TrampolineFrame, *, flags: bool
) -> bytes:
    """The code that runs these at the instruction at ``address``, up to the displaced one.

    ``at``: where it will be; ``flags``: whether the arithmetic flags are live. Raises OverflowError
    where a function is out of reach.
    """
    made = Assembly(at)
    nothing: frozenset[int] = frozenset()
    used = frozenset((RAX,)).union(*(run.clobbers | run.arguments for run in runs))
    if any(
        run.counted or run.record or run.ends or run.tid or run.clock or run.call for run in runs
    ):
        used |= {RCX, RDX}
    if any(run.tid for run in runs):
        used |= {R11}
    if any(run.record for run in runs):
        used |= {R8, R9, R10, R11, RSI, RDI}
    read = nothing.union(*(run.reads for run in runs))
    written = nothing.union(*(run.writes for run in runs))
    kept = sorted((used | read | written) & HARDWARE.keys() - {RSP})
    made.lea(RSP, -frame.size)
    for offset in frame.touched:
        made.store(offset, RAX)
    for register in kept:
        made.store(register * 8, register)
    if flags:
        made.raw("0f90c0 9f")  # seto al; lahf
        made.store(frame.flags, RAX)
    if EFLAGS in read:
        made.raw("9c 8f8424")  # pushfq; pop [rsp+...], which counts from where rsp is then
        made.bytes.extend((EFLAGS * 8).to_bytes(4, "little"))
    for run in runs:
        if run.call is not None and not run.call.returns:
            _enter(made, run, run.call, frame, address)
        else:
            _run(made, run, frame, address)
    if flags:
        made.load(RAX, frame.flags)
        made.raw("047f 9e")  # add al,127; sahf
    for register in kept:
        made.load(register, register * 8)
    if RSP in written:
        made.load(RSP, RSP * 8)
    else:
        made.lea(RSP, frame.size)
    return bytes(made.bytes)


def _unless_over(made: Assembly, run: ProgramRun) -> int:
    """rax becomes the address of the control words; the branch that is taken if it is over."""
    made.constant(RAX, run.control)
    made.raw("80 78 18 00")  # cmp byte [rax+CONTROL_OVER],0
    return made.branch("0f85")


def _run(made: Assembly, run: ProgramRun, frame: TrampolineFrame, address: int) -> None:
    """Run a program, if this is one of its hits."""
    over = [_unless_over(made, run)]
    skip: list[int] = []
    if run.call is not None:
        over += find(made, run.call, frame.calls, run.control)
        made.raw("4883c110")  # add rcx,BODY_KEPT
        made.store(frame.hit.kept, RCX)
        made.constant(RAX, run.control)
    if run.counted or run.record:
        _number(made, frame)
    else:
        made.raw("f0 48 ff 00")  # lock inc qword [rax]
    if run.counted:
        made.raw("48 3b 48 08")  # cmp rcx,[rax+CONTROL_PASSED]
        skip.append(made.branch("0f86"))  # jbe
        made.raw("48 3b 48 10")  # cmp rcx,[rax+CONTROL_LAST]
        skip.append(made.branch("0f87"))  # ja
    _call(made, run, frame, address)
    if run.record is not None:
        _commit(made, run, run.record, frame)
    if run.ends:
        made.raw("48 83 f8 fe")  # cmp rax,REM
        skip.append(made.branch("0f85"))
        made.constant(RCX, run.control)
        made.raw("c6 41 18 01")  # mov byte [rcx+CONTROL_OVER],1
    made.land(skip)
    if run.call is not None:
        leave(made, frame.calls)
    made.land(over)


def _enter(
    made: Assembly, run: ProgramRun, call: CallShape, frame: TrampolineFrame, address: int
) -> None:
    """Note that a call begins, unless the entry part says otherwise."""
    over = [_unless_over(made, run)]
    if call.kept:
        made.raw("31c0")  # xor eax,eax
        for word in range(call.kept):
            made.store(frame.calls.kept + 8 * word, RAX)
    if run.code:
        made.lea(RAX, frame.calls.kept)
        made.store(frame.hit.kept, RAX)
        _call(made, run, frame, address)
        made.raw("4885c0")  # test rax,rax: EXIT
        begins = made.branch("0f84")
        made.raw("4883f8ff")  # cmp rax,ABORT
        over.append(made.branch("0f84"))
        made.constant(RCX, run.control)
        made.raw("f048ff4128")  # lock inc qword [rcx+CONTROL_MISSED]
        if run.record is not None:
            made.raw("488b09")  # mov rcx,[rcx+CONTROL_HITS]
            made.store(frame.number, RCX)
            _commit(made, run, run.record, frame)
        over.append(made.branch("e9"))
        made.land([begins])
    claim(made, call, frame.calls, run.control)
    made.land(over)


def _call(made: Assembly, run: ProgramRun, frame: TrampolineFrame, address: int) -> None:
    """Call the function of a program; rax becomes what it returns."""
    returns = run.call is not None and run.call.returns
    if RSP in run.reads | run.writes:
        made.lea(RAX, frame.size + 8 * returns)
        made.store(RSP * 8, RAX)
    if RIP in run.reads and returns:
        made.load(RAX, frame.size)
        made.store(RIP * 8, RAX)
    elif RIP in run.reads:
        made.store_constant(RIP * 8, address, RAX)
    _tell(made, run, frame)
    if run.record is not None:
        _make_room(made, run.record, frame)
    if RDI in run.arguments:
        made.lea(RDI, 0)
    if RSI in run.arguments:
        made.constant(RSI, run.data)
    if RDX in run.arguments:
        made.constant(RDX, run.place)
    made.call(run.code)


def _number(made: Assembly, frame: TrampolineFrame) -> None:
    """The hit gets its number, in rcx, too."""
    made.raw("b9 01 00 00 00")  # mov ecx,1
    made.raw("f0 48 0f c1 08")  # lock xadd [rax+CONTROL_HITS],rcx
    made.raw("48 83 c1 01")  # add rcx,1
    made.store(frame.number, RCX)


def _tell(made: Assembly, run: ProgramRun, frame: TrampolineFrame) -> None:
    """What the program asks of the thread and of the moment."""
    hit = frame.hit
    if run.pid:
        made.store_constant(hit.pid, run.pid, RAX)
    if run.tid:
        made.raw("b8 ba000000 0f05")  # mov eax,gettid; syscall
        made.store(hit.tid, RAX)
    if run.cpu:
        _cpu(made)
        made.store(hit.cpu, RAX)
    if run.clock is not None:
        _time(made, run.clock)
        made.store(hit.time, RAX)
    if run.stores:
        made.lea(RAX, frame.size - RED_ZONE)
        made.store(hit.red_zone, RAX)
    if run.scratch:
        made.lea(RAX, frame.scratch(run.record) + 15)
        made.raw("48 83 e0 f0")  # and rax,-16
        made.store(hit.scratch, RAX)


def _cpu(made: Assembly) -> None:
    """eax becomes the number of the CPU, which the kernel tells by the limit of a segment."""
    made.raw("b8 7b000000 0f03c0 25 ff0f0000")  # mov eax,7Bh; lsl eax,eax; and eax,0FFFh


def _time(made: Assembly, clock: Clock) -> None:
    """rax becomes nanoseconds."""
    made.constant(RCX, clock.address)
    made.raw("488b09")  # mov rcx,[rcx]
    made.raw("0f31 48c1e220 4809d0")  # rdtsc; shl rdx,32; or rax,rdx
    made.raw("482b01 48f76110")  # sub rax,[rcx]; mul qword [rcx+16]
    made.raw("480facd020 48034108")  # shrd rax,rdx,32; add rax,[rcx+8]


def _make_room(made: Assembly, record: RecordShape, frame: TrampolineFrame) -> None:
    """Where the program logs to."""
    hit = frame.hit
    if record.raw:
        made.lea(RAX, frame.raw(record))
        made.store(hit.raw, RAX)
    if record.log:
        made.lea(RAX, frame.log)
        made.store(hit.log, RAX)
    if record.alters_numbers:
        made.store_constant(hit.major, record.major, RAX)
        made.store_constant(hit.minor, record.minor, RAX)


def _commit(made: Assembly, run: ProgramRun, record: RecordShape, frame: TrampolineFrame) -> None:
    """Make a record of what the program has logged, in the ring of this CPU; rax is kept.

    It is reserved here, when its size is known, so that there is little between that and its end.
    """
    hit = frame.hit
    made.store(frame.exit, RAX)
    made.raw("4883f8ff")  # cmp rax,ABORT
    ends = [made.branch("0f84")]
    _sizes(made, record, frame)
    # Time and CPU in one: to ask for the CPU alone takes as long again.
    made.raw("0f01f9 48c1e220 4809d0 4989c3")  # rdtscp; shl rdx,32; or rax,rdx; mov r11,rax
    made.raw("81e1 ff0f0000 4189ca 89c8 25")  # and ecx,0FFFh; mov r10d,ecx; mov eax,ecx; and eax,
    made.number(record.rings.count - 1)
    made.raw("4869f0")  # imul rsi,rax,stride
    made.number(record.rings.stride)
    made.constant(RAX, record.rings.address)
    made.raw("4801c6")  # add rsi,rax
    full = _reserve(made, record.rings)
    made.raw("448909")  # mov [rcx+RECORD_SIZE],r9d
    made.raw("4c895130")  # mov [rcx+RECORD_CPU],r10
    made.raw("4c895910")  # mov [rcx+RECORD_TSC],r11
    made.raw("f3480faec0 48894118")  # rdfsbase rax; mov [rcx+RECORD_THREAD],rax
    copied = [(frame.number, RECORD_HIT), (frame.exit, RECORD_EXIT)]
    if record.log:
        copied.append((hit.log_size, RECORD_LOG_SIZE))
    if record.raw:
        copied.append((hit.raw_count, RECORD_RAW_COUNT))
    if record.raises:
        copied += [(hit.exception + at, RECORD_EXCEPTION + at) for at in (0, 8, 16)]
    set_ = [(record.site, RECORD_SITE)]
    if record.alters_numbers:
        copied += [(hit.major, RECORD_MAJOR), (hit.minor, RECORD_MINOR)]
    else:
        set_ += [(record.major, RECORD_MAJOR), (record.minor, RECORD_MINOR)]
    for source, target in copied:
        made.load(RAX, source)
        made.raw("488941")  # mov [rcx+target],rax
        made.bytes.append(target)
    for value, target in set_:
        made.raw("48c741")  # mov qword [rcx+target],value
        made.bytes.append(target)
        made.number(value)
    made.raw("488d5170")  # lea rdx,[rcx+RECORD_DATA]
    if record.raw:
        made.lea(RSI, frame.raw(record))
        _copy(made, "4d85c0", "4983e808")  # test r8,r8; sub r8,8
    if record.log:
        made.lea(RSI, frame.log)
        _copy(made, "4885ff", "4883ef08")  # test rdi,rdi; sub rdi,8
    made.raw("c74104 01000000")  # mov dword [rcx+RECORD_STATE],1
    ends.append(made.branch("e9"))
    made.land([full])
    made.constant(RDX, run.control)
    made.raw("f048ff4220")  # lock inc qword [rdx+CONTROL_LOST]
    made.land(ends)
    made.load(RAX, frame.exit)


def _sizes(made: Assembly, record: RecordShape, frame: TrampolineFrame) -> None:
    """Bytes of the record's parts, each rounded up to words: rdi of the log, r8 of what is raw in
    it, r9 of all."""
    made.raw("31ff 4531c0")  # xor edi,edi; xor r8d,r8d
    if record.log:
        made.load(RDI, frame.hit.log_size)
        made.raw("4883c707 4883e7f8")  # add rdi,7; and rdi,-8
    if record.raw:
        made.load(R8, frame.hit.raw_count)
        made.raw("4e8d048507000000 4983e0f8")  # lea r8,[r8*4+7]; and r8,-8
    made.raw("4e8d4c0770")  # lea r9,[rdi+r8+RECORD_DATA]


def _reserve(made: Assembly, rings: Rings) -> int:
    """rcx becomes the address of r9 bytes in the ring at rsi; the branch taken if it is full."""
    again = len(made)
    made.raw("488b06")  # mov rax,[rsi+RING_HEAD]
    made.raw("4a8d0c08")  # lea rcx,[rax+r9]
    made.raw("4889ca 482b5640")  # mov rdx,rcx; sub rdx,[rsi+RING_TAIL]
    made.raw("4881fa")  # cmp rdx,ring size
    made.number(rings.size)
    full = made.branch("0f87")
    made.raw("f0480fb10e")  # lock cmpxchg [rsi+RING_HEAD],rcx
    made.raw("0f85")
    made.number(again - (len(made) + 4))
    made.raw("25")  # and eax,ring size-1
    made.number(rings.size - 1)
    made.raw("488d8c06")  # lea rcx,[rsi+rax+RING_DATA]
    made.number(RING_DATA)
    return full


def _copy(made: Assembly, test: str, less: str) -> None:
    """Copy words from rsi to rdx, both of which are moved on; ``test`` and ``less`` are of the
    register that has the bytes."""
    made.raw(test)
    none = made.branch("0f84")
    again = len(made)
    made.raw(
        "488b06 488902 4883c608 4883c208"
    )  # mov rax,[rsi]; mov [rdx],rax; add rsi,8; add rdx,8
    made.raw(less)
    made.raw("0f85")
    made.number(again - (len(made) + 4))
    made.land([none])
