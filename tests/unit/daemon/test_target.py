"""One process with probes, as the daemon knows it."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest

from dprobed.daemon.client import Refusal
from dprobed.daemon.insertion import Insertion
from dprobed.daemon.target import InsertedProgram, Target, TargetsTracer
from dprobed.daemon.variables import variables_of
from dprobed.proc import procfs
from dprobed.program.rpn.parser import assemble
from dprobed.wire import messages, protocol
from tests.fakes.backend import status


class _Tracer:
    """A tracer that has another process of the target's number by now."""

    class backend:
        @staticmethod
        async def request(make: object) -> protocol.Ok:
            raise AssertionError("what was meant for one process came to another")


class _Root:
    uid = 0
    gid = 0


def test_nothing_is_asked_of_a_target_that_has_ended() -> None:
    target = Target(1 << 22)
    target.tracer = cast("TargetsTracer", _Tracer())
    target.ended = protocol.Ended(target.pid, "exited", 3, probes=[], overhead_ns=0)
    target.finished.set()
    with pytest.raises(Refusal, match="exited with status 3"):
        asyncio.run(target.ask(lambda seq: protocol.Remove(seq=seq, pid=target.pid)))


def test_its_name_is_one_line_whatever_it_calls_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(procfs, "comm", lambda pid: b"evil\n\x1bname")
    assert Target(1 << 22).comm == "evil\\n\\x1bname"


def test_nothing_stands_in_a_target_that_has_ended() -> None:
    target = Target(1 << 22)
    target.suspended = [target.pid]
    assert target.info().suspended == [target.pid]
    target.ended = protocol.Ended(target.pid, "killed", 9, probes=[], overhead_ns=0)
    target.finished.set()
    assert target.info().suspended == []


def test_a_tracer_may_say_what_it_likes_of_variables() -> None:
    """Only as many words as there are variables are taken; of a child's, what it gained."""
    program = assemble("name = x\nvars = a, b\noffset = f\n  exit\n", "x.rpn")
    insertion = Insertion(
        number=1, upload=messages.Upload(label="x", bytecode=b""), program=program
    )
    target = Target(1 << 22)
    inserted = InsertedProgram(insertion, target, None, _Root())
    target.programs[1] = inserted
    lies = [
        protocol.LocalVariables(2, [1, 2]),
        protocol.LocalVariables(1, [1]),
        protocol.LocalVariables(1, [1, 2, 3]),
        protocol.LocalVariables(1, [1, 2], [1]),
    ]
    target.take_variables(lies)
    assert inserted.variables == [0, 0]
    target.take_variables([protocol.LocalVariables(1, [7, 2**64], [5, 1])])
    assert inserted.variables == [2, 2**64 - 1]
    sums = variables_of([inserted, inserted])
    assert [each.words for each in sums] == [[4, 2**64 - 2]]
    assert [(each.names, each.processes) for each in sums] == [(["a", "b"], 2)]


def test_what_was_dropped_of_a_probe_at_two_places_is_counted_once() -> None:
    """A module that is mapped under two names has it twice."""
    program = assemble("name = x\noffset = f\n  exit\n", "x.rpn")
    insertion = Insertion(
        number=1, upload=messages.Upload(label="x", bytecode=b""), program=program
    )
    inserted = InsertedProgram(insertion, Target(1 << 22), None, _Root())
    inserted.note(0, [status(1, hits=2, dropped=1), status(1, hits=5)])
    inserted.dropped[0] += 3
    inserted.count_handler_drop(0, "first")
    infos = list(inserted.probe_infos())
    assert [(each.hits, each.dropped, each.handler_drops) for each in infos] == [
        (2, 4, {"first": 1}),
        (5, 0, {}),
    ]
