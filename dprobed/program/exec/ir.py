"""The intermediate representation of one probe's code, which every executor prints or walks.

``lower`` makes a ``Function`` of a probe's bytecode, each instruction once; whoever runs it starts
from that: Python source is made of it, an interpreter can walk it, native code can be printed from
it. It is typed: every value is a word of 64 bits, unsigned; what is no word (an item of the log, a
heap block) never leaves an operation.

Blocks are basic blocks: straight runs of operations, and an ``end`` that says where it goes on.
Within a block a value is a ``Temp``, which is assigned once. The program's stack is

- gone, where its depth is one number on every path to each block (``Function.static``): its words
  are ``Slot`` variables between blocks, and an exception that is raised ends the program, or
- in memory: a circular stack of ``STACK_WORDS`` words with ``Depth`` of them on it, a call stack of
  frames and the trace of exceptions. An operation that can fail has a ``Raise``, which first brings
  the stack up to date; the way on is then that of the handler, if there is one.

Operations that cannot do what they shall raise before they have done anything of it.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import TypeAlias

import msgspec

from dprobed.program.exec.ir_maps import MapOp
from dprobed.program.exec.ir_values import CodeOffset as CodeOffset
from dprobed.program.exec.ir_values import Depth as Depth
from dprobed.program.exec.ir_values import Raise as Raise
from dprobed.program.exec.ir_values import Slot as Slot
from dprobed.program.exec.ir_values import Temp as Temp
from dprobed.program.exec.ir_values import TopWords as TopWords
from dprobed.program.exec.ir_values import Word as Word
from dprobed.program.exec.ir_values import Words as Words
from dprobed.program.model import Header

# -- words ------------------------------------------------------------------------------------


class WordOp(Enum):
    """Operations on two words, modulo 2**64. Bits are counted from 1, the least significant."""

    ADD = auto()
    SUB = auto()
    MUL = auto()
    AND = auto()
    OR = auto()
    XOR = auto()
    ROL = auto()  # by less than 64
    ROR = auto()
    SHL = auto()  # 64 and more give 0
    SHR = auto()
    COPY_LEFT = auto()  # bit n to all bits left of it
    COPY_RIGHT = auto()
    ZERO_LEFT = auto()  # the bits left of bit n
    ZERO_RIGHT = auto()


class Compute(msgspec.Struct):
    """``result`` = ``left`` ``op`` ``right``."""

    result: Temp
    op: WordOp
    left: Word
    right: Word


class Divide(msgspec.Struct):
    """Quotient, rounded to 0, and remainder; ``divisor`` is not 0."""

    quotient: Temp
    remainder: Temp
    dividend: Word
    divisor: Word
    signed: bool


class Guard(msgspec.Struct):
    """Raise unless ``low`` <= ``word`` <= ``high``, unsigned; None is no bound."""

    word: Word
    low: int | None
    high: Word | None
    fault: Raise


class Fail(msgspec.Struct):
    """Raise in any case."""

    fault: Raise


# -- the thread -------------------------------------------------------------------------------


class Fact(Enum):
    """A number that the context knows of the thread or of the moment."""

    TID = auto()
    PID = auto()
    UID = auto()
    GID = auto()
    CPU = auto()
    NOW = auto()


class ReadFact(msgspec.Struct):
    """What the context says."""

    result: Temp
    fact: Fact


class ReadName(msgspec.Struct):
    """The thread's name in two words, the first eight bytes in ``low``."""

    low: Temp
    high: Temp


class ReadRegister(msgspec.Struct):
    """The bits in ``mask`` of a register, which is given by its index in ``USER_REGS``."""

    result: Temp
    index: int
    mask: int


class WriteRegister(msgspec.Struct):
    """A register becomes the bits of ``word`` that are in ``mask``."""

    index: int
    word: Word
    mask: int


class ReadFxsave(msgspec.Struct):
    """A number of ``size`` bytes at ``offset`` in the thread's FXSAVE image."""

    result: Temp
    offset: int
    size: int


class WriteFxsave(msgspec.Struct):
    """Put the low ``size`` bytes of ``word`` there; of ``mxcsr`` only bits that the CPU has."""

    offset: int
    size: int
    word: Word
    mxcsr: bool


class Load(msgspec.Struct):
    """A number of ``width`` bytes of the target's memory."""

    result: Temp
    address: Word
    width: int
    fault: Raise


class Store(msgspec.Struct):
    """``word`` fits into ``width`` bytes."""

    address: Word
    word: Word
    width: int
    fault: Raise


class CheckAccess(msgspec.Struct):
    """0 if the byte at ``address`` can be read (and, with ``write``, written), else 1."""

    result: Temp
    address: Word
    write: bool


# -- variables --------------------------------------------------------------------------------


class Space(Enum):
    """Whose variables: the program's, or the target's."""

    LOCAL = auto()
    GLOBAL = auto()


