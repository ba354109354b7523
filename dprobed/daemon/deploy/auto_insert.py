"""Auto-insert: what policies put into processes by themselves, a deployment for each program.

The daemon is their client. ``dprobe remove`` takes them out like any other, until the policies are
read anew.
"""

from __future__ import annotations

import logging
import os

from dprobed.daemon.client import Refusal
from dprobed.daemon.deploy.deployment import Deployment
from dprobed.daemon.deploy.deployments import Deployments
from dprobed.policy.model import Application
from dprobed.policy.store import PolicyStore
from dprobed.wire import messages

_log = logging.getLogger("dprobed")


class _DaemonAsClient:
    """The daemon as the client of its own deployments: what it is told is in the log for all."""

    kept = True

    def __init__(self) -> None:
        self.pid, self.uid, self.gid = os.getpid(), os.geteuid(), os.getegid()

    def offer(self, lines: bytes) -> bool:
        """Records are in the log."""
        return True

    def tell(self, message: messages.Report) -> None:
        """States are in ``query``."""


class AutoInsert:
    """The applications of the policies in force."""

    def __init__(self, deployments: Deployments, store: PolicyStore) -> None:
        self._deployments = deployments
        self._store = store
        self._client = _DaemonAsClient()
        self._made: list[tuple[Application, list[Deployment]]] = []

    async def update(self) -> None:
        """The policies are others: what is new goes in, what they no longer say goes out."""
        wanted = self._store.policies.applications()
        stays = []
        for application, made in self._made:
            if application in wanted and not any(each.over for each in made):
                stays.append((application, made))
                continue
            for each in made:
                if not each.over:
                    select = messages.Select(number=each.number)
                    await self._deployments.take_out(self._client, select)
        self._made = stays
        there = [application for application, _ in stays]
        for application in wanted:
            if application not in there:
                await self._apply(application)

    async def _apply(self, application: Application) -> None:
        budget = application.limits.set_by("")
        request = messages.Deploy(
            id=0,
            programs=[
                messages.Upload(label=program.label, bytecode=program.bytecode, budget=budget)
                for program in application.programs
            ],
            selection=messages.Selection(policy=application.policy),
            limit=application.processes,
            keep=True,
        )
        try:
            made = await self._deployments.begin(self._client, request, application.seconds)
        except Refusal as refusal:
            text = f"policy {application.policy} ({application.place}) puts nothing in: {refusal}"
            _log.error("%s", text)
            self._store.note(text)
            return
        self._made.append((application, made))
