"""The wait for stops that serves hits: it resumes the thread that hit, too, in the same call."""

from __future__ import annotations

import contextlib
import os
from typing import Final

from dprobed.arch.x86_64 import resume_and_wait
from dprobed.arch.x86_64.resume_and_wait import (
    GO_TO,
    OPTIONS,
    REGISTERS,
    RESUME,
    STATUS,
    TAKEN,
    WAIT_FOR,
    WORDS,
)
from dprobed.tracee import ptrace
from dprobed.tracee.ptrace import WALL, FixedBuffer, Gone, Registers

#: A plain SIGTRAP stop is looked at, and not taken. Stops of tracees are told of without WSTOPPED,
#: and nobody else is to be told of: a stopped child of ours that is no tracee would be found each
#: time, before all tracees, and could not be taken.
_LOOK: Final = WALL | os.WEXITED | os.WNOWAIT


class HitWait:
    """Waits for the next stop of any tracee, and reads the registers where it may be a hit.

    Such a stop, whose status is TRAP_STATUS, is not taken from the kernel (``resume_and_wait`` has
    the reason): it comes again until the thread is resumed, or the stop is taken.

    Who serves a hit does not resume the thread but has it resumed with the next wait
    (``words[RESUME]``, ``words[GO_TO]``). Nothing else is done with tracees before that, or before
    ``flush``.
    """

    def __init__(self) -> None:
        #: Those of the latest plain SIGTRAP stop.
        self.registers: Final = Registers()
        block = FixedBuffer(8 * WORDS)
        #: The request: see ``resume_and_wait``.
        self.words: Final = memoryview(block.data).cast("Q")
        self.words[REGISTERS] = self.registers.address
        self.words[OPTIONS] = _LOOK
        #: Carries it out; what it returns, ``resume_and_wait`` says.
        try:
            self.call = resume_and_wait.mapped(block.address)
        except OSError:
            self.call = resume_and_wait.one_by_one(self.words)
        self._block: Final = block

    @property
    def status(self) -> int:
        """The wait status of the latest stop."""
        return self.words[STATUS]

    def next(self, options: int = 0, tid: int = 0) -> int:
        """Wait for any thread, or this one, with these options more.

        Returns the thread, 0 or a negative errno. A plain SIGTRAP stop comes again; any other, and
        an end, is taken by this, and its ``status`` is to be reacted to.
        """
        words = self.words
        words[OPTIONS], words[WAIT_FOR] = _LOOK | options, tid
        found = self.call()
        words[OPTIONS], words[WAIT_FOR] = _LOOK, 0
        return found & ~TAKEN if found > 0 else found

    def poll(self) -> int:
        """``call``, without waiting."""
        words = self.words
        words[OPTIONS] = _LOOK | os.WNOHANG
        found = self.call()
        words[OPTIONS] = _LOOK
        return found

    def flush(self) -> None:
        """Resume the thread of the latest hit, if that is yet to be done."""
        words = self.words
        tid = words[RESUME]
        if tid:
            words[RESUME] = 0
            with contextlib.suppress(Gone):
                if words[GO_TO]:
                    ptrace.go_to(tid, words[GO_TO])
                ptrace.cont(tid)
