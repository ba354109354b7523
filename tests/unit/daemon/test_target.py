"""One process with probes, as the daemon knows it."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest

from dprobed.daemon.client import Refusal
from dprobed.daemon.target import Target, TargetsTracer
from dprobed.wire import protocol


class _Tracer:
    """A tracer that has another process of the target's number by now."""

    class backend:
        @staticmethod
        async def request(make: object) -> protocol.Ok:
            raise AssertionError("what was meant for one process came to another")


def test_nothing_is_asked_of_a_target_that_has_ended() -> None:
    target = Target(1 << 22)
    target.tracer = cast("TargetsTracer", _Tracer())
    target.ended = protocol.Ended(target.pid, "exited", 3, probes=[], overhead_ns=0)
    target.finished.set()
    with pytest.raises(Refusal, match="exited with status 3"):
        asyncio.run(target.ask(lambda seq: protocol.Remove(seq=seq, pid=target.pid)))
