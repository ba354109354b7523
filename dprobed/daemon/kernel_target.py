"""The kernel as a target: it is one while programs are in it."""

from __future__ import annotations

import asyncio
import os
from typing import Final

from dprobed.daemon.client import Client, Refusal
from dprobed.daemon.kernel_files import KernelFiles
from dprobed.daemon.target import Target
from dprobed.daemon.targets import Targets
from dprobed.daemon.tracer_pool import TracerPool
from dprobed.kernel.backend import NAME
from dprobed.kernel.device import DeviceError
from dprobed.wire.messages import KERNEL


class KernelTarget:
    """``pool``: opens the kernel's device. ``files``: finds places in what processes map."""

    def __init__(self, targets: Targets, pool: TracerPool, files: KernelFiles) -> None:
        self.files: Final = files
        self._targets: Final = targets
        self._pool: Final = pool
        self._opening: Final = asyncio.Lock()

    async def hold(self, client: Client) -> Target:
        """The target, which ``client`` holds from now on; raises Refusal.

        Who has its lock may find that it has ended: the last program has just been removed.
        """
        async with self._opening:
            target = self._targets.by_pid.get(KERNEL)
            if target is None or target.finished.is_set():
                target = await self._open()
            target.holders.add(client)
            return target

    async def _open(self) -> Target:
        target = Target(KERNEL)
        target.comm = NAME
        target.uid = os.geteuid()
        try:
            await self._pool.place(target, (os.geteuid(), os.getegid()), target.uid, shared=False)
        except DeviceError as error:
            raise Refusal(str(error)) from None
        target.attached = True
        self._targets.by_pid[KERNEL] = target
        return target
