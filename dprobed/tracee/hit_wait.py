"""The wait for stops that serves hits: it resumes the thread that hit, too, in the same call."""

from __future__ import annotations

import contextlib
import ctypes
from typing import Final

from dprobed.arch.x86_64 import resume_and_wait
from dprobed.arch.x86_64.resume_and_wait import GO_TO, OPTIONS, REGISTERS, RESUME, STATUS, WORDS
from dprobed.tracee import ptrace
from dprobed.tracee.ptrace import WALL, Block, Gone, Registers


class HitWait:
    """Waits for the next stop of any tracee, and reads the registers where it may be a hit.

    Who serves a hit does not resume the thread but has it resumed with the next wait
    (``words[RESUME]``, ``words[GO_TO]``). Nothing else is done with tracees before that, or before
    ``flush``.
    """

    def __init__(self) -> None:
        #: Those of the latest plain SIGTRAP stop.
        self.registers: Final = Registers()
        block = Block(8 * WORDS)
        #: The request: see ``resume_and_wait``.
        self.words: Final = memoryview(block.data).cast("Q")
        self.words[REGISTERS] = self.registers.address
        self.words[OPTIONS] = WALL
        #: What ``call`` is called with.
        self.request: Final = ctypes.c_void_p(block.address)
        try:
            self.call = resume_and_wait.mapped()
        except OSError:
            self.call = resume_and_wait.one_by_one(self.words)
        self._block: Final = block

    @property
    def status(self) -> int:
        """The wait status of the latest stop."""
        return self.words[STATUS]

    def now(self, options: int) -> int:
        """Wait with these options besides WALL; the thread, 0 or a negative errno."""
        self.words[OPTIONS] = WALL | options
        tid = self.call(self.request)
        self.words[OPTIONS] = WALL
        return tid

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
