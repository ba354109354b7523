"""Internal breakpoints: on the loader's notification, and on libc's signal functions.

They are sites like any other; a user's probes may hang on the same places, and come and go.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from dprobed.arch.x86_64.signal_frame import RESTORER_CODE
from dprobed.engine.errors import SpaceError
from dprobed.engine.interface import Location
from dprobed.proc import procfs
from dprobed.resolver.errors import LocationError, LostError
from dprobed.tracee.thread import Thread
from dprobed.tracer.engines import Engines
from dprobed.tracer.placement import LoadedModule, Placement

_AT_BASE: Final = 7
_AT_ENTRY: Final = 9
#: The dynamic loader calls it after each change of the list of modules (link.h, r_brk).
_LOADER: Final = "_dl_debug_state"
_LIBC: Final = "libc.so.6"
_SIGACTION: Final = "sigaction"
_SIGMASK: Final = "pthread_sigmask"

_log = logging.getLogger(__name__)


class InternalBreakpoints:
    """The internal breakpoints of one address space."""

    def __init__(
        self,
        engines: Engines,
        placement: Placement,
        modules_changed: Callable[[Thread], None],
    ) -> None:
        """``modules_changed`` is called with the thread that mapped or unmapped one."""
        self._engines: Final = engines
        self._placement: Final = placement
        self._pid: Final = engines.space.tgid
        self._callbacks: Final[dict[str, Callable[[Thread], None]]] = {
            _LOADER: modules_changed,
            _SIGACTION: self._sigaction_called,
            _SIGMASK: engines.sigtrap.masks,
        }
        #: The C library, once there is one at its ``sigaction``.
        self._libc: LoadedModule | None = None
        self._masks_known = False
        #: All that are wanted were tried: a child that is made before has not all of them.
        self.are_set = False
        #: By address, the symbols at which they are.
        self._symbols: dict[int, str] = {}
        self._engines.sigtrap.restorer = 0

    def take_over(self, other: InternalBreakpoints) -> None:
        """Take over the internal breakpoints of the space that this one is a copy of."""
        for address, symbol in other._symbols.items():
            if self._engines.adopt_internal(address, self._callbacks[symbol]):
                self._symbols[address] = symbol
        if other._libc is not None:
            self._libc = self._placement.loaded.get(other._libc.key)
        self._masks_known, self.are_set = other._masks_known, other.are_set
        self._engines.sigtrap.restorer = other._engines.sigtrap.restorer

    def set_loader(self) -> str | None:
        """Insert that of the dynamic loader; returns why not, or None. Raises Gone.

        The loader may be what was executed, as a command. And a statically linked program may have
        one in it, for ``dlopen``; where it has none no modules come or go.
        """
        auxv = procfs.auxv(self._pid)
        base = auxv.get(_AT_BASE, 0)
        inside = base or auxv.get(_AT_ENTRY, 0)
        for loaded in self._placement.loaded.values():
            mappings = loaded.module.mappings
            if any(mapping.start <= inside < mapping.end for mapping in mappings):
                break
        else:
            return "the dynamic loader was not found"
        try:
            self._set(loaded, _LOADER)
        except LostError as error:
            return " ".join(str(error).split())
        except (LocationError, SpaceError) as error:
            return " ".join(str(error).split()) if base else None
        return None

    def set_signals(self, among: list[LoadedModule]) -> None:
        """Insert those for the target's use of SIGTRAP, in the C library.

        Raises LocationError, SpaceError and Gone.
        """
        if self._libc is None:
            libc = next((each for each in among if each.has(_SIGACTION, _LIBC)), None)
            if libc is not None:
                self._set(libc, _SIGACTION)
                self._libc = libc
        elif self._libc in among:  # mapped once more (dlmopen)
            self._set(self._libc, _SIGACTION)
            if self._masks_known:
                self._set(self._libc, _SIGMASK)
        if self._libc is not None and not self._engines.sigtrap.calm and not self._masks_known:
            self._masks_known = True
            self._set(self._libc, _SIGMASK)

    def _sigaction_called(self, thread: Thread) -> None:
        sigtrap = self._engines.sigtrap
        if not sigtrap.restorer and self._libc is not None:
            for mapping in self._libc.module.mappings:
                if mapping.executable:
                    size = mapping.end - mapping.start
                    code = self._engines.space.memory.peek(mapping.start, size)
                    at = code.find(RESTORER_CODE)
                    sigtrap.restorer = sigtrap.restorer or (mapping.start + at if at >= 0 else 0)
        sigtrap.changes(thread)
        try:
            self.set_signals([])
        except (LocationError, SpaceError) as error:
            _log.warning("process %d: blocked SIGTRAP: %s", self._pid, error)

    def forget(self, is_mapped: Callable[[int], bool]) -> None:
        """Modules were unmapped, and others may be there later."""
        for address in [each for each in self._symbols if not is_mapped(each)]:
            self._engines.forget_internal(address)
            del self._symbols[address]

    def _set(self, loaded: LoadedModule, symbol: str) -> None:
        """Insert one at a function, each time that is mapped.

        Raises LocationError, SpaceError and Gone.
        """
        for spot in self._placement.functions(loaded, symbol):
            if spot.address not in self._symbols:
                where = Location(spot.address, place=spot.place, code=spot.code)
                self._engines.insert_internal(where, self._callbacks[symbol])
                self._symbols[spot.address] = symbol