class ReadVariable(msgspec.Struct):
    """``index`` is in range."""

    result: Temp
    space: Space
    index: Word


class WriteVariable(msgspec.Struct):
    """``index`` is in range."""

    space: Space
    index: Word
    word: Word


class AddToVariable(msgspec.Struct):
    """``index`` is in range; ``number`` may be negative."""

    space: Space
    index: Word
    number: int


class GuardRun(msgspec.Struct):
    """Raise unless ``count`` variables from ``index`` on are below ``size``; ``bad``: the first."""

    bad: Temp
    index: Word
    count: Word
    size: int
    fault: Raise


# -- the log and the outcome ------------------------------------------------------------------


class ReadArgument(msgspec.Struct):
    """An argument of the static probe that was hit, where its place has it.

    ``address``: gets the one that cannot be read, for ``fault``.
    """

    result: Temp
    index: int
    address: Temp
    fault: Raise


class ReadKept(msgspec.Struct):
    """A word that the entry part of this call's probe has left; 0 where it has left none."""

    result: Temp
    index: int


class WriteKept(msgspec.Struct):
    """Leave a word for the return part."""

    index: int
    word: Word


class ReadSymbol(msgspec.Struct):
    """The value of a symbol, by its index in the program's names: an address, or of a
    thread-local variable what to add to the thread pointer."""

    result: Temp
    index: int


class LogWords(msgspec.Struct):
    """Append words without prefix. ``overflow``: raised where they do not fit; None: go on."""

    words: Words
    overflow: Raise | None


class LogStack(msgspec.Struct):
    """Append an item of the ``count`` words above the depth (those just dropped)."""

    count: Word
    overflow: Raise | None


class LogVariables(msgspec.Struct):
    """Append an item of variables; they are in range."""

    space: Space
    index: Word
    count: Word
    overflow: Raise | None


class LogValue(msgspec.Struct):
    """Append an item of a word, with what stands ``before`` and ``behind`` it."""

    before: bytes
    word: Word
    behind: bytes
    overflow: Raise | None


class LogMemory(msgspec.Struct):
    """Append an item of memory, or of a ``string`` in it, as far as it can be read.

    ``bad``: the address that could not be read, which is a ``fault`` after what was logged.
    """

    bad: Temp
    string: bool
    address: Word
    length: Word
    overflow: Raise | None
    fault: Raise


class LogUserStack(msgspec.Struct):
    """Append an item of the thread's stack, ``depth`` frames of it at most."""

    depth: int
    overflow: Raise | None


class LogLength(msgspec.Struct):
    """The bytes of the log now."""

    result: Temp


class LastItem(msgspec.Struct):
    """Where the last item of the log begins, 0 if there is none."""

    result: Temp


class CutLog(msgspec.Struct):
    """Keep the items within ``length`` bytes."""

    length: Word


class SetNumber(msgspec.Struct):
    """The record's major number, or its minor one; ``word`` fits into 16 bits."""

    major: bool
    word: Word


class Suspend(msgspec.Struct):
    """The outcome says to hold the thread."""


class Resume(msgspec.Struct):
    """The outcome says to resume every thread that is held."""


class Charge(msgspec.Struct):
    """Take ``word`` (``at_most`` at most), divided by 2**``shift``, off the instruction budget."""

    word: Word
    at_most: int | None
    shift: int


# -- the stack in memory ----------------------------------------------------------------------


class Base(Enum):
    """What a stack position is relative to: the depth, or the base of the frame."""

    DEPTH = auto()
    FRAME = auto()


class StackLoad(msgspec.Struct):
    """The stack word at ``base`` + ``plus`` + ``index``, modulo the size of the stack."""

    result: Temp
    base: Base
    plus: int
    index: Word | None = None


class StackStore(msgspec.Struct):
    """As ``StackLoad``, the other way."""

    word: Word
    base: Base
    plus: int
    index: Word | None = None


class MoveDepth(msgspec.Struct):
    """Add a number to the depth."""

    words: int


class DropWords(msgspec.Struct):
    """Take ``count`` off the depth, modulo the size of the stack where it falls below 0."""

    count: Word


class SetDepth(msgspec.Struct):
    """The depth becomes ``word``, modulo the size of the stack."""

    word: Word


class PushCopies(msgspec.Struct):
    """Push ``count`` copies of ``word``."""

    count: Word
    word: Word


class ReadFrameBase(msgspec.Struct):
    """SBP, modulo the size of the stack."""

    result: Temp


class SetFrameBase(msgspec.Struct):
    """SBP becomes ``word``, modulo the size of the stack."""

    word: Word


class MoveSlots(msgspec.Struct):
    """Assign words to slots of a static stack, all at once."""

    slots: tuple[Slot, ...]
    words: tuple[Word, ...]


# -- exceptions -------------------------------------------------------------------------------


class SetHandler(msgspec.Struct):
    """The frame's next exception goes to a block, which is at a code offset."""

    block: int
    at: CodeOffset


