"""Auto-insertion: programs that policies insert, a deployment for each program.

The daemon is their client. ``dprobe remove`` removes them like any others, until the policies are
reloaded.
"""

from __future__ import annotations

import logging
import os

from dprobed.daemon.client import NoFacilityRefusal, Refusal
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
        #: Those that name a facility which nobody has registered yet, with what was said of them.
        self._waiting: list[tuple[AutoInsertion, str]] = []

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
        self._waiting = []
        kept = [each for each, _ in stays]
        for auto_insertion in wanted:
            if auto_insertion not in kept:
                await self._apply(auto_insertion)

    def waiting(self) -> set[str]:
        """The policies that insert something as soon as a handler is registered."""
        return {auto_insertion.policy for auto_insertion, _ in self._waiting}

    async def try_again(self) -> None:
        """After a handler came or went: insert what waited for it."""
        waiting, self._waiting = self._waiting, []
        for auto_insertion, said in waiting:
            await self._apply(auto_insertion, said)

    async def _apply(self, auto_insertion: AutoInsertion, said: str = "") -> None:
        """``said``: why it was not inserted, when it was tried last."""
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
            if isinstance(refusal, NoFacilityRefusal):
                text += "; it waits until one is"
                self._waiting.append((auto_insertion, text))
            if text != said:
                self._store.settle(said)
                self._store.note(text)
                _log.error("%s", text)
            return
        if said:
            self._store.settle(said)
            _log.info("policy %s inserts its programs now", auto_insertion.policy)
        self._made.append((auto_insertion, made))
