"""Processes that are stopped: what is put into them fires once they go on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from dprobed.proc import procfs


def stopped(pids: Iterable[int]) -> Iterator[str]:
    """What to say of those that stand in a group-stop; asked before they are traced, when the
    state does not show that any more."""
    for pid in pids:
        if procfs.run_state(procfs.live_thread(pid)) == "T":
            yield (
                f"process {pid} is stopped (by SIGSTOP, or Ctrl-Z): nothing fires in it until it "
                f"is continued (kill -CONT {pid})"
            )
