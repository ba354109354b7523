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

from collections.abc import Iterable, Sequence
from typing import Final

import msgspec
from iced_x86 import Decoder, FlowControl, InstructionInfoFactory, Register, RegisterExt, RflagsBits

from dprobed.arch.x86_64.paging import PAGE
from dprobed.arch.x86_64.registers import REGISTER_NAMES, RSP

#: The x86-64 ABI lets a function use so much below rsp.
RED_ZONE: Final = 128

#: Registers in the order of their numbers in instructions.
_NUMBERED: Final = (
    "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
    "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15",
)  # fmt: skip
#: Their numbers, by index in ``REGISTER_NAMES``.
_HARDWARE: Final = {REGISTER_NAMES.index(name): n for n, name in enumerate(_NUMBERED)}
#: The same index by iced-x86's number of the register.
_BY_ICED: Final = {
    getattr(Register, name.upper()): REGISTER_NAMES.index(name) for name in _NUMBERED
}
RAX: Final = REGISTER_NAMES.index("rax")
RCX: Final = REGISTER_NAMES.index("rcx")
RDX: Final = REGISTER_NAMES.index("rdx")
R8: Final = REGISTER_NAMES.index("r8")
R9: Final = REGISTER_NAMES.index("r9")
R10: Final = REGISTER_NAMES.index("r10")
R11: Final = REGISTER_NAMES.index("r11")
RDI: Final = REGISTER_NAMES.index("rdi")
RSI: Final = REGISTER_NAMES.index("rsi")
#: In which a function gets its first three arguments.
ARGUMENTS: Final = frozenset((RDI, RSI, RDX))
RIP: Final = REGISTER_NAMES.index("rip")
EFLAGS: Final = REGISTER_NAMES.index("eflags")

#: Bytes of a trampoline at most, but for its programs' parts and the displaced instruction; and of
#: each of those parts.
LONGEST: Final = 448
LONGEST_RUN: Final = 768
#: Instructions that are looked at for whether the flags are read, at most.
_LOOKED_AT: Final = 8
_ARITHMETIC: Final = (
    RflagsBits.OF | RflagsBits.SF | RflagsBits.ZF | RflagsBits.AF | RflagsBits.CF | RflagsBits.PF
)


class Assembly:
    """Machine code in the making, at an address."""

    def __init__(self, address: int) -> None:
        self._address: Final = address
        self.bytes: Final = bytearray()

    def __len__(self) -> int:
        return len(self.bytes)

    @property
    def here(self) -> int:
        """The address behind the last byte so far."""
        return self._address + len(self.bytes)

    def raw(self, text: str) -> None:
        """Bytes in hexadecimal digits."""
        self.bytes.extend(bytes.fromhex(text))

    def store(self, offset: int, register: int) -> None:
        """mov [rsp+offset], register."""
        self._rsp_relative(0x89, offset, _HARDWARE[register])

    def load(self, register: int, offset: int) -> None:
        """mov register, [rsp+offset]."""
        self._rsp_relative(0x8B, offset, _HARDWARE[register])

    def lea(self, register: int, offset: int) -> None:
        """lea register, [rsp+offset]."""
        self._rsp_relative(0x8D, offset, _HARDWARE[register])

    def _rsp_relative(self, opcode: int, offset: int, number: int) -> None:
        rex = 0x48 | (number >> 3) << 2
        self.bytes.extend((rex, opcode, 0x84 | (number & 7) << 3, 0x24))
        self.bytes.extend(offset.to_bytes(4, "little", signed=True))

    def constant(self, register: int, value: int) -> None:
        """movabs register, value."""
        number = _HARDWARE[register]
        self.bytes.extend((0x48 | number >> 3, 0xB8 | number & 7))
        self.bytes.extend(value.to_bytes(8, "little"))

    def store_constant(self, offset: int, value: int, by: int) -> None:
        """[rsp+offset] becomes ``value``, through a register that may be clobbered."""
        self.constant(by, value)
        self.store(offset, by)

    def call(self, target: int) -> None:
        """call rel32; raises OverflowError out of reach."""
        self.bytes.append(0xE8)
        self.bytes.extend((target - (self.here + 4)).to_bytes(4, "little", signed=True))

    def number(self, value: int) -> None:
        """Four bytes of the instruction that was begun."""
        self.bytes.extend(value.to_bytes(4, "little", signed=True))

    def branch(self, opcode: str) -> int:
        """A conditional jump rel32, whose target is not known yet; to be given to ``land``."""
        self.raw(opcode)
        self.bytes.extend(bytes(4))
        return len(self.bytes)

    def land(self, branches: Iterable[int]) -> None:
        """These branches lead to here."""
        for end in branches:
            self.bytes[end - 4 : end] = (len(self.bytes) - end).to_bytes(4, "little")


def mentioned(code: bytes) -> frozenset[int]:
    """The general registers that any instruction of a piece of code uses, whole or in part."""
    factory = InstructionInfoFactory()
    names = set()
    for instruction in Decoder(64, code):
        for used in factory.info(instruction).used_registers():
            if RegisterExt.is_gpr(used.register):
                names.add(RegisterExt.full_register(used.register))
    return frozenset(_BY_ICED[register] for register in names)


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
#: never to run again; records that were lost.
CONTROL_HITS: Final = 0
CONTROL_PASSED: Final = 8
CONTROL_LAST: Final = 16
CONTROL_OVER: Final = 24
CONTROL_LOST: Final = 32
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
    """Where fields are in a ``struct hit``, whose first words are the registers."""

    tid: int
    pid: int
    cpu: int
    time: int
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
    def log(self) -> int:
        """Where the log is; what is raw in it, and the program's own room, come behind."""
        return self.hit.size + 24

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
    if any(run.counted or run.record or run.ends or run.tid or run.clock for run in runs):
        used |= {RCX, RDX}
    if any(run.tid for run in runs):
        used |= {R11}
    if any(run.record for run in runs):
        used |= {R8, R9, R10, R11, RSI, RDI}
    read = nothing.union(*(run.reads for run in runs))
    written = nothing.union(*(run.writes for run in runs))
    kept = sorted((used | read | written) & _HARDWARE.keys() - {RSP})
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
    if RSP in read | written:
        made.lea(RAX, frame.size)
        made.store(RSP * 8, RAX)
    if RIP in read:
        made.store_constant(RIP * 8, address, RAX)
    for run in runs:
        _run(made, run, frame)
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


def _run(made: Assembly, run: ProgramRun, frame: TrampolineFrame) -> None:
    skip = []
    made.constant(RAX, run.control)
    made.raw("80 78 18 00")  # cmp byte [rax+CONTROL_OVER],0
    skip.append(made.branch("0f85"))
    if run.counted or run.record:
        _number(made, frame)
    else:
        made.raw("f0 48 ff 00")  # lock inc qword [rax]
    if run.counted:
        made.raw("48 3b 48 08")  # cmp rcx,[rax+CONTROL_PASSED]
        skip.append(made.branch("0f86"))  # jbe
        made.raw("48 3b 48 10")  # cmp rcx,[rax+CONTROL_LAST]
        skip.append(made.branch("0f87"))  # ja
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
    if run.record is not None:
        _commit(made, run, run.record, frame)
    if run.ends:
        made.raw("48 83 f8 fe")  # cmp rax,REM
        skip.append(made.branch("0f85"))
        made.constant(RCX, run.control)
        made.raw("c6 41 18 01")  # mov byte [rcx+CONTROL_OVER],1
    made.land(skip)


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
