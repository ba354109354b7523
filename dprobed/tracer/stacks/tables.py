"""How callers are found, as the resolver says it for blocks of code around an address.

Shared by all targets of a tracer: a file has the same rules in each process. Asked at a hit, when
the first stack leads through a block (some 5 ms of the resolver's); the thread waits for it, and
nothing else is served meanwhile: another hit would take the registers of this one. So it is waited
for a moment only, and a file about which there was no answer is left alone for a while.
"""

from __future__ import annotations

import socket
import time
from bisect import bisect_right
from collections.abc import Hashable
from typing import Final

from dprobed.proc.maps import Module
from dprobed.resolver.client import MappedFile, Resolver, wait_for
from dprobed.resolver.errors import LocationError
from dprobed.wire import resolver as wire
from dprobed.wire.resolver import NO_RULE, FileFacts, Rule

#: Seconds that an answer is waited for at a hit, and that nothing is asked after one did not come.
_PATIENCE: Final = 0.5
_REST: Final = 10.0
#: About how many bytes of blocks are remembered, and what one takes besides its rows.
_MOST: Final = 64 << 20
_OVERHEAD: Final = 4096


def briefly(channel: socket.socket, seconds: float) -> bool:
    """Wait for an answer as long as a hit may wait."""
    return wait_for(channel, min(seconds, _PATIENCE))


class _Block:
    """A checked answer, ready to be searched."""

    __slots__ = ("addresses", "end", "rules", "size", "start", "table")

    def __init__(self, answer: wire.UnwindBlock) -> None:
        self.start = answer.start
        self.end = answer.end
        self.addresses = memoryview(answer.addresses).cast("I")
        self.rules = memoryview(answer.rules).cast("H")
        self.table = answer.table
        self.size = _OVERHEAD + len(answer.addresses) + len(answer.rules) + 400 * len(self.table)

    def rule(self, vaddr: int) -> Rule | None:
        index = bisect_right(self.addresses, vaddr - self.start) - 1
        if index < 0 or self.rules[index] == NO_RULE:
            return None
        return self.table[self.rules[index]]


class Tables:
    """The blocks that are known, by the file that they are of."""

    def __init__(self, mailbox: socket.socket) -> None:
        # Not the tracer's: that serves other hits while it waits.
        self._resolver: Final = Resolver(mailbox, briefly)
        self._blocks: dict[Hashable, list[_Block]] = {}
        self._size = 0
        #: Until when nothing is asked about a file.
        self._resting: dict[Hashable, float] = {}

    def describe(self, module: Module) -> MappedFile | None:
        """The file that a module is; None where that is not known now."""
        key = module.key, module.path
        if time.monotonic() < self._resting.get(key, 0.0):
            return None
        try:
            return self._resolver.describe(module)
        except LocationError:
            self._rest(key)
            return None

    def facts(self, descriptor: int, path: str) -> FileFacts | None:
        """The facts about a file that is no module's."""
        try:
            return self._resolver.facts_of(descriptor, path)
        except LocationError:
            return None

    def rule(self, key: Hashable, file: MappedFile | int, vaddr: int) -> Rule | None:
        """The rule for an address of a file; None: the file has none there.

        ``key`` identifies the file. Raises LocationError where there is no answer.
        """
        blocks = self._blocks.get(key)
        if blocks is not None:
            index = bisect_right(blocks, vaddr, key=lambda block: block.start) - 1
            if index >= 0 and vaddr < blocks[index].end:
                return blocks[index].rule(vaddr)
        block = self._ask(key, file, vaddr)
        if self._size + block.size > _MOST:
            self._blocks.clear()
            self._size = 0
        blocks = self._blocks.setdefault(key, [])
        blocks.insert(bisect_right(blocks, block.start, key=lambda each: each.start), block)
        self._size += block.size
        return block.rule(vaddr)

    def _ask(self, key: Hashable, file: MappedFile | int, vaddr: int) -> _Block:
        if time.monotonic() < self._resting.get(key, 0.0):
            raise LocationError("it was asked about in vain a short time ago")
        try:
            return _Block(self._resolver.unwinding(file, vaddr))
        except LocationError:
            self._rest(key)
            raise

    def _rest(self, key: Hashable) -> None:
        if len(self._resting) > 1024:
            self._resting.clear()
        self._resting[key] = time.monotonic() + _REST
