"""Reading the policies anew, and holding to them what is inserted and what inserts itself."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from dprobed.daemon.deploy.auto_insert import AutoInsert
from dprobed.daemon.deploy.deployments import Deployments
from dprobed.daemon.enforcement import Enforcement
from dprobed.policy.store import PolicyStore

_log = logging.getLogger("dprobed")


class PolicyReload:
    """At the daemon's start, at SIGHUP, and when a client asks for it."""

    def __init__(
        self,
        store: PolicyStore,
        enforcement: Enforcement,
        auto_insert: AutoInsert,
        deployments: Deployments,
    ) -> None:
        self._store: Final = store
        self._enforcement: Final = enforcement
        self._auto_insert: Final = auto_insert
        self._deployments: Final = deployments
        #: Two who have the policies read anew at the same time would put programs in twice.
        self._lock: Final = asyncio.Lock()

    async def begin(self) -> None:
        """Put in what the policies put in by themselves."""
        async with self._lock:
            await self._auto_insert.update()

    async def reload(self) -> None:
        """Read the policy files anew, and hold what is inserted to what they say."""
        async with self._lock:
            if problem := self._store.reload():
                _log.error("%s", problem)
                return
            _log.info("the policies were read anew")
            await self._enforcement.check_all()
            await self._auto_insert.update()
            self._deployments.look_again()
