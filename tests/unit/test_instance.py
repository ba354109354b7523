"""Targets, as the daemon knows them."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from dprobed.engine import protocol
from dprobed.instance import Refusal, Target


def test_nothing_is_asked_about_a_target_that_was_let_go() -> None:
    """Its tracer may have the same process again: what is put into that one, nobody would know."""
    asked: list[protocol.Request] = []

    async def request(make: Any) -> protocol.Ok:
        asked.append(make(1))
        return protocol.Ok(1)

    async def ask(target: Target) -> None:
        await target.ask(lambda seq: protocol.Detach(seq=seq, pid=target.pid))

    target = Target(1)
    host: Any = SimpleNamespace(tracer=SimpleNamespace(request=request))
    target.host = host
    asyncio.run(ask(target))
    assert len(asked) == 1
    target.finished.set()
    with pytest.raises(Refusal, match="process 1 was let go"):
        asyncio.run(ask(target))
    assert len(asked) == 1