class ClearHandler(msgspec.Struct):
    """The frame has no handler any more."""


class LastException(msgspec.Struct):
    """The last exception of the hit, or zeros."""

    code: Temp
    parm1: Temp
    parm2: Temp


class Shown(Enum):
    """What the traces of a frame can show a range of."""

    STACK = auto()
    LOCALS = auto()
    GLOBALS = auto()


class ShowInTraces(msgspec.Struct):
    """Traces show these of the frame."""

    shown: Shown
    first: Word
    count: Word


class AppendTrace(msgspec.Struct):
    """Append a stack trace to the exception trace, and charge what it takes."""


class TraceLength(msgspec.Struct):
    """The bytes of the exception trace now."""

    result: Temp


class CutTrace(msgspec.Struct):
    """Keep the traces within ``length`` bytes."""

    length: Word


# -- the heap ---------------------------------------------------------------------------------


class Allocate(msgspec.Struct):
    """The handle of a new block of zeros."""

    result: Temp
    size: Word
    fault: Raise


class Free(msgspec.Struct):
    """Give a block back."""

    handle: Word
    fault: Raise


class HeapPlace(msgspec.Struct):
    """``count`` numbers of ``width`` bytes in a heap block, and what is raised where it is none."""

    handle: Word
    offset: Word
    width: int
    count: int
    no_block: Raise
    outside: Raise


class HeapLoad(msgspec.Struct):
    """Load the numbers at a place, one for each result."""

    results: tuple[Temp, ...]
    place: HeapPlace


class HeapPush(msgspec.Struct):
    """Push the numbers at a place on the stack in memory; the first becomes TOS."""

    place: HeapPlace


class HeapStore(msgspec.Struct):
    """Store the low bytes of each word to a place."""

    words: Words
    place: HeapPlace


# -- control ----------------------------------------------------------------------------------


class CountJump(msgspec.Struct):
    """Take one off the jumps that are left to the hit, or raise."""

    fault: Raise


class GuardFacility(msgspec.Struct):
    """Raise if the facility with this number is gone."""

    number: int
    fault: Raise


class Jump(msgspec.Struct):
    """Go on at a block."""

    block: int


class Test(Enum):
    """What a word, signed, is compared with 0 for."""

    LT = auto()
    LE = auto()
    GT = auto()
    GE = auto()
    EQ = auto()
    NE = auto()


class Branch(msgspec.Struct):
    """Go on at ``block``, ``counted`` as a jump, or else at ``otherwise``."""

    test: Test
    word: Word
    counted: CountJump | None
    block: int
    otherwise: int


class Call(msgspec.Struct):
    """Begin a frame: SBP is the depth, and `ret` goes on at block ``back``.

    ``called`` and ``returns`` are the code offsets of both.
    """

    block: int
    called: CodeOffset
    back: int
    returns: CodeOffset
    fault: Raise


class Return(msgspec.Struct):
    """End the frame."""

    fault: Raise


class End(msgspec.Struct):
    """End the program; ``logged`` false drops what it logged."""

    exit: int
    logged: bool = True


Op: TypeAlias = (
    Compute | Divide | Guard | Fail
    | ReadFact | ReadName | ReadRegister | WriteRegister | ReadFxsave | WriteFxsave
    | Load | Store | CheckAccess
    | ReadVariable | WriteVariable | AddToVariable | GuardRun
    | MapOp
    | ReadArgument | ReadKept | WriteKept
    | ReadSymbol
    | LogWords | LogValue | LogStack | LogVariables | LogMemory | LogUserStack
    | LogLength | LastItem | CutLog
    | SetNumber | Suspend | Resume | Charge
    | StackLoad | StackStore | MoveDepth | DropWords | SetDepth | PushCopies
    | ReadFrameBase | SetFrameBase | MoveSlots
    | SetHandler | ClearHandler | LastException | ShowInTraces | AppendTrace | TraceLength
    | CutTrace
    | Allocate | Free | HeapLoad | HeapPush | HeapStore
    | CountJump | GuardFacility
)  # fmt: skip

Ending: TypeAlias = Jump | Branch | Call | Return | End


class Block(msgspec.Struct):
    """A basic block. ``cost``: what it takes of the instruction budget before it begins."""

    cost: int
    ops: tuple[Op, ...]
    end: Ending


class Function(msgspec.Struct, frozen=True):
    """One probe's code; it begins at block 0.

    ``offsets``: the code offsets that it names, the one of the probe's first instruction first.
    ``acyclic``: no block can run twice in one hit. ``budget``: the instruction budget, None where
    it cannot be used up; ``counts_jumps``: whether jmpmax can be reached.
    """

    header: Header
    ex_mask: int
    heap: int
    blocks: tuple[Block, ...]
    offsets: tuple[int, ...]
    static: bool
    acyclic: bool
    budget: int | None
    counts_jumps: bool
