"""Deployments of a daemon that mostly has none: made when the first one is asked for.

A private daemon is to be ready at once, and what deployments need takes as long to import as all
that it needs itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from dprobed.daemon.client import Client
from dprobed.wire import messages

if TYPE_CHECKING:
    from dprobed.daemon.deploy.deployments import Deployments
    from dprobed.daemon.removal import Removal


class DeploymentsOnDemand:
    """As ``Deployments``, which ``make`` makes; ``removal``: removes programs until then."""

    def __init__(self, make: Callable[[], Deployments], removal: Removal) -> None:
        self._make: Final = make
        self._removal: Final = removal
        self._made: Deployments | None = None

    async def deploy(self, client: Client, request: messages.Deploy) -> messages.Deployed:
        """Deploy programs to the selected processes, future ones included."""
        if self._made is None:
            self._made = self._make()
        return await self._made.deploy(client, request)

    async def remove(self, client: Client, request: messages.Remove) -> messages.Removed:
        """Remove programs and deployments."""
        made = self._made
        remove = self._removal.remove if made is None else made.remove
        return await remove(client, request)

    def infos(self, client: Client, select: messages.Select) -> list[messages.DeploymentInfo]:
        """The selected ones that the client may see."""
        return [] if self._made is None else self._made.infos(client, select)

    def variables(self, client: Client, select: messages.Select) -> list[messages.VariablesInfo]:
        """The local variables of the selected ones."""
        return [] if self._made is None else self._made.variables(client, select)

    def discovery(self) -> messages.DiscoveryInfo | None:
        """How the daemon learns of new processes; None: nobody asked for that."""
        return None if self._made is None else self._made.discovery()

    def release(self, client: Client) -> None:
        """A client is gone: remove its deployments."""
        if self._made is not None:
            self._made.release(client)

    def stop(self) -> None:
        """Stop all insertion."""
        if self._made is not None:
            self._made.stop()
