"""Auto-insertion: programs that policies insert, a deployment for each program.

The daemon is their client. ``dprobe remove`` removes them like any others, until the policies are
reloaded.
"""

from __future__ import annotations

import logging
import os

from dprobed.daemon.client import Refusal
from dprobed.daemon.deploy.deployment import Deployment
from dprobed.daemon.deploy.deployments import Deployments
from dprobed.policy.model import AutoInsertion
from dprobed.policy.store import PolicyStore
from dprobed.wire import messages

_log = logging.getLogger("dprobed")


class _DaemonAsClient:
    """The daemon as the client of its own deployments; their records are in the log."""

    kept = True

    def __init__(self) -> None:
        self.pid, self.uid, self.gid = os.getpid(), os.geteuid(), os.getegid()

    def offer(self, lines: bytes) -> bool:
        """Records are in the log."""
        return True

    def tell(self, message: messages.Report) -> None:
        """States are in ``query``."""


class AutoInsert:
    """What the policies in force put in by themselves."""

    def __init__(self, deployments: Deployments, store: PolicyStore) -> None:
        self._deployments = deployments
        self._store = store
        self._client = _DaemonAsClient()
        self._made: list[tuple[AutoInsertion, list[Deployment]]] = []

    async def update(self) -> None:
        """After a reload of the policies: insert what is new in them, remove what is gone."""
        wanted = self._store.policies.auto_insertions()
        stays = []
        for auto_insertion, made in self._made:
            if auto_insertion in wanted and not any(each.is_removed for each in made):
                stays.append((auto_insertion, made))
                continue
            for each in made:
                if not each.is_removed:
                    select = messages.Select(number=each.number)
                    await self._deployments.take_out(self._client, select)
        self._made = stays
        kept = [each for each, _ in stays]
        for auto_insertion in wanted:
            if auto_insertion not in kept:
                await self._apply(auto_insertion)

    async def _apply(self, auto_insertion: AutoInsertion) -> None:
        budget = auto_insertion.limits.set_by("")
        request = messages.Deploy(
            id=0,
            programs=[
                messages.Upload(label=program.label, bytecode=program.bytecode, budget=budget)
                for program in auto_insertion.programs
            ],
            selection=messages.Selection(policy=auto_insertion.policy),
            limit=auto_insertion.processes,
            keep=True,
        )
        try:
            made = await self._deployments.begin(self._client, request, auto_insertion.seconds)
        except Refusal as refusal:
            text = f"policy {auto_insertion.policy} ({auto_insertion.place})"
            text += f" inserts nothing: {refusal}"
            _log.error("%s", text)
            self._store.note(text)
            return
        self._made.append((auto_insertion, made))
