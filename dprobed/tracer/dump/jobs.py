"""The job of the process that writes a core: descriptors of the memory, and what the core says."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from dprobed.arch.x86_64.paging import PAGE
from dprobed.corefile.areas import Area, parse_smaps
from dprobed.corefile.store import StoreLimits
from dprobed.corefile.writer import Memory, ProcessImage
from dprobed.engine.address_space import AddressSpace
from dprobed.proc import maps, procfs
from dprobed.tracer.dump import dumper, image
from dprobed.tracer.engines import Engines

#: MADV_DONTFORK memory is not in the copy; so much of it is read while the target is stopped.
_NOT_COPIED: Final = 64 << 20


def job_for(
    engines: Engines,
    pid: int,
    source: int,
    process: ProcessImage,
    limits: StoreLimits,
    stopped_at: int,
    *,
    copied: bool,
) -> dumper.Job:
    """The job for one dump. ``source``: the process or its copy, whose memory is read.

    Raises OSError.
    """
    space = engines.space
    with ExitStack() as undo:

        def opened(name: str) -> int:
            descriptor = os.open(f"/proc/{source}/{name}", os.O_RDONLY | os.O_CLOEXEC)
            undo.callback(os.close, descriptor)
            return descriptor

        memory = Memory(opened("mem"), opened("pagemap"))
        smaps = opened("smaps")
        raw = {address: original[0] for address, original in space.raw.items()}
        memory.original = engines.changed() | raw
        reader = process.threads[0].tid
        extra = _not_copied(space, reader, source, memory) if copied else []
        undo.pop_all()
    return dumper.Job(
        pid=pid,
        source=source,
        process=process,
        memory=memory,
        smaps=smaps,
        limits=limits,
        omitted=engines.pages(),
        extra=extra,
        about={},
        exe=image.link(pid, "exe"),
        stopped_at=stopped_at,
        facts=image.facts(pid),
    )


def _not_copied(space: AddressSpace, tid: int, copy: int, memory: Memory) -> list[Area]:
    """Read the mappings that ``fork`` leaves out (MADV_DONTFORK)."""

    def ranges(pid: int) -> set[tuple[int, int]]:
        return {(line.start, line.end) for line in maps.lines(procfs.mappings(pid))}

    missing = ranges(tid) - ranges(copy)
    if not missing:
        return []
    areas = []
    room = _NOT_COPIED
    for area in parse_smaps(Path(f"/proc/{tid}/smaps").read_bytes()):
        if (area.start, area.end) not in missing or not area.own:
            continue
        size = area.end - area.start
        if b"dd" in area.flags or b"io" in area.flags or size > room:
            continue
        room -= size
        data = bytearray()
        while len(data) < size:
            part = space.memory.peek(area.start + len(data), size - len(data))
            data += part or bytes(PAGE)
        memory.kept.append((area.start, bytes(data)))
        areas.append(area)
    return areas
