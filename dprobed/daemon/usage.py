"""What the processes of dprobed itself use: CPU time and memory, by psutil."""

from __future__ import annotations

import os
from collections.abc import Container
from typing import Final

import psutil

from dprobed.daemon.client import Client
from dprobed.proc import procfs
from dprobed.wire import messages


class OwnUsage:
    """``resolvers``: the pids of resolver processes; all other children are tracers."""

    def __init__(self, resolvers: Container[int]) -> None:
        self._resolvers: Final = resolvers

    async def usage(self, client: Client, request: messages.Usage) -> messages.UsageInfo:
        """CPU time and memory of each process; one that ends meanwhile is left out."""
        found = [_usage(os.getpid(), "daemon")]
        for child in procfs.children(os.getpid()):
            found.append(_usage(child, "resolver" if child in self._resolvers else "tracer"))
        processes = [each for each in found if each is not None]
        return messages.UsageInfo(id=request.id, processes=processes)


def _usage(pid: int, what: str) -> messages.ProcessUsage | None:
    try:
        process = psutil.Process(pid)
        with process.oneshot():
            times = process.cpu_times()
            return messages.ProcessUsage(
                pid=pid,
                what=what,
                cpu_seconds=times.user + times.system,
                memory=process.memory_info().rss,
            )
    except psutil.Error:
        return None
