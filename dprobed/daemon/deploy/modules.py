"""Finds out which modules a process maps, or will map in a moment.

``/proc/PID/maps`` is read once for all names. Whether a mapped file is the module of a name does
not depend on the process (but on its mount namespace, because of symbolic links), so that is
cached.

A process that has just executed a program has not mapped its libraries yet. It surely will where
the program asks for them (DT_NEEDED), or one of the libraries that it asks for does, which is
learned from the first process that executes it.

A file's content is asked of the resolver of the process's user: a file that takes long delays only
that user's processes. Nothing waits here: until the answer comes, a process counts as not mapping
the module, and then it is looked at again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Callable, Collection, Coroutine, Hashable
from pathlib import Path, PurePath
from typing import Any, Final

from dprobed.daemon.child_process import User
from dprobed.daemon.resolver_process import Resolvers
from dprobed.proc import executables, files, maps, procfs
from dprobed.resolver.errors import LocationError, LostError
from dprobed.resolver.files import KnownFiles
from dprobed.resolver.modules import matches
from dprobed.wire.resolver import FileFacts

#: Cached answers; beyond it the cache is cleared.
_ROOM: Final = 1 << 14
#: Seconds until a file is asked about again that could not be read (through this process), and one
#: on which the resolver died.
_UNREADABLE: Final = 1.0
_RESOLVER_DIED: Final = 60.0

_log = logging.getLogger("dprobed")


class _Program:
    """What is known of an executable: the module names that it maps from its start (``linked``),
    and those that it was seen to open later (``opened``)."""

    __slots__ = ("linked", "opened")

    def __init__(self, needed: set[str]) -> None:
        self.linked = needed
        self.opened: set[str] = set()


class Modules:
    """The modules of processes; ``again`` is called with a pid when more is known of it."""

    def __init__(self, resolvers: Resolvers, again: Callable[[int], None]) -> None:
        self._resolvers = resolvers
        self._again = again
        #: Files by user: a user's resolver answers about them, and may lie.
        self._files: dict[User, KnownFiles] = {}
        #: (mount namespace, file, path, name) → whether its path is the module of that name.
        self._verdicts: dict[Hashable, bool] = {}
        #: (user, mount namespace, file, path, content) → what is in it; None: it has no answer now.
        self._facts: dict[Hashable, FileFacts | None] = {}
        self._programs: dict[Hashable, _Program] = {}
        #: Questions under way → the processes that wait for the answer.
        self._asking: dict[Hashable, set[int]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        #: Failed questions → until when they are not asked again.
        self._refused: dict[Hashable, float] = {}

    def mapped(self, pid: int, names: Collection[str]) -> set[str]:
        """The names whose module the process maps code of; raises MapsError."""
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
        """The names whose module the loader will map (DT_NEEDED)."""
        key, program = self._program(pid)
        if program is None:
            if key is not None:
                self._ask(key, pid, lambda: self._read_program(key, pid))
            return set()
        return {
            name
            for name in names
            if name in program.linked or PurePath(name).name in program.linked
        }

    def is_asking(self, pid: int) -> bool:
        """Whether a question is under way that may change the answer for a process."""
        return any(pid in waiting for waiting in self._asking.values())

    async def settled(self) -> None:
        """Wait until no question is under way."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    def stop(self) -> None:
        """Cancel all questions."""
        for task in self._tasks:
            task.cancel()

    # --- what is in a file ---

    def _is(self, namespace: int, module: maps.Module, name: str) -> bool:
        key: Hashable = (namespace, module.key, module.path, name)
        verdict = self._verdicts.get(key)
        if verdict is None:
            verdict = matches(module, None, name)
            if len(self._verdicts) >= _ROOM:
                self._verdicts.clear()
            self._verdicts[key] = verdict
        if verdict or "/" in name:
            return verdict
        # By soname or build-id: that is what is in the file, and an inode may get another file.
        user = _user_of(module.pid)
        file = (user, namespace, module.key, module.path, _content(module))
        facts = self._facts.get(file)
        if facts is None:
            self._ask(file, module.pid, lambda: self._read_module(file, user, module))
            return False
        return name == facts.soname or name.lower() == facts.build_id

    async def _read_module(self, key: Hashable, user: User, module: maps.Module) -> None:
        steps = self._files_of(user).describe(module)
        facts, _ = await self._resolvers.run(user, user[0], steps)
        if len(self._facts) >= _ROOM:
            self._facts.clear()
        self._facts[key] = facts

    def _files_of(self, user: User) -> KnownFiles:
        if len(self._files) >= _ROOM:
            self._files.clear()
        return self._files.setdefault(user, KnownFiles())

    def _ask(self, key: Hashable, pid: int, make: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Ask a question, unless it is under way or failed a short time ago."""
        if key in self._asking:
            self._asking[key].add(pid)
            return
        if time.monotonic() < self._refused.get(key, 0.0):
            return
        self._asking[key] = {pid}
        task = asyncio.get_running_loop().create_task(self._find_out(key, make()))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _find_out(self, key: Hashable, question: Coroutine[Any, Any, None]) -> None:
        try:
            await question
        except LocationError as error:
            lost = isinstance(error, LostError)
            if lost:
                _log.warning("%s", error.message)
            if len(self._refused) >= _ROOM:
                self._refused.clear()
            # Otherwise by way of another process it may be readable.
            self._refused[key] = time.monotonic() + (_RESOLVER_DIED if lost else _UNREADABLE)
        except OSError:
            pass  # The process has ended.
        except Exception:
            _log.exception("internal error while asking about a file")
            self._refused[key] = time.monotonic() + _RESOLVER_DIED
        finally:
            waiting = self._asking.pop(key)
        for pid in waiting:
            self._again(pid)

    # --- what a program has from its start ---

    def _program(self, pid: int) -> tuple[Hashable, _Program | None]:
        """The program that a process executes, and what is known of it; None if that is gone."""
        try:
            found = files.facts_of(f"/proc/{pid}/exe")
        except OSError:
            return None, None
        key = (_user_of(pid), found.device, found.inode, found.mtime_ns)
        return key, self._programs.get(key)

    async def _read_program(self, key: Hashable, pid: int) -> None:
        user = _user_of(pid)
        steps = self._files_of(user).describe_file(f"/proc/{pid}/exe")
        needed: set[str] = set()
        try:
            needed = set((await self._resolvers.run(user, user[0], steps)).needed)
        except LostError:
            raise
        except LocationError:
            if not executables.path(pid):
                raise
        self._know(key, needed)

    def _know(self, key: Hashable, needed: set[str]) -> _Program:
        if len(self._programs) >= _ROOM:
            self._programs.clear()
        return self._programs.setdefault(key, _Program(needed))

    def _learn(self, pid: int, modules: list[maps.Module], found: dict[str, maps.Module]) -> None:
        """Learn whether the found modules are mapped from the start, or by ``dlopen``."""
        key, program = self._program(pid)
        if key is None:
            return
        if program is not None and not found.keys() - program.linked - program.opened:
            return
        self._ask(("learn", key), 0, lambda: self._read_closure(key, pid, modules, found))

    async def _read_closure(
        self, key: Hashable, pid: int, modules: list[maps.Module], found: dict[str, maps.Module]
    ) -> None:
        if key not in self._programs:
            await self._read_program(key, pid)
        program = self._programs[key]
        linked = await self._closure(pid, program.linked, modules)
        for name in found.keys() - program.linked - program.opened:
            (program.linked if found[name] in linked else program.opened).add(name)

    async def _closure(
        self, pid: int, needed: Collection[str], modules: list[maps.Module]
    ) -> set[maps.Module]:
        """The modules that the program needs, directly or through one another."""
        user = _user_of(pid)
        files: dict[str, tuple[maps.Module, FileFacts]] = {}
        for module in modules:
            with contextlib.suppress(LocationError):
                steps = self._files_of(user).describe(module)
                facts, _ = await self._resolvers.run(user, user[0], steps)
                files[PurePath(module.path).name] = module, facts
                if facts.soname is not None:
                    files[facts.soname] = module, facts
        asked = list(needed)
        closure: set[maps.Module] = set()
        while asked:
            module_and_facts = files.get(asked.pop())
            if module_and_facts is not None and module_and_facts[0] not in closure:
                closure.add(module_and_facts[0])
                asked += module_and_facts[1].needed
        return closure


def _inode(path: str) -> int:
    try:
        return Path(path).stat().st_ino
    except OSError:
        return 0


def _user_of(pid: int) -> User:
    """The process's user; the daemon's own if it is gone."""
    found = procfs.status(pid)
    return (found.uids[0], found.gids[0]) if found is not None else (os.geteuid(), os.getegid())


def _content(module: maps.Module) -> Hashable:
    """Which file is mapped, and in what state, as far as it can be read: two may have the path,
    device and inode that ``maps`` prints."""
    mapping = next(each for each in module.mappings if each.executable)
    try:
        found = files.facts_of(f"/proc/{module.pid}/map_files/{mapping.start:x}-{mapping.end:x}")
    except OSError:
        return None
    return found.device, found.inode, found.mtime_ns, found.size
