"""What a hit has of memory besides its log: the stack in memory, frames, traces, the heap."""

from __future__ import annotations

from typing import Final

from dprobed.program.exec import ir, ir_maps
from dprobed.program.exec.native.depths import touched_words
from dprobed.program.isa import CALL_FRAMES
from dprobed.program.items import FRAME, PREFIX, TRACE
from dprobed.program.maps import MAX_KEY_BYTES, MAX_KEY_ITEMS

#: Fields of a frame, words each; as of ``machine.Frame``.
FRAME_BLOCK, FRAME_CALLED, FRAME_RETURNS, FRAME_HANDLER, FRAME_HANDLER_AT, FRAME_SBP = range(
    0, 48, 8
)
FRAME_SHOWN: Final = {ir.Shown.STACK: 48, ir.Shown.LOCALS: 64, ir.Shown.GLOBALS: 80}
FRAME_BYTES: Final = 96
#: The least of a stack trace, and of a frame in it.
TRACE_LEAST: Final = TRACE.size + PREFIX.size
TRACED_FRAME: Final = FRAME.size + 3 * PREFIX.size
#: A block of the heap: 32 bits each of its handle, offset, size and whether it is allocated.
HEAP_BLOCK: Final = 16

#: A key with what is before each of its items; with strings one byte more than fits of them.
_KEY_BYTES: Final = MAX_KEY_BYTES + 16 * MAX_KEY_ITEMS + 8
_PLAIN_KEY_BYTES: Final = 24 * MAX_KEY_ITEMS

_HEAP: Final = {ir.Allocate, ir.Free, ir.HeapLoad, ir.HeapPush, ir.HeapStore}
_CUTS: Final = {ir.LogLength, ir.LastItem, ir.CutLog}


def _cell_words(function: ir.Function) -> int:
    """The most words of one value or text that are in memory together."""
    ops = [op for block in function.blocks for op in block.ops]
    taken = [len(op.words) for op in ops if isinstance(op, ir_maps.KeyText | ir_maps.StoreCell)]
    given = [len(op.results) for op in ops if isinstance(op, ir_maps.ReadText | ir_maps.LoadCell)]
    return max((*taken, *given), default=0)


class Scratch:
    """The offsets of all of it; what a function does not use takes nothing."""

    def __init__(self, function: ir.Function) -> None:
        self.size = 0
        header = function.header
        uses = {type(op) for block in function.blocks for op in block.ops}
        memory = not function.static
        self.cuts_log: Final = bool(uses & _CUTS)
        self.traces: Final = header.autostacktrace or ir.AppendTrace in uses
        self.heap_limit: Final = function.heap if uses & _HEAP else 0
        self.has_heap: Final = bool(uses & _HEAP)
        heap = self.heap_limit + 7 & ~7
        calls = any(isinstance(block.end, ir.Call) for block in function.blocks)
        frames = CALL_FRAMES + 1 if calls else 1
        self.frames: Final = self._take(FRAME_BYTES * frames if memory else 0)
        #: How many words of the stack in memory are as they were stored.
        self.top: Final = self._take(8 * memory)
        self.level: Final = self._take(8 * memory)
        self.sbp: Final = self._take(8 * memory)
        self.last: Final = self._take(24 * memory)
        self.trace_size: Final = self._take(8 * memory)
        self.trace_count: Final = self._take(8 * memory)
        self.spent: Final = self._take(8 * memory)
        traced = header.ex_logmax if self.traces else 0
        self.trace: Final = self._take(traced)
        self.trace_starts: Final = self._take(8 * (traced // TRACE_LEAST + 1) if traced else 0)
        starts = header.logmax // PREFIX.size + 1
        self.starts: Final = self._take(8 * starts if self.cuts_log else 0)
        plain = _PLAIN_KEY_BYTES if uses & {ir_maps.KeyWord, ir_maps.KeyName} else 0
        strings = uses & {ir_maps.KeyString, ir_maps.KeyText}
        self.key: Final = self._take(_KEY_BYTES if strings else plain)
        self.cell: Final = self._take(8 * _cell_words(function))
        self.heap_left: Final = self._take(8 * self.has_heap)
        self.heap_top: Final = self._take(8 * self.has_heap)
        self.heap_count: Final = self._take(8 * self.has_heap)
        self.heap_handle: Final = self._take(8 * self.has_heap)
        # Twice what may be allocated: as much as is moved together was allocated since.
        self.heap: Final = self._take(2 * heap)
        self.heap_blocks: Final = self._take(2 * heap // 8 * HEAP_BLOCK)
        self.stack: Final = self._take(8 * touched_words(function) if memory else 0)

    def _take(self, size: int) -> int:
        at = self.size
        self.size += size + 7 & ~7
        return at
