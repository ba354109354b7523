"""Blocks that no place fires (``begin``, ``end``, intervals…), run here by the Python executor.

The context of a block is this process: its pid, its name, its clock. A loop's body gets what is
looped over as arguments; texts among them are memory of the context.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from dprobe.lib.script.decode import Act, Decoder
from dprobed.program import bytecode
from dprobed.program.bt import bundle as bt
from dprobed.program.exec.interface import MemoryFault, Outcome, Reader, Registers
from dprobed.program.exec.maps import HeldMap
from dprobed.program.exec.python import PythonExecutor
from dprobed.program.exec.variables import ListVariables
from dprobed.program.exits import BUDGET, EXCEPTION
from dprobed.program.user_stack import StackEnd, UserStack
from dprobed.record.log import decode_log

#: Where the arguments of a body are in its context's memory.
_BASE: Final = 0x1000
_REGISTERS: Final = 27
_FPREGS: Final = 512
#: What is run again and again asks for something each time; so often at most.
_MOST_TURNS: Final = 1_000_000


class BlockContext:
    """What a block sees: this process. ``memory``: what is there from ``_BASE`` on."""

    def __init__(self, comm: bytes, memory: bytearray) -> None:
        self.regs: Registers = [0] * _REGISTERS
        self.fp_dirty = False
        self.arguments: Sequence[Reader] = ()
        self.kept = [0] * 8
        self.comm: Final = comm
        self.pid: Final = os.getpid()
        self.tid: Final = os.getpid()
        self.uid: Final = os.getuid()
        self.gid: Final = os.getgid()
        self.memory: Final = memory
        self._fpregs = bytearray(_FPREGS)

    @property
    def cpu(self) -> int:
        """Which CPU this process was scheduled on when it began; nobody depends on it."""
        return min(os.sched_getaffinity(0))

    def fpregs(self) -> bytearray:
        """See Context."""
        return self._fpregs

    def now(self) -> int:
        """See Context."""
        return time.monotonic_ns()

    def user_stack(self, depth: int) -> UserStack:
        """See Context: there is none."""
        return UserStack(StackEnd.NONE, (), ())

    def read(self, address: int, length: int) -> bytes:
        """See Context."""
        found = self.read_partial(address, length)
        if len(found) < length:
            raise MemoryFault(address + len(found))
        return found

    def read_partial(self, address: int, length: int) -> bytes:
        """See Context."""
        at = address - _BASE
        return bytes(self.memory[at : at + length]) if 0 <= at < len(self.memory) else b""

    def write(self, address: int, data: bytes) -> None:
        """See Context: nothing here is to be written."""
        raise MemoryFault(address)

    def writable(self, address: int) -> bool:
        """See Context."""
        return False


class Blocks:
    """The blocks of a script, which has some.

    ``perform`` does what an action says. ``resolve`` answers what a block asks for (``Fetch``,
    ``Measure``): the number. ``entries``: those of a map, as arguments of a loop's body. ``say`` is
    told of a block that failed.
    """

    def __init__(
        self,
        bundle: bt.Bundle,
        decoder: Decoder,
        *,
        perform: Callable[[Act], None],
        resolve: Callable[[Act], int],
        entries: Callable[[bt.ForEach], Iterable[Sequence[int | bytes]]],
        say: Callable[[str], None],
        comm: bytes = b"bpftrace",
    ) -> None:
        self._bundle: Final = bundle
        self._decoder: Final = decoder
        self._perform: Final = perform
        self._resolve: Final = resolve
        self._entries: Final = entries
        self._say: Final = say
        self._comm: Final = comm
        self._memory = bytearray()
        program = bytecode.decode(bundle.code, "the script's blocks")
        self._executor: Final = PythonExecutor(program, ListVariables(), {})

    @property
    def maps(self) -> dict[str, HeldMap]:
        """Their maps, by name."""
        return {each.definition.name: each for each in self._executor.maps}

    def run(self, block: bt.Block, arguments: Sequence[int | bytes] = ()) -> bool:
        """Run one to its end; whether it broke the loop that it is the body of."""
        if not arguments:
            # What loops were given stays until they have all ended: variables may have it.
            self._memory = bytearray()
            # Blocks have their variables, and where they go on, in the same words.
            self._executor.locals.reset()
        context = BlockContext(self._comm, self._memory)
        _give(context, arguments)
        entry = self._executor.entry(block.probe)
        for _ in range(_MOST_TURNS):
            outcome = entry(context)
            failed = outcome.exit in (EXCEPTION, BUDGET)
            if failed:
                self._say(_failure(block, outcome))
            waits, broke = self._take(outcome)
            if broke or not waits or failed:
                return broke
        self._say(f"{block.name}: it loops without end, and was ended")
        return True

    def _take(self, outcome: Outcome) -> tuple[bool, bool]:
        """Do what a record says; whether the block waits for something, and whether it broke."""
        waits = False
        log = decode_log(outcome.log, outcome.raw)
        comm = self._comm.decode()
        for act in self._decoder.acts(log, os.getpid(), comm):
            match act.action:
                case bt.ForEach():
                    self._loop(act.action)
                    waits = True
                case bt.Fetch() | bt.Measure():
                    word = self._resolve(act) & ((1 << 64) - 1)
                    self._executor.locals.write(act.action.local, [word])
                    waits = True
                case bt.GoOn():
                    waits = True
                case bt.Break():
                    return False, True
                case _:
                    self._perform(act)
        return waits, False

    def _loop(self, action: bt.ForEach) -> None:
        body = self._bundle.blocks[action.body]
        for arguments in self._entries(action):
            if self.run(body, arguments):
                return


def _give(context: BlockContext, arguments: Sequence[int | bytes]) -> None:
    """Make what a body is given its arguments: words, and addresses of everything else."""
    words = []
    for each in arguments:
        if isinstance(each, int):
            words.append(each & ((1 << 64) - 1))
        else:
            words.append(_BASE + len(context.memory))
            context.memory.extend(each)
    context.arguments = [lambda _, word=word: word for word in words]  # type: ignore[misc]


def _failure(block: bt.Block, outcome: Outcome) -> str:
    if outcome.exit == BUDGET:
        return f"{block.name or block.kind}: it did more than a block may do, and was ended"
    code, parm1, _ = outcome.exception or (0, 0, 0)
    return f"{block.name or block.kind}: it was ended by exception {code:#x} ({parm1:#x})"
