"""Which modules a process maps, or soon will.

One reading of ``/proc/PID/maps`` answers for all names that are asked for. Whether a mapped file is
the module of a name does not depend on the process that maps it (but on its mount namespace, for
the links that lead to it), so that is found out once and remembered.

A process that has just executed a program has not mapped its libraries yet. It surely will where
the program asks for them (DT_NEEDED), or one of the libraries that it asks for does, which is
learned from the first process that executes it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Hashable
from pathlib import Path, PurePath
from typing import Final

from dprobed.binary import maps
from dprobed.binary.elf import ElfFile
from dprobed.binary.errors import LocationError

#: Answers that are remembered; then all are forgotten.
_ROOM: Final = 1 << 14


class _Program:
    """What is known of a program: the names of modules that it has from its start (``linked``), and
    of those that it was seen to open later."""

    __slots__ = ("linked", "opened")

    def __init__(self, needed: set[str]) -> None:
        self.linked = needed
        self.opened: set[str] = set()


class Modules:
    """What is known of processes' modules."""

    def __init__(self) -> None:
        #: (mount namespace, file, path, name) → whether the file is the module of that name.
        self._verdicts: dict[Hashable, bool] = {}
        self._programs: dict[Hashable, _Program] = {}

    def mapped(self, pid: int, names: Collection[str]) -> set[str]:
        """Those of the names whose module the process maps code of; raises LocationError."""
        found: dict[str, maps.Module] = {}
        namespace = _inode(f"/proc/{pid}/ns/mnt")
        modules = maps.modules(pid)
        for module in modules:
            for name in names:
                if name not in found and self._is(namespace, module, name):
                    found[name] = module
        if found:
            self._learn(pid, modules, found)
        return set(found)

    def expected(self, pid: int, names: Collection[str]) -> set[str]:
        """Those of the names whose module the loader will map, by what the program asks for."""
        program = self._program(pid)
        if program is None:
            return set()
        return {
            name
            for name in names
            if name in program.linked or PurePath(name).name in program.linked
        }

    def _program(self, pid: int) -> _Program | None:
        """What is known of the program that a process executes; None where it cannot be read."""
        try:
            status = Path(f"/proc/{pid}/exe").stat()
            key = (status.st_dev, status.st_ino, status.st_mtime_ns)
            known = self._programs.get(key)
            if known is None:
                if len(self._programs) >= _ROOM:
                    self._programs.clear()
                known = self._programs[key] = _Program(_needed(pid))
        except OSError:
            return None
        return known

    def _learn(self, pid: int, modules: list[maps.Module], found: dict[str, maps.Module]) -> None:
        """Note whether what was found is there from the start, or because of a ``dlopen``."""
        program = self._program(pid)
        if program is None:
            return
        new = found.keys() - program.linked - program.opened
        if not new:
            return
        linked = _closure(pid, program.linked, modules)
        for name in new:
            (program.linked if found[name] in linked else program.opened).add(name)

    def _is(self, namespace: int, module: maps.Module, name: str) -> bool:
        key: Hashable = (namespace, module.key, module.path, name)
        verdict = self._verdicts.get(key)
        if verdict is None:
            verdict = maps.matches(module, None, name)
            self._remember(key, verdict)
        if verdict or "/" in name:
            return verdict
        # By soname or build-id: that is what is in the file, and an inode may get another file.
        mapping = next(each for each in module.mappings if each.executable)
        try:
            link = f"/proc/{module.pid}/map_files/{mapping.start:x}-{mapping.end:x}"
            status = Path(link).stat()
            content: Hashable = (status.st_mtime_ns, status.st_size)
        except OSError:
            content = None
        key = (key, content)
        verdict = self._verdicts.get(key)
        if verdict is None:
            try:
                verdict = maps.matches(module, maps.open_module(module.pid, module), name)
            except LocationError:
                return False  # Not remembered: another process may be readable.
            self._remember(key, verdict)
        return verdict

    def _remember(self, key: Hashable, verdict: bool) -> None:
        if len(self._verdicts) >= _ROOM:
            self._verdicts.clear()
        self._verdicts[key] = verdict


def _inode(path: str) -> int:
    try:
        return Path(path).stat().st_ino
    except OSError:
        return 0


def _needed(pid: int) -> set[str]:
    """The libraries that the program of a process asks for; raises OSError."""
    path = f"/proc/{pid}/exe"
    try:
        return set(ElfFile(os.open(path, os.O_RDONLY | os.O_CLOEXEC), path).needed)
    except LocationError:
        return set()


def _closure(pid: int, needed: Collection[str], modules: list[maps.Module]) -> set[maps.Module]:
    """The modules that are there because the program, or one of them, asks for them."""
    files: dict[str, tuple[maps.Module, ElfFile]] = {}
    for module in modules:
        with contextlib.suppress(LocationError):
            elf = maps.open_module(pid, module)
            files[PurePath(module.path).name] = module, elf
            if elf.soname is not None:
                files[elf.soname] = module, elf
    asked = list(needed)
    closure: set[maps.Module] = set()
    while asked:
        module_and_file = files.get(asked.pop())
        if module_and_file is not None and module_and_file[0] not in closure:
            closure.add(module_and_file[0])
            asked += module_and_file[1].needed
    return closure
