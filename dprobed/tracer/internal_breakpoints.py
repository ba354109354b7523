"""Sites of the tracer itself: what must be known of the target as it happens.

They are sites like any other; a user's probes may hang on the same places, and come and go.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from dprobed.engine.address_space import SpaceError
from dprobed.engine.trap.engine import TrapEngine
from dprobed.engine.trap.sigtrap import RESTORER_CODE
from dprobed.proc import procfs
from dprobed.resolver.errors import LocationError
from dprobed.tracee.thread import Thread
from dprobed.tracee.thread_group import ThreadGroup
from dprobed.tracer.placement import Loaded, Placement

_AT_BASE: Final = 7
#: The dynamic loader calls it after each change of the list of modules (link.h, r_brk).
_LOADER_HOOK: Final = "_dl_debug_state"
_LIBC: Final = "libc.so.6"
_SIGACTION: Final = "sigaction"
_SIGMASK: Final = "pthread_sigmask"

_log = logging.getLogger(__name__)


class InternalBreakpoints:
    """The hooks of one address space."""

    def __init__(
        self,
        group: ThreadGroup,
        engine: TrapEngine,
        placement: Placement,
        modules_changed: Callable[[Thread], None],
    ) -> None:
        """``modules_changed`` is called with the thread that mapped or unmapped one."""
        self._group: Final = group
        self._engine: Final = engine
        self._placement: Final = placement
        self._pid: Final = engine.space.tgid
        self._callbacks: Final[dict[str, Callable[[Thread], None]]] = {
            _LOADER_HOOK: modules_changed,
            _SIGACTION: self._sigaction_called,
            _SIGMASK: engine.sigtrap.masks,
        }
        #: The C library, once its ``sigaction`` is hooked.
        self._libc: Loaded | None = None
        self._masks_hooked = False
        #: By address, the symbols that are hooked.
        self._hooked: dict[int, str] = {}
        engine.sigtrap.restorer = 0

    def take_over(self, other: InternalBreakpoints) -> None:
        """The hooks of the space that this one is a copy of."""
        for address, symbol in other._hooked.items():
            site = self._engine.space.by_trap.get(address + 1)
            if site is not None:
                site.callback = self._callbacks[symbol]
                self._hooked[address] = symbol
        if other._libc is not None:
            self._libc = self._placement.loaded.get(other._libc.key)
        self._masks_hooked = other._masks_hooked
        self._engine.sigtrap.restorer = other._engine.sigtrap.restorer

    def hook_loader(self) -> str | None:
        """Hear of modules that come and go; why not, if that cannot be. Raises Gone."""
        base = procfs.auxv(self._pid).get(_AT_BASE, 0)
        if not base:
            return None  # statically linked: no modules come or go
        for loaded in self._placement.loaded.values():
            mappings = loaded.module.mappings
            if any(mapping.start <= base < mapping.end for mapping in mappings):
                break
        else:
            return "the dynamic loader was not found"
        try:
            self._hook(loaded, _LOADER_HOOK)
        except (LocationError, SpaceError) as error:
            return " ".join(str(error).split())
        return None

    def hook_signals(self, among: list[Loaded]) -> None:
        """Hear of what the target does about SIGTRAP; from the C library only.

        Raises LocationError, SpaceError and Gone.
        """
        if self._libc is None:
            libc = next((each for each in among if each.has(_SIGACTION, _LIBC)), None)
            if libc is not None:
                self._hook(libc, _SIGACTION)
                self._libc = libc
        if self._libc is not None and not self._engine.sigtrap.calm and not self._masks_hooked:
            self._masks_hooked = True
            self._hook(self._libc, _SIGMASK)

    def _sigaction_called(self, thread: Thread) -> None:
        sigtrap = self._engine.sigtrap
        if not sigtrap.restorer and self._libc is not None:
            for mapping in self._libc.module.mappings:
                if mapping.executable:
                    size = mapping.end - mapping.start
                    code = self._engine.space.memory.peek(mapping.start, size)
                    at = code.find(RESTORER_CODE)
                    sigtrap.restorer = sigtrap.restorer or (mapping.start + at if at >= 0 else 0)
        sigtrap.changes(thread)
        try:
            self.hook_signals([])
        except (LocationError, SpaceError) as error:
            _log.warning("process %d: blocked SIGTRAP: %s", self._pid, error)

    def _hook(self, loaded: Loaded, symbol: str) -> None:
        """A site of our own; raises LocationError, SpaceError and Gone."""
        space = self._engine.space
        address = self._placement.address_of(loaded, symbol)
        space.reserve(self._group, [address])
        site = space.make_site(address)
        site.callback = self._callbacks[symbol]
        self._hooked[address] = symbol
        with self._group.stopped():
            space.arm(site)
            self._engine.classify()
        space.discard_unarmed()
