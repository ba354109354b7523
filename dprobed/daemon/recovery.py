"""After a tracer was killed: what it had in processes is taken out of them.

Without its tracer a process dies of the next breakpoint that it runs into, and whatever it forks of
the same. Nothing is known here of what the tracer had written where, and nothing need be: code is
as in the file that is mapped. Where a page of it was written to (the kernel has made a copy, which
``pagemap`` shows) and has a breakpoint that is not in the file, the file's byte is put back.

Debug registers only a tracer can write to, so for watchpoints another one comes and goes.

What is left over: a thread that the tracer had stopped at a breakpoint goes on behind it, in the
middle of an instruction; one that runs into a breakpoint or a watchpoint before we get here dies.
The slots stay mapped, because threads may be in them.
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Iterator
from typing import Final

from dprobed.backend import BackendGone, BackendRefused, Backends
from dprobed.binary import maps
from dprobed.binary.elf import ElfFile
from dprobed.binary.errors import LocationError
from dprobed.proc import procfs
from dprobed.tracee.memory import PAGE, Memory
from dprobed.wire import protocol

_log = logging.getLogger("dprobed")

_INT3: Final = 0xCC
# Documentation/admin-guide/mm/pagemap.rst
_PRESENT_OR_SWAPPED: Final = 3 << 62
_OF_FILE: Final = 1 << 61


def rescue(pid: int) -> None:
    """Take the breakpoints out of a process that has lost its tracer, and of what it has forked."""
    family = [pid]
    for each in family:
        family += procfs.children(each)
        found = procfs.status(each)
        if found is None or found.tracer:
            continue  # It is gone, or somebody else's breakpoints are in it.
        try:
            count = restore_text(each)
        except (OSError, LocationError) as error:
            _log.warning("process %d may have breakpoints of ours: %s", each, error)
        else:
            if count:
                _log.warning("process %d: %d breakpoints of its lost tracer taken out", each, count)


async def clear_watchpoints(backends: Backends, pid: int, uid: int, gid: int) -> None:
    """Have a tracer of ``uid`` and ``gid`` come and go: it leaves debug registers empty."""
    try:
        tracer = await backends.start(lambda _, event: None, uid=uid, gid=gid)
    except OSError as error:
        _log.warning("process %d may have watchpoints of ours: %s", pid, error.strerror)
        return
    try:
        await tracer.request(lambda seq: protocol.Attach(seq, pid))
        await tracer.request(lambda seq: protocol.Detach(seq, pid))
    except (BackendRefused, BackendGone) as error:
        _log.warning("process %d may have watchpoints of ours: %s", pid, error)
    else:
        _log.warning("process %d: the watchpoints of its lost tracer are taken out", pid)
    finally:
        tracer.close()


def restore_text(pid: int) -> int:
    """How many breakpoints were taken out of a process; raises OSError and LocationError.

    LocationError also where the file of a module cannot be read: its breakpoints are still there.
    """
    pid = procfs.live_thread(pid)
    memory = Memory(pid)
    unread: LocationError | None = None
    count = 0
    try:
        for module in maps.modules(pid, however_many=True):
            written = [
                (mapping, page)
                for mapping in module.mappings
                if mapping.executable
                for page in _written_pages(pid, mapping)
            ]
            if not written:
                continue
            try:
                file = maps.open_module(pid, module)
            except LocationError as error:
                unread = error
                continue
            for mapping, page in written:
                count += _restore(memory, file, page, mapping.offset + page - mapping.start)
    finally:
        memory.close()
    if unread is not None:
        raise unread
    return count


def _written_pages(pid: int, mapping: maps.Mapping) -> Iterator[int]:
    """The pages of a file's mapping of which the process has a copy of its own."""
    pages = (mapping.end - mapping.start) // PAGE
    with open(f"/proc/{pid}/pagemap", "rb", buffering=0) as pagemap:
        pagemap.seek(mapping.start // PAGE * 8)
        data = pagemap.read(pages * 8)
    for index, (entry,) in enumerate(struct.iter_unpack("=Q", data)):
        if entry & _PRESENT_OR_SWAPPED and not entry & _OF_FILE:
            yield mapping.start + index * PAGE


def _restore(memory: Memory, file: ElfFile, page: int, offset: int) -> int:
    """Put a page's bytes back where a breakpoint is; how many there were."""
    now = memory.peek(page, PAGE)
    count = 0
    at = now.find(_INT3)
    original = file.read(offset, min(PAGE, file.size - offset)) if at >= 0 else b""
    while 0 <= at < len(original):
        if original[at] != _INT3:
            count += memory.poke(page + at, original[at : at + 1])
        at = now.find(_INT3, at + 1)
    return count
