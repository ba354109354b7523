"""Names what is at the frames of stacks, for who shows records: function, line, inlined functions.

A frame says which file it is in, by path and build-id, so it is named also when its process has
ended. Files are read in this process, which is the user's own, each once; code that was made at run
time is named by the map that its maker keeps for ``perf`` (``/tmp/perf-PID.map``).
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any, Final

from dprobe.lib.mapped import open_file
from dprobe.lib.perf_map import PerfMap
from dprobed.binary.demangle import demangled
from dprobed.binary.errors import LocationError
from dprobed.binary.file import Binary
from dprobed.binary.source_places import SourcePlaces
from dprobed.proc import kernel_symbols
from dprobed.program.user_stack import ADDRESS, KERNEL_MODULE
from dprobed.resolver.cache import packed

_VDSO: Final = "[vdso]"
#: Files, names of frames, and maps of processes that are remembered.
_MOST_FILES: Final = 64
#: Bytes that the debug information of these may take before all are closed for another.
_MOST_BYTES: Final = 512 << 20
_MOST_NAMES: Final = 100_000
_MOST_MAPS: Final = 64


class _File:
    """One file, and what its code is from."""

    def __init__(self, binary: Binary) -> None:
        self.binary = binary
        self.places = SourcePlaces(binary)


class StackNames:
    """The frames of any stacks."""

    def __init__(self) -> None:
        self._files: dict[tuple[str, str], _File | None] = {}
        self._names: dict[tuple[str, str, int, bool], dict[str, Any]] = {}
        self._maps: dict[int, PerfMap] = {}

    def name_frames(self, log: Iterable[dict[str, Any]], pid: int) -> None:
        """Say what is at the frames of the stacks that a process has in a log."""
        for item in log:
            for frame in item.get("ustack", ()):
                frame.update(self._name(frame, pid))

    def _name(self, frame: dict[str, Any], pid: int) -> dict[str, Any]:
        exact = frame.get("exact", False)
        if "module" not in frame:
            return self._made(frame["address"], pid, exact)
        key = frame["module"], frame.get("build_id", ""), frame["offset"], exact
        found = self._names.get(key)
        if found is None:
            found = self._find(key[0], key[1], key[2], exact, pid)
            if len(self._names) >= _MOST_NAMES:
                self._names.clear()
            self._names[key] = found
        return found

    def _find(self, path: str, build_id: str, vaddr: int, exact: bool, pid: int) -> dict[str, Any]:
        if path == KERNEL_MODULE:
            return kernel_code().at(vaddr, exact=exact)
        file = self._file(path, build_id, pid)
        found: dict[str, Any] = {}
        if file is None:
            return found
        # Behind a call may already be another function, and is another line.
        there = vaddr if exact else vaddr - 1
        try:
            symbol = file.binary.symbols.code_at(there)
        except LocationError:
            symbol = None
        if symbol is not None:
            found["function"] = demangled(symbol.name)
            found["plus"] = vaddr - symbol.value
        places = file.places.at(there)
        if places and places[-1].line:
            found["file"], found["line"] = places[-1].file, places[-1].line
        inlined = [
            {"function": each.function, "file": each.file, "line": each.line}
            for each in places[:-1]
        ]
        if inlined:
            found["inlined"] = inlined
        return found

    def close(self) -> None:
        """Close all files; they are opened again where that is asked for."""
        self._files.clear()

    def _file(self, path: str, build_id: str, pid: int) -> _File | None:
        key = path, build_id
        if key not in self._files:
            size = sum(each.places.size for each in self._files.values() if each is not None)
            if len(self._files) >= _MOST_FILES or size > _MOST_BYTES:
                self.close()
            binary = _opened(path, build_id, pid)
            self._files[key] = None if binary is None else _File(binary)
        return self._files[key]

    def _made(self, address: int, pid: int, exact: bool) -> dict[str, Any]:
        """What is at an address of code that was made at run time."""
        known = self._maps.get(pid)
        if known is None:
            if len(self._maps) >= _MOST_MAPS:
                self._maps.clear()
            known = self._maps[pid] = PerfMap(pid)
        found = known.at(address if exact else address - 1)
        if found is None:
            return {}
        start, name = found
        return {"function": demangled(name), "plus": address - start}


class KernelCode:
    """The functions of the kernel and its modules, by how far they are from its first address; none
    for those to whom the kernel does not show them."""

    def __init__(self, path: Path = kernel_symbols.PATH) -> None:
        try:
            known = [each for each in kernel_symbols.symbols(path) if each.kind == "code"]
        except OSError:
            known = []
        begin = next((e.address for e in known if e.name == kernel_symbols.FIRST_SYMBOL), 0)
        found = [((each.address - begin) & ADDRESS, each.name) for each in known if begin]
        found.sort()
        self._starts: Final = [start for start, _ in found]
        self._names: Final = [name for _, name in found]

    def at(self, offset: int, *, exact: bool) -> dict[str, Any]:
        """What is there."""
        found = bisect_right(self._starts, offset if exact else offset - 1) - 1
        if found < 0:
            return {}
        return {"function": self._names[found], "plus": offset - self._starts[found]}


@cache
def kernel_code() -> KernelCode:
    """That of this machine."""
    return KernelCode()


@cache
def shared_names() -> StackNames:
    """Those of this process."""
    return StackNames()


def _opened(path: str, build_id: str, pid: int) -> Binary | None:
    """The file of a frame: here, or as the process sees it; None where it is not there any more."""
    if path == _VDSO:
        return _vdso(build_id)
    for each in (path, f"/proc/{pid}/root{path}"):
        try:
            binary = open_file(each)
        except (LocationError, OSError):
            continue
        if (binary.build_id or "") == build_id:
            return binary
    return None


def _vdso(build_id: str) -> Binary | None:
    """The kernel's code, of which each process has the same: ours."""
    try:
        lines = Path("/proc/self/maps").read_text().splitlines()
        bounds = next(line.split()[0] for line in lines if line.endswith(_VDSO))
        start, end = (int(each, 16) for each in bounds.split("-"))
        with open("/proc/self/mem", "rb", buffering=0) as memory:
            image = os.pread(memory.fileno(), end - start, start)
        descriptor = os.memfd_create("vdso", os.MFD_CLOEXEC)
        os.write(descriptor, image)
        binary = Binary(descriptor, _VDSO, packer=packed)
    except (OSError, ValueError, StopIteration, LocationError):
        return None
    return binary if (binary.build_id or "") == build_id else None
