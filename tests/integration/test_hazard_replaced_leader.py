"""Hazard: another thread does `exec` while its leader is at a hit, and has the leader's id since.

What was to be done to the leader (go on in a slot, get registers, be resumed) is not done to it:
until we were told of the `exec`, the kernel lets us do nothing to it (looks_like_a_spurious_pid,
kernel/ptrace.c, Linux 5.13).
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from dprobed.engine.trap.sites import Site
from dprobed.engine.trap.stops import TrapStops
from dprobed.proc import procfs
from dprobed.tracee.thread import Thread
from tests.conftest import BuildTarget
from tests.integration.conftest import Start, Trace

#: Hits before that.
FEW = 5


@pytest.mark.parametrize("body", ["abort", "push r,rdx\npop r,rdx\nabort", "suspend\nabort"])
def test_the_new_image_runs_as_if_alone(
    build_target: BuildTarget,
    start: Start,
    trace: Trace,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    body: str,
) -> None:
    program = build_target("leader_replaced.c", "-pthread")
    trigger, image = tmp_path / "trigger", tmp_path / "image"
    image.symlink_to(program)
    target = start(program, trigger, image)
    works = TrapStops.hit

    def executed() -> bool:
        with suppress(OSError):  # one leader is gone, and the other one not there yet
            comm = Path(f"/proc/{target.pid}/comm").read_text()
            return comm == "image\n" and procfs.run_state(target.pid) == "t"
        return False

    def hit(self: TrapStops, thread: Thread, site: Site, now: int) -> Any:
        went = works(self, thread, site, now)
        if thread.tid == target.pid and self._runner.served == FEW:
            trigger.touch()
            while not executed():
                os.sched_yield()
        return went

    monkeypatch.setattr(TrapStops, "hit", hit)
    once = f"max_hits = 1\npass_count = {FEW - 1}\n" if body.startswith("suspend") else ""
    tracer = trace(target)
    tracer.put(f'name = "{program}"\noffset = probed\n{once}{body}\n')
    target.go()
    target.expect("replaced")
    target.expect("OK")
    assert target.process.wait() == 0
    ended = tracer.wait()
    assert (ended.how, ended.status) == ("exited", 0)
