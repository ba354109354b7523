"""The contract between native programs and whoever places them in a target.

The code of one part of a probe is a *blob*: position-independent, without relocations, calls
nothing outside of itself, and begins with a System V function::

    int64_t run(struct hit *hit, struct data *data, const struct place *place)   // rdi, rsi, rdx

It preserves rbx, rbp and r12 to r15, touches no vector, x87 or segment register, leaves the
direction flag clear, and takes ``Blob.stack_bytes`` of the stack that it is called on, its return
address included (below ``rsp`` as it is on entry; nothing below ``rsp`` is kept for it, so that it
can be called only where the red zone of the thread was skipped). It holds no lock: it may be
interrupted, left for ever by ``siglongjmp``, or die with its thread, and others go on.

All fields are words of 64 bits. ``hit`` is of one hit, best on the stack of the thread: the page
that holds its last word counts as checked memory, see below. Who calls fills in only what
``Blob.needs`` and ``Blob.reads`` ask for, and the fields marked "in"; the others may be anything.

=============== ====== ================================================================
``Hit``
=============== ====== ================================================================
REGS            in/out 27 words in the order of ``USER_REGS``; ``Blob.writes`` were altered
TIME            in     monotonic nanoseconds (``Needs.TIME``)
TID PID         in     as the record has them (``Needs.TID`` …); a fork child's are its own
CPU             in     (``Needs.CPU``)
FXSAVE          in     address of the 512 bytes of FXSAVE64, altered in place (``Needs.FXSAVE``)
KEPT            in     address of ``KEPT_WORDS`` words, zeros before the entry part ran
                       (``Needs.KEPT``)
SCRATCH         in     address of ``Blob.scratch_bytes``, this hit's alone; 16-byte aligned, what is
                       in it does not matter (``Blob.scratch_bytes`` not 0)
LOG             in     address where the log goes: ``Blob.log_bytes`` (not 0: they may all be
                       written, also behind the log that is left)
LOG_SIZE        out    bytes of log (``Blob.log_bytes`` not 0)
RAW             in     address of ``Blob.raw_pairs`` pairs of 16-bit numbers (not 0)
RAW_COUNT       out    pairs: byte offset in the log, number of words (``Blob.raw_pairs`` not 0)
MAJOR MINOR     in/out of the record (``Needs.NUMBERS``; else they are neither read nor written)
EXCEPTION       out    code, parm1, parm2: where ``run`` returned ``EXCEPTION``
                       (``Needs.EXCEPTION``: it can)
FLAGS           out    ``Flags`` (``Needs.FLAGS``)
RED_ZONE        in     where what is the thread's own begins: its ``rsp`` - 128; 0: ``hit`` is not
                       on its stack (``Needs.STORES``). What a program writes from 16 KiB below
                       ``hit`` up to here is dropped: that is ours now, and was nobody's before
=============== ====== ================================================================

``run`` returns what ``Outcome.exit`` says. There is no log where it returns ``ABORT``.

``data`` is of a program in one target, in memory that it shares with whoever reads it. Its
addresses are those in the target.

=============== =======================================================================
``Data``
=============== =======================================================================
GLOBALS         address of the global variables of the target
GLOBAL_COUNT    how many there are, ``Header.gvars`` at least; it only grows
GONE            address of bytes, one for each of ``Blob.facilities``: not 0, it is gone
DIRECT_LOW      from here to before DIRECT_HIGH memory is mapped and can be read for as
DIRECT_HIGH     long as a probe may run (data of the probed module): read without a check
MAPS            address of the maps (``Needs.MAPS``), see ``maps``
LOCALS          the local variables, ``Header.vars`` words; behind them the values of
                symbols, one for each of ``Program.names``
=============== =======================================================================

``place`` is constant, of one attachment:

=============== =======================================================================
``Place``
=============== =======================================================================
CODE_BASE       what is added to the code offsets of the blob: ``unit.UnitPart.base``
ARGUMENTS       of a static probe, two words each, see ``argument_words``; the registers that
                they name are read as well
=============== =======================================================================

**Variables.** A word of a variable is read and written whole; `inc` and `dec` add in one piece
(`lock`), so that none is lost under any number of threads. What several instructions do is not one
piece, as it is where a tracer runs the program, with hits one after the other.

**Memory** is read and written by ``process_vm_readv`` and ``process_vm_writev`` on the thread
itself: the kernel copies, or says that it cannot. So an access never faults, whatever other threads
map, unmap or protect before, meanwhile or after. It takes 1.0 µs, with the `gettid` before it (a
child of `fork` has another). (A check of the page before by ``rt_sigprocmask`` takes 0.12 µs, but
what is unmapped between the check and the read would end the target.) Without a system call are
read: the page of ``hit`` (above), whose loss would have faulted on the way here, and DIRECT.

**System calls** may be made where ``needs`` has one of ``SYSTEM_CALLS``: not in a target with a
filter of them, nor in one that may give itself one (seccomp) while the probe is there, which would
end it at the next hit. ``MEMORY``: those above. ``COMM``: the thread's name is asked of the kernel
(``prctl``). ``UID``, ``GID``: so are these, as they are in the user namespace of the target.
"""

