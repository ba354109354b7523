"""What is remembered of where functions return to is bounded, whatever a target returns to."""

from __future__ import annotations

from typing import cast
from unittest import mock

from dprobed.arch.x86_64.registers import RSP
from dprobed.engine.runner import ProgramRunner
from dprobed.engine.trap.returns import MAX_OBSTACLES, Returns
from dprobed.engine.trap.sites import Site, Sites
from dprobed.tracee.ptrace import Registers
from dprobed.tracee.thread import Thread


def test_addresses_that_are_no_code_are_forgotten_by_and_by() -> None:
    """Each is asked about once, until there are too many."""
    registers = Registers()
    runner = cast(ProgramRunner, mock.Mock(registers=registers))
    sites = mock.Mock(spec=Sites, space=mock.Mock(), guard=mock.Mock())
    sites.space.why_no_code.return_value = "it is no code"
    returns = Returns(runner, sites, mock.Mock(), mock.Mock())
    thread, site = cast(Thread, mock.Mock(tid=7)), cast(Site, mock.Mock(entered=[]))

    def is_known(address: int) -> bool:
        registers.words[RSP] = 0x1000
        sites.space.memory.word.return_value = address
        return returns.is_ready(thread)

    for address in range(1, 2 * MAX_OBSTACLES + 2):
        assert not is_known(address)
        returns.prepare(thread, site)
        assert is_known(address)
    assert sum(map(is_known, range(1, 2 * MAX_OBSTACLES + 2))) <= MAX_OBSTACLES
