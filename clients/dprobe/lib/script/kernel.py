"""A script in the kernel: its programs are in while the connection lasts."""

from __future__ import annotations

from collections.abc import Sequence

from dprobe.lib.script.deployed import Deployed
from dprobed.wire import messages


class InKernel(Deployed):
    """The programs of one script, in the kernel."""

    def insert(self, uploads: Sequence[messages.Upload], *, check_opcode: bool) -> None:
        """Put all of them in, or none; raises UserError."""
        answer = self._connection.request(
            lambda number: messages.InsertKernel(
                id=number, programs=list(uploads), check_opcode=check_opcode
            ),
            messages.Inserted,
        )
        self._numbers = [each.number for each in answer.programs]
        self._tell_of(answer.probes)

    def take_out(self) -> tuple[int, list[str]]:
        """Take them out; how many records were lost, and what else was missed."""
        found: list[messages.ProbeInfo] = []
        for number in self._numbers:
            answer = self._removed(number)
            if answer is not None:
                found += answer.probes
                self._last += answer.maps
        self._over = True
        gaps = [f"{each.place}: {each.reason}" for each in found if each.missed and each.reason]
        return sum(each.dropped for each in found), gaps
