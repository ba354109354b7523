"""Reloads the policies, and applies them to inserted programs and auto-inserted ones."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from dprobed import systemd_journal
from dprobed.daemon.deploy.auto_insert import AutoInsert
from dprobed.daemon.deploy.deployments import Deployments
from dprobed.daemon.enforcement import Enforcement
from dprobed.daemon.service import ServiceManager
from dprobed.policy.store import PolicyStore

_log = logging.getLogger("dprobed")


class PolicyReload:
    """Applies the policies at the daemon's start, at SIGHUP, and when a client asks for a
    reload."""

    def __init__(
        self,
        store: PolicyStore,
        enforcement: Enforcement,
        auto_insert: AutoInsert,
        deployments: Deployments,
        service: ServiceManager,
    ) -> None:
        self._store: Final = store
        self._enforcement: Final = enforcement
        self._auto_insert: Final = auto_insert
        self._deployments: Final = deployments
        self._service: Final = service
        #: Two reloads at a time would insert programs twice.
        self._lock: Final = asyncio.Lock()

    async def begin(self) -> None:
        """Insert the policies' auto-inserted programs; those that were inserted before a restart go
        on."""
        async with self._lock:
            await self._auto_insert.update()
            self._deployments.keeping.forget_expected(self._auto_insert.waiting())

    async def facilities_changed(self) -> None:
        """Insert what waited for a handler that is registered now."""
        async with self._lock:
            await self._auto_insert.try_again()

    async def reload(self) -> None:
        """Reload the policy files, and enforce them on inserted programs."""
        async with self._lock:
            with self._service.reloading():
                await self._reload()

    async def _reload(self) -> None:
        if problem := self._store.reload():
            _log.error("%s", problem, extra=systemd_journal.about("not-reloaded"))
            return
        _log.info("policies reloaded", extra=systemd_journal.about("reloaded"))
        await self._enforcement.check_all()
        await self._auto_insert.update()
        self._deployments.look_again()
