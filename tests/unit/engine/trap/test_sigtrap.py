"""When the target's SIGTRAP disposition is looked at."""

from __future__ import annotations

import os
from typing import cast
from unittest import mock

import pytest

from dprobed.engine.trap.installed_guard import InstalledGuard
from dprobed.engine.trap.notes import ThreadNotes
from dprobed.engine.trap.sigtrap import Sigtrap
from dprobed.proc import procfs
from dprobed.tracee.lifecycle import State
from dprobed.tracee.thread import Group, Thread


@pytest.mark.parametrize("is_waiting", [False, True])
def test_it_is_not_looked_at_while_another_thread_does_something_for_us(
    monkeypatch: pytest.MonkeyPatch, is_waiting: bool
) -> None:
    """There is one gate in an address space, with one way back."""
    look = mock.Mock(return_value=False)
    monkeypatch.setattr(InstalledGuard, "is_look_due", look)
    pid = os.getpid()
    group = mock.Mock()
    group.borrower.is_waiting = is_waiting
    sites = mock.Mock()
    sites.space.tgid = pid
    found = procfs.status(pid)
    assert found is not None
    sigtrap = Sigtrap(group, sites, ThreadNotes())
    sigtrap.identified(Thread(pid, pid, State.RUNNING, cast(Group, None)), found)
    assert look.called is not is_waiting
