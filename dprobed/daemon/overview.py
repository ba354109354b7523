"""What the daemon does at present, in a line: for whoever looks at the service."""

from __future__ import annotations

from collections.abc import Sized
from typing import Final

from dprobed.daemon.targets import Targets
from dprobed.wire.messages import KERNEL


class Overview:
    """``deployments``, ``clients``: those of all users."""

    def __init__(self, targets: Targets, deployments: Sized, clients: Sized) -> None:
        self._targets: Final = targets
        self._deployments: Final = deployments
        self._clients: Final = clients

    def line(self) -> str:
        """How much of everything there is, of all users."""
        probed = [target for target in self._targets.by_pid.values() if target.programs]
        processes = [target for target in probed if target.pid != KERNEL]
        programs = {number for target in probed for number in target.programs}
        parts = [
            _counted(len(programs), "program"),
            "in " + _counted(len(processes), "process", "processes"),
        ]
        if len(processes) < len(probed):
            parts.append("and the kernel")
        return " ".join(parts) + f"; {_counted(len(self._deployments), 'deployment')}"


def _counted(number: int, word: str, words: str = "") -> str:
    return f"{number} {word if number == 1 else words or word + 's'}"
