"""Recovery after a tracer was killed: removes its breakpoints and watchpoints from its targets.

Without its tracer a process goes on at breakpoints where it is guarded (``engine.trap.guard``), and
dies at the next one where it is not; so do its fork children. Where the tracer had put breakpoints
is not known here, and need not be: code is as in the mapped file. Where a code page was written to
(the kernel has made a private copy, which ``pagemap`` shows) and has an int3 that is not in the
file, the file's byte is restored.

Only a tracer can write debug registers, so for watchpoints another one attaches and detaches.

What cannot be recovered: a thread of an unguarded process that executes a breakpoint before this
runs dies. The out-of-line slots and the guard stay mapped, because threads may be in them.
"""

from __future__ import annotations

import logging
import os
import struct
from collections.abc import Iterator
from typing import Final

from dprobed.arch.x86_64.breakpoint import INT3
from dprobed.arch.x86_64.paging import PAGE
from dprobed.backend import BackendGone, BackendRefused, Backends
from dprobed.proc import files, maps, procfs
from dprobed.resolver.errors import LocationError
from dprobed.resolver.modules import is_mapped_inode, open_module, replaced
from dprobed.wire import protocol

_log = logging.getLogger("dprobed")

#: Bytes of a file that are compared with its mapping, and the beginning of a build-id's note.
_HEAD: Final = 1 << 16
#: Bytes before and behind a breakpoint that have to be the file's.
_AROUND: Final = 8
_BUILD_ID: Final = b"\x03\0\0\0GNU\0"
# Documentation/admin-guide/mm/pagemap.rst
_PRESENT_OR_SWAPPED: Final = 3 << 62
_OF_FILE: Final = 1 << 61


def rescue(pid: int) -> None:
    """Remove breakpoints from a process that has lost its tracer, and from its children."""
    family = [pid]
    for each in family:
        family += procfs.children(each)
        found = procfs.status(each)
        if found is None or found.tracer:
            continue  # It is gone, or traced by another process, whose breakpoints these may be.
        try:
            count = restore_text(each)
        except (OSError, maps.MapsError, LocationError) as error:
            _log.warning("process %d may have breakpoints of ours: %s", each, error)
        else:
            if count:
                _log.warning("process %d: %d breakpoints of its lost tracer removed", each, count)


async def clear_watchpoints(backends: Backends, pid: int, uid: int, gid: int) -> None:
    """Attach and detach a tracer of ``uid`` and ``gid``, which leaves the debug registers empty."""
    try:
        tracer = await backends.start(lambda _, event: None, uid=uid, gid=gid, owner=uid)
    except OSError as error:
        _log.warning("process %d may have watchpoints of ours: %s", pid, error.strerror)
        return
    try:
        await tracer.request(lambda seq: protocol.Attach(seq, pid))
        await tracer.request(lambda seq: protocol.Detach(seq, pid))
    except (BackendRefused, BackendGone) as error:
        _log.warning("process %d may have watchpoints of ours: %s", pid, error)
    else:
        _log.warning("process %d: watchpoints of its lost tracer removed", pid)
    finally:
        tracer.close()


def restore_text(pid: int) -> int:
    """Remove breakpoints from a process's code; how many there were.

    Raises OSError, MapsError and, where a module's file cannot be read and its breakpoints are
    still there, LocationError.
    """
    pid = procfs.live_thread(pid)
    memory = os.open(f"/proc/{pid}/mem", os.O_RDWR | os.O_CLOEXEC)
    unread: LocationError | None = None
    count = 0
    try:
        for module in maps.modules(pid, however_many=True):
            written = [
                (mapping, page)
                for mapping in module.mappings
                if mapping.executable and not mapping.shared
                for page in _written_pages(pid, mapping)
            ]
            if not written:
                continue
            try:
                file = _open(memory, module)
            except LocationError as error:
                unread = error
                continue
            try:
                for mapping, page in written:
                    count += _restore(memory, file, page, mapping.offset + page - mapping.start)
            finally:
                os.close(file)
    finally:
        os.close(memory)
    if unread is not None:
        raise unread
    return count


def _open(memory: int, module: maps.Module) -> int:
    """Open the mapped file; raises LocationError.

    Nothing of it is decoded: a file found by the module's path is taken for the mapped one if the
    first mapping has the same content, with the build-id in it, or if its inode has the number.
    """
    opened = open_module(module)
    if opened.sure:
        return opened.descriptor
    first = next((each for each in module.mappings if each.offset == 0), None)
    if first is not None:
        size = min(first.end - first.start, _HEAD)
        now, on_disk = (
            _peek_slowly(module, memory, first.start, size),
            _read(opened.descriptor, 0, size),
        )
        same = all(a in (b, INT3[0]) for a, b in zip(now, on_disk, strict=False))
        known = _BUILD_ID in on_disk or is_mapped_inode(module, opened.identity)
        if same and len(on_disk) <= len(now) and known:
            return opened.descriptor
    os.close(opened.descriptor)
    raise replaced(module)


def _peek(descriptor: int, address: int, length: int) -> bytes:
    try:
        return os.pread(descriptor, length, address)
    except OSError:
        return b""


def _peek_slowly(module: maps.Module, memory: int, address: int, length: int) -> bytes:
    """Read pages that may not be there, which their file's server may have to be asked for."""
    try:
        return files.peek(module.key, memory, length, address)
    except OSError:
        return b""


def _read(file: int, offset: int, length: int) -> bytes:
    """Read an opened file; nothing where its file system does not answer."""
    try:
        return files.read(file, length, offset)
    except OSError:
        return b""


def _poke(memory: int, address: int, data: bytes) -> bool:
    try:
        return os.pwrite(memory, data, address) == len(data)
    except OSError:
        return False


def _written_pages(pid: int, mapping: maps.Mapping) -> Iterator[int]:
    """The pages of a file's mapping that were written to (copy-on-write)."""
    pages = (mapping.end - mapping.start) // PAGE
    with open(f"/proc/{pid}/pagemap", "rb", buffering=0) as pagemap:
        pagemap.seek(mapping.start // PAGE * 8)
        data = pagemap.read(pages * 8)
    for index, (entry,) in enumerate(struct.iter_unpack("=Q", data)):
        if entry & _PRESENT_OR_SWAPPED and not entry & _OF_FILE:
            yield mapping.start + index * PAGE


def _restore(memory: int, file: int, page: int, offset: int) -> int:
    """Restore a page's bytes where a breakpoint is; how many there were.

    Not where the bytes around are others than the file's: that is not a breakpoint of ours.
    """
    now = _peek(memory, page, PAGE)
    count = 0
    at = now.find(INT3)
    original = _read(file, offset, PAGE) if at >= 0 else b""
    while 0 <= at < len(original):
        around = slice(max(0, at - _AROUND), at + _AROUND)
        same = all(a in (b, INT3[0]) for a, b in zip(now[around], original[around], strict=False))
        if original[at] != INT3[0] and same:
            count += _poke(memory, page + at, original[at : at + 1])
        at = now.find(INT3, at + 1)
    return count