from __future__ import annotations

from enum import IntEnum, IntFlag
from typing import Final

import msgspec

from dprobed.program.registers import USER_REGS

#: Goes up with every change of what is said here, and of what blobs do.
ABI: Final = 2

WORD: Final = 8


class Hit(IntEnum):
    """Offsets in ``struct hit``."""

    REGS = 0
    TIME = WORD * len(USER_REGS)
    TID = TIME + 8
    PID = TID + 8
    CPU = PID + 8
    FXSAVE = CPU + 8
    KEPT = FXSAVE + 8
    SCRATCH = KEPT + 8
    LOG = SCRATCH + 8
    LOG_SIZE = LOG + 8
    RAW = LOG_SIZE + 8
    RAW_COUNT = RAW + 8
    MAJOR = RAW_COUNT + 8
    MINOR = MAJOR + 8
    EXCEPTION = MINOR + 8
    FLAGS = EXCEPTION + 24
    RED_ZONE = FLAGS + 8


HIT_BYTES: Final = Hit.RED_ZONE + WORD


class Data(IntEnum):
    """Offsets in ``struct data``."""

    GLOBALS = 0
    GLOBAL_COUNT = 8
    GONE = 16
    DIRECT_LOW = 24
    DIRECT_HIGH = 32
    MAPS = 40
    LOCALS = 64


class Place(IntEnum):
    """Offsets in ``struct place``."""

    CODE_BASE = 0
    ARGUMENTS = 8


class Flags(IntFlag):
    """``Hit.FLAGS``: hold the thread; resume all that are held; the FXSAVE image was altered."""

    SUSPEND = 1
    RESUME = 2
    FP_DIRTY = 4


class Needs(IntFlag):
    """What a blob asks of who calls it, see above."""

    TIME = 1
    TID = 2
    PID = 4
    UID = 8
    GID = 16
    CPU = 32
    COMM = 64
    FXSAVE = 128
    KEPT = 256
    NUMBERS = 512
    FLAGS = 1024
    MEMORY = 2048
    MAPS = 4096
    EXCEPTION = 8192
    STORES = 16384


#: What is asked of the kernel.
SYSTEM_CALLS: Final = Needs.MEMORY | Needs.COMM | Needs.UID | Needs.GID


class Blob(msgspec.Struct, frozen=True):
    """The machine code of one part of a probe.

    ``reads``, ``writes``: masks of registers, bit n is that of ``USER_REGS[n]``; what is written is
    among what is read, since it need not be written on every path. ``clobbers``: of
    these, those that ``run`` leaves with another value in the processor; the flags always.
    ``stack_bytes``, ``scratch_bytes``, ``log_bytes``, ``raw_pairs``, ``facilities``, ``needs``: see
    above. ``adds``: local variables are only counted up and down. Where that holds for all blobs of
    a program, each CPU may have a ``data`` of its own, in which nobody waits for another's line of
    the cache: a variable is then the sum of all.
    """

    code: bytes
    reads: int
    writes: int
    clobbers: int
    needs: int
    stack_bytes: int
    scratch_bytes: int
    log_bytes: int
    raw_pairs: int
    facilities: tuple[int, ...] = ()
    abi: int = ABI
    adds: bool = False


class ArgumentKind(IntEnum):
    """Where an argument of a static probe is."""

    CONSTANT = 0
    REGISTER = 1
    SSE = 2
    MEMORY = 3


#: In place of a register of an argument.
NO_REGISTER: Final = 0xFF


def argument_words(
    kind: ArgumentKind,
    size: int,
    signed: bool,
    value: int,
    base: int = NO_REGISTER,
    scaled: int = NO_REGISTER,
    scale: int = 1,
) -> tuple[int, int]:
    """An argument of a static probe as it stands in ``struct place``.

    ``base``, ``scaled``: by their index in ``USER_REGS``, or the number of an SSE register;
    ``value``: of a constant; of a register by how many bits it is shifted; of memory what is added.
    """
    word = kind | size << 8 | int(signed) << 16 | scale << 24 | base << 32 | scaled << 40
    return word, value & ((1 << 64) - 1)
