"""What commands say of processes whose tracer does not answer."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Any
from unittest import mock

import pytest
from dprobe.commands import options
from dprobe.lib.errors import UserError
from dprobe.lib.script.deployed import Deployed
from dprobe.lib.script.processes import SessionProcesses
from dprobe.lib.told_maps import MapChange
from dprobe.main import main

from dprobed.wire import messages

ONE, OTHER = 71, 72
SILENT = f"process {ONE}: its tracer does not answer, for 15 s; it is done when that answers"


class Daemon:
    """Of two processes the first one's tracer stops to answer."""

    def __init__(self) -> None:
        self.asked: list[messages.Request] = []
        #: What is removed elsewhere.
        self.elsewhere = False

    def __enter__(self) -> Daemon:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: object, trace: TracebackType | None
    ) -> None:
        pass

    def listen(self, on_record: object, on_report: object) -> None:
        """It has nothing to tell by itself."""

    def request(self, make: Callable[[int], messages.Request], kind: type) -> messages.Reply:
        """The answer, or UserError."""
        request = make(len(self.asked) + 1)
        self.asked.append(request)
        match request:
            case messages.Remove() if self.elsewhere:
                return messages.Removed(
                    id=request.id, probes=[_probe()], overhead_ns=0, stays={ONE: SILENT}
                )
            case messages.Remove():
                raise UserError(SILENT)
            case messages.Deploy():
                return messages.Deployed(id=request.id, deployments=[_deployment()])
            case messages.Maps() | messages.SetMap():
                return messages.MapListing(id=request.id, maps=[], silent=[ONE])
            case messages.Resume():
                return messages.Resumed(id=request.id, tids=[OTHER], silent=[ONE])
        raise AssertionError(request)


def _probe() -> messages.ProbeInfo:
    return messages.ProbeInfo(
        program="x",
        number=3,
        probe=0,
        major=0,
        minor=0,
        group=0,
        pid=ONE,
        module="libc.so.6",
        place="getppid",
        state="active",
        reason="",
        addresses=[],
        hits=0,
        ran=0,
        missed=0,
        dropped=0,
        faulted=0,
    )


def _deployment() -> messages.DeploymentInfo:
    none: dict[str, Any] = dict.fromkeys(
        ("program_id", "major", "uid", "waiting", "missed", "unseen"), 0
    )
    none |= dict.fromkeys(("hits", "ran", "missed_hits", "dropped", "overhead_ns"), 0)
    return messages.DeploymentInfo(
        number=3,
        program="x",
        module="libc.so.6",
        probes=1,
        selection=messages.Selection(),
        limit=None,
        kept=False,
        state="active",
        processes=2,
        entered=2,
        refused={},
        refusals={},
        **none,
    )


@pytest.fixture
def daemon(monkeypatch: pytest.MonkeyPatch) -> Daemon:
    """The one that all commands ask: a tracer that is silent for so long takes as long."""
    made = Daemon()
    monkeypatch.setattr(options, "running", lambda socket: made)
    return made


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["remove", "--all"], SILENT),
        (["resume"], f"process {ONE}: its tracer does not answer; what it holds is still held"),
    ],
)
def test_what_stays_where_others_are_done(
    daemon: Daemon, words: list[str], text: str, capfd: pytest.CaptureFixture[str]
) -> None:
    daemon.elsewhere = True
    assert main(words) == 2
    said = capfd.readouterr()
    assert " ".join(said.err.split()) == f"dprobe: {text}"
    assert said.out


def test_what_a_process_of_a_session_does_not_say_is_told_once(daemon: Daemon) -> None:
    said: list[str] = []
    session = mock.Mock(alive=[ONE, OTHER], numbers=[3], maps=[])
    processes = SessionProcesses(daemon, session, said.append, mock.Mock())  # type: ignore[arg-type]
    for _ in range(2):
        processes.maps(["calls"])
    assert said == [f"process {ONE}: its tracer does not answer; what it has in maps is left out"]


def test_what_is_left_out_of_a_script_is_told_once(daemon: Daemon) -> None:
    daemon.elsewhere = True
    said: list[str] = []
    deployed = Deployed(daemon, lambda record: None, said.append)  # type: ignore[arg-type]
    deployed.deploy([], messages.Selection(), check_opcode=True)
    for _ in range(2):
        deployed.maps(["calls"])
    deployed.put([MapChange("seen", [], [])])
    deployed.take_out()
    silent = f"process {ONE}: its tracer does not answer"
    assert said == [
        f"{silent}; what it has in maps is left out",
        f"{silent}; whether seen is set is not known",
        f"{SILENT}; what it counted at last is left out",
    ]
