"""How listings of probes and the state of a daemon read."""

from __future__ import annotations

import os

import click
import pytest
from dprobe.commands.debug import _chosen, gdb_command
from dprobe.commands.pids import OneProcess
from dprobe.lib.errors import UserError
from dprobe.lib.health import _problems
from dprobe.view.probes import explain_probes, nanoseconds, show_status

from dprobed.wire import messages
from tests.unit.client.test_output import probe


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (1, "1 ns"),
        (999, "999 ns"),
        (1000, "1 µs"),
        (12_340, "12.3 µs"),
        (999_999, "999 µs"),
        (4_560_000, "4.56 ms"),
        (78_900_000_000, "78.9 s"),
        (3_600_000_000_000, "3600 s"),
    ],
)
def test_times_have_units(number: int, text: str) -> None:
    assert nanoseconds(number) == text


def test_query_shows_times_with_units(capsys: pytest.CaptureFixture[str]) -> None:
    target = messages.TargetInfo(
        pid=10, comm="sort", ended="", overhead_ns=1_234_567, suspended=[], backend="tracer"
    )
    status = messages.Status(id=1, targets=[target], probes=[probe(asleep_ns=2_500)])
    show_status(status, extended=True, everything=True, json=False)
    said = capsys.readouterr().out
    assert "1.23 ms" in said
    assert "2.5 µs" in said
    assert ", ns" not in said
    show_status(status, extended=True, everything=True, json=True)
    said = capsys.readouterr().out
    assert '"overhead_ns":1234567' in said
    assert '"asleep_ns":2500' in said


def test_a_tracer_that_does_not_answer_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    target = messages.TargetInfo(
        pid=10, comm="sort", ended="", overhead_ns=0, suspended=[], silent_seconds=12.3
    )
    status = messages.Status(id=1, targets=[target], probes=[probe()])
    show_status(status, extended=False, everything=False, json=False)
    said = "process 10 (sort): its tracer does not answer, for 12 s; what is shown of it is from "
    assert said in capsys.readouterr().out


def test_one_message_for_one_probe(capfd: pytest.CaptureFixture[str]) -> None:
    doubt = "no module `libx.so` is mapped; this fires when one is"
    explain_probes([probe(state="pending", reason="no mapped module of that name", doubt=doubt)])
    assert capfd.readouterr().err.count("pending") == 1
    explain_probes([probe(state="failed", reason="its tracer has died")])
    assert "failed: its tracer has died" in capfd.readouterr().err


def test_what_is_not_in_again_after_a_restart_is_told(capfd: pytest.CaptureFixture[str]) -> None:
    kept = [
        messages.KeptInfo(number=3, program="opens", pid=10, uid=0, problem=""),
        messages.KeptInfo(number=4, program="alloc", pid=11, uid=0, problem="internal error"),
    ]
    status = messages.Status(id=1, targets=[], probes=[], kept=kept)
    show_status(status, extended=False, everything=True, json=False)
    said = capfd.readouterr().err
    assert "opens (no 3) in process 10: about to be put in again after a restart" in said
    assert "alloc (no 4) in process 11: not put in again" in said
    assert "internal error" in said
    assert "dprobe remove 4" in said
    show_status(status, extended=False, everything=True, json=True)
    assert '"type":"kept"' in capfd.readouterr().out


@pytest.mark.parametrize(("failures", "text"), [(1, "died"), (2, "died 2 times")])
def test_a_handler_that_died(failures: int, text: str) -> None:
    handler = messages.HandlerInfo(
        handler="h", facility="f", number=16, owner="x", order="default", armed=False, alive=False,
        reports=0, waiting=0, timeouts=0, drops=0, failures=failures,
    )  # fmt: skip
    status = messages.Status(id=1, targets=[], probes=[])
    policies = messages.PolicyListing(id=1, policies=[], folder="", problem="", protect=[])
    assert _problems(status, [handler], policies) == [f"handler h of f {text}"]


def test_a_process_by_its_number_or_a_name_that_only_one_has(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    named = [(10, "one"), (11, "two"), (12, "two")]
    monkeypatch.setattr("dprobe.commands.pids._named", lambda: named)
    process = OneProcess()
    assert process.convert("one", None, None) == 10
    assert process.convert(str(os.getpid()), None, None) == os.getpid()
    with pytest.raises(click.BadParameter, match="two is several processes: 11, 12; name one"):
        process.convert("two", None, None)
    with pytest.raises(click.BadParameter, match="no process is called three"):
        process.convert("three", None, None)
    with pytest.raises(click.BadParameter, match="0 is not in the range"):
        process.convert("0", None, None)


def test_the_process_that_a_debugger_is_for() -> None:
    rows = [
        {"pid": 10, "state": "runs"},
        {"pid": 11, "state": "held"},
        {"pid": 12, "state": "held"},
    ]
    assert _chosen(rows, (10, 11)) == rows[1]
    assert _chosen(rows, (10,)) == rows[0]
    with pytest.raises(UserError, match="held for a debugger: 11, 12; name one"):
        _chosen(rows, (10, 11, 12))
    with pytest.raises(UserError, match="process 9 is not held"):
        _chosen(rows, (9,))
    with pytest.raises(UserError, match="none of these processes is held"):
        _chosen(rows, (8, 9))
    with pytest.raises(UserError, match="process 13 has a debugger already"):
        _chosen([{"pid": 13, "state": "debugged"}], (13,))


@pytest.mark.parametrize("path", ["| touch x", "/a b", "/a\nshell x", "x", ""])
def test_gdb_gets_a_plain_path_or_none(path: str) -> None:
    assert "/run/x/1" in " ".join(gdb_command(1, "/run/x/1"))
    with pytest.raises(UserError, match="odd name"):
        gdb_command(1, path)
