"""Keeps the deployments, and what they counted in ended processes, for a restarted daemon."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Container, Mapping
from typing import Final

from dprobed.daemon.client import Client
from dprobed.daemon.deploy.deployment import Deployment
from dprobed.daemon.kept import Kept, KeptDeployment
from dprobed.wire import messages

#: Seconds between two looks at what is to be kept of them.
_PAUSE: Final = 1.0

_log = logging.getLogger("dprobed")


class Keeping:
    """What is kept of them, now and then anew; and what policies made before a restart."""

    def __init__(self, kept: Kept, deployments: Mapping[int, Deployment]) -> None:
        """``deployments``: those that there are, by number."""
        self._kept: Final = kept
        self._all: Final = deployments
        #: As they were last kept.
        self._last: Final[dict[int, KeptDeployment]] = {}
        self._timer: asyncio.TimerHandle | None = None
        #: Those that policies had the daemon before this one make.
        self.of_policies: Final[list[KeptDeployment]] = []

    def start(self) -> None:
        """Look at them from now on."""
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_PAUSE, self._look)

    def stop(self) -> None:
        """There are none any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        self._timer = None
        for each in self._all.values():
            self.keep(each)
        if self._all:
            self.start()

    def keep(self, deployment: Deployment) -> None:
        """Keep one that is new, or whose sums have changed."""
        if deployment.kept:
            now = deployment.kept_now()
            if self._last.get(deployment.number) != now:
                self._last[deployment.number] = now
                self._kept.keep_deployment(now)

    def drop(self, number: int) -> None:
        """One is removed."""
        if self._last.pop(number, None) is not None:
            self._kept.drop_deployment(number)

    # -- those of policies -------------------------------------------------------------------------

    def expected(
        self, client: Client, selection: messages.Selection, upload: messages.Upload
    ) -> KeptDeployment | None:
        """The one of a policy, before a restart, that this is again."""
        for each in self.of_policies if client.pid == os.getpid() else ():
            if (each.selection, each.inserted.upload) == (selection, upload):
                self.of_policies.remove(each)
                return each
        return None

    def forget_expected(self, waiting: Container[str | None]) -> None:
        """The policies have made what they make, but for these, which are ``waiting`` for a
        handler: what is left of the others' is not any more."""
        for each in list(self.of_policies):
            if each.selection.policy in waiting:
                continue
            self.of_policies.remove(each)
            self._kept.drop_deployment(each.inserted.number)
            _log.info(
                "program %d (%s) is not deployed again after a restart: no policy does",
                each.inserted.number,
                each.inserted.upload.label,
            )
