"""What a program sees of the hit that it runs for, whatever happens in the middle of that."""

from __future__ import annotations

import os
from typing import cast
from unittest import mock

from dprobed.engine.affinity import Affinity
from dprobed.engine.interface import Location
from dprobed.engine.probe import Attachment, Probe
from dprobed.engine.runner import ProgramRunner
from dprobed.proc.procfs import Status
from dprobed.program.exec.interface import Context, Outcome
from dprobed.program.exits import ABORT
from dprobed.program.model import ProbeDefinition
from dprobed.tracee.lifecycle import State
from dprobed.tracee.ptrace import Registers
from dprobed.tracee.thread import Group, Thread


def test_a_hit_that_is_served_in_the_middle_of_another_is_its_own() -> None:
    """A thread that is identified may make a system call for us, and others hit meanwhile."""
    seen: list[tuple[int, int, bool]] = []
    listener = mock.Mock()
    affinity = cast(Affinity, mock.Mock(cpu=0, elsewhere=False))
    runner = ProgramRunner(listener, Registers(), affinity)

    def entry(context: Context) -> Outcome:
        own = runner.facts[context.tid] is runner.context.facts
        seen.append((context.pid, context.tid, own))
        return Outcome(ABORT, b"", (), 0, 0, None, suspend=False, resume=False)

    probe = Probe(1, ProbeDefinition(0, address="0x1000"), entry, "x", alters=False)
    attachments = [Attachment(probe, "trap", Location(0x1000, 0, "f+0x0"))]
    # Threads that are there, to be identified.
    one, other = (Thread(tid, tid, State.RUNNING, cast(Group, None)) for tid in _tids())

    def identified(thread: Thread, found: Status) -> None:
        if thread is one:
            runner.run(other, attachments, False, 1 << 60)

    listener.identified = identified
    runner.run(one, attachments, False, 1 << 60)
    assert seen == [(other.tgid, other.tid, True), (one.tgid, one.tid, True)]


def _tids() -> tuple[int, int]:
    return os.getpid(), os.getppid()
