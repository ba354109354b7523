"""Ctrl-C while programs are being put into processes: all is in, or nothing, and it is said."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

import pytest
from dprobe.commands import insert, options
from dprobe.lib.errors import UserError
from dprobe.main import main

from dprobed.wire import messages
from tests.unit.client.test_silent_tracers import ONE, OTHER, _probe

PROGRAM = "name = libc.so.6\noffset = getppid\nabort\n"


class Daemon:
    """While it puts programs in, Ctrl-C is pressed, ``often``; ``why``: it refuses them."""

    def __init__(self) -> None:
        self.often = 1
        self.why = ""

    def __enter__(self) -> Daemon:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: object, trace: TracebackType | None
    ) -> None:
        pass

    def request(self, make: Callable[[int], messages.Request], kind: type) -> messages.Reply:
        """The answer, or UserError."""
        match request := make(1):
            case messages.Attach():
                return messages.Attached(id=1, pid=request.pid)
            case messages.Insert():
                assert [request.pid, *request.also] == [ONE, OTHER]
                for _ in range(self.often):
                    os.kill(os.getpid(), signal.SIGINT)
                if self.why:
                    raise UserError(self.why)
                return messages.Inserted(id=1, programs=[], probes=[_probe()])
        raise AssertionError(request)


@pytest.fixture
def daemon(monkeypatch: pytest.MonkeyPatch) -> Daemon:
    made = Daemon()
    monkeypatch.setattr(options, "running", lambda socket: made)
    monkeypatch.setattr(insert, "check", lambda *_: None)
    monkeypatch.setattr(insert, "stopped", lambda pids: [])
    monkeypatch.setattr(insert, "untaken", lambda *_: [])
    return made


def interrupted(tmp_path: Path) -> int:
    """The exit status of an insertion."""
    path = tmp_path / "x.rpn"
    path.write_text(PROGRAM)
    return main(["insert", str(path), "--json", "-p", str(ONE), str(OTHER)])


def test_what_is_in_is_shown(
    daemon: Daemon, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = signal.getsignal(signal.SIGINT)
    assert interrupted(tmp_path) == 130
    said = capfd.readouterr()
    assert json.loads(said.out)["pid"] == ONE
    assert said.err.split("\n")[:2] == [
        "dprobe: what is put in stays: waiting to see what that is",
        "dprobe: interrupted when it was in; `dprobe remove` takes it out",
    ]
    assert signal.getsignal(signal.SIGINT) == before


def test_that_nothing_is_in_is_said(
    daemon: Daemon, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    daemon.why = f"process {OTHER}: no room for it; nothing was put into the others"
    assert interrupted(tmp_path) == 2
    said = capfd.readouterr()
    assert said.out == ""
    assert said.err.splitlines()[-1] == f"dprobe: {daemon.why}"


def test_who_presses_it_again_waits_no_longer(
    daemon: Daemon, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    daemon.often = 2
    assert interrupted(tmp_path) == 130
    said = capfd.readouterr()
    assert said.out == ""
    assert said.err.splitlines()[0] == "dprobe: what is put in stays: waiting to see what that is"
