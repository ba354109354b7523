"""Requests about policies: which are in force, which decides about a process, and reload."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from dprobed.daemon.client import Client
from dprobed.daemon.gate import Gate
from dprobed.policy import describe
from dprobed.policy.store import PolicyStore
from dprobed.printable import readable
from dprobed.wire import messages


class PolicyRequests:
    """Answers these requests; ``reload``: reloads the files and enforces them."""

    def __init__(
        self, gate: Gate, store: PolicyStore, reload: Callable[[], Awaitable[None]]
    ) -> None:
        self._gate: Final = gate
        self._store: Final = store
        self._reload: Final = reload

    async def explain(
        self, client: Client, request: messages.PolicyExplain
    ) -> messages.PolicyExplained:
        """Which policy decides about a process, and why."""
        process = self._gate.show(client, request.pid)
        explanation = describe.explain(self._gate.policies, process)
        return messages.PolicyExplained(id=request.id, explanation=explanation)

    async def list_all(
        self, client: Client, request: messages.PolicyList
    ) -> messages.PolicyListing:
        """The policies in force."""
        return self._listing(request.id)

    async def reload(
        self, client: Client, request: messages.PolicyReload
    ) -> messages.PolicyListing:
        """Reload the files; the policies in force after that."""
        await self._reload()
        return self._listing(request.id)

    def _listing(self, number: int) -> messages.PolicyListing:
        store = self._store
        return messages.PolicyListing(
            id=number,
            policies=[describe.policy_info(each) for each in store.policies.policies],
            folder=readable(store.config.policies),
            problem=store.problem,
            protect=sorted(store.policies.protect),
        )
