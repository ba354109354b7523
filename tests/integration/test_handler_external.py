"""Handlers at the other end of the control socket, with real programs in a real process."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.client_support import (
    DPROBE,
    PATIENCE,
    Cat,
    Daemon,
    Json,
    Peer,
    program,
    words,
)

EXAMPLE = Path(__file__).parents[2] / "clients" / "examples" / "handler.py"
#: Hands the length of each write to facility `mail`.
MAILS = "name = libc.so.6\noffset = write\n    push r,rdx\n    log 1\n    exit mail\n"


#: A handler that is not late on a machine where others are at work.
PATIENT: dict[str, object] = {"timeout": PATIENCE}


class Handler(Peer):
    """A handler of facility `mail`."""

    def __init__(self, daemon: Daemon, name: str, **how: object) -> None:
        super().__init__(daemon)
        self.name = name
        answer = self.ask({"type": "register", "id": 1, "name": name, "facility": "mail", **how})
        assert answer == {"type": "registered", "id": 1, "handler": name, "number": 16}

    def report(self) -> Json:
        """The next report."""
        message = self.read()
        assert message is not None and message["type"] == "report", message
        assert (message["handler"], message["facility"]) == (self.name, "mail")
        return message

    def answer(self, report: Json, verdict: str = "continue") -> int:
        """Say something to a report; the word that it has."""
        number = report["report"]
        self.send({"type": "answer", "handler": self.name, "report": number, "verdict": verdict})
        assert report["record"]["exit"] == "mail"
        (word,) = words(report["record"])
        return word


def insert(daemon: Daemon, target: Cat, folder: Path, text: str = MAILS) -> None:
    done = daemon.dprobe("insert", "--pid", target.pid, program(folder, text, "mails"))
    assert done.returncode == 0, done.stderr


def listed(daemon: Daemon) -> dict[str, Json]:
    """The handlers of `mail`, in order."""
    handlers = daemon.json("handlers")
    return {each["handler"]: each for each in handlers if each["facility"] == "mail"}


def test_the_example_gets_what_programs_hand_over(
    daemon: Daemon, target: Cat, tmp_path: Path
) -> None:
    command: list[str | Path] = [sys.executable, EXAMPLE, daemon.socket]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as example:
        assert example.stdout and example.stderr
        assert '"facilities":{' in example.stderr.readline()
        assert '"registered"' in example.stderr.readline()
        insert(daemon, target, tmp_path)
        target.say("four")
        assert example.stdout.readline() == "cat write+0x0 [{'words': [5]}]\n"
        mailer = listed(daemon)["mailer"]
        assert (mailer["facility"], mailer["number"], mailer["order"]) == ("mail", 16, "default")
        assert mailer["owner"].endswith(f"[{example.pid}], user {os.getuid()}")
        assert (mailer["armed"], mailer["alive"], mailer["reports"]) == (True, True, 1)
        example.kill()


def test_reports_pass_handlers_in_order_until_one_ends_them(
    daemon: Daemon, target: Cat, tmp_path: Path
) -> None:
    with (
        Handler(daemon, "second", **PATIENT) as second,
        Handler(daemon, "first", order="first", **PATIENT) as first,
    ):
        insert(daemon, target, tmp_path)
        target.say("a")
        target.say("bb")
        assert first.answer(first.report(), "terminate") == 2
        assert first.answer(first.report()) == 3
        assert second.answer(second.report()) == 3
        assert list(listed(daemon)) == ["first", "second"]
        records = daemon.json("log")
        assert [words(record) for record in records] == [[2], [3]]


def test_reports_of_one_that_dies_fall_to_the_next(
    daemon: Daemon, target: Cat, tmp_path: Path
) -> None:
    with Handler(daemon, "heir", order="last") as heir:
        dying = Handler(daemon, "dying", timeout=60)
        insert(daemon, target, tmp_path)
        target.say("a")
        target.say("bb")
        dying.report()
        dying.report()
        dying.__exit__()
        assert [heir.answer(heir.report()) for _ in range(2)] == [2, 3]
        gone = listed(daemon)["dying"]
        assert (gone["armed"], gone["alive"], gone["failures"], gone["reports"]) == (
            *(False, False),
            *(1, 2),
        )
        assert " dead " in daemon.dprobe("handlers").stdout
        said = daemon.dprobe("query").stderr
        assert "handler dying of mail has died: the next one has its reports" in said
        target.say("ccc")
        assert heir.answer(heir.report()) == 4
        with Handler(daemon, "dying"):
            again = listed(daemon)["dying"]
            assert (again["alive"], again["failures"], again["reports"]) == (True, 1, 2)


def test_that_the_only_one_has_died_is_said_where_its_programs_are_seen(
    daemon: Daemon, target: Cat, tmp_path: Path
) -> None:
    with (
        Handler(daemon, "alone", **PATIENT) as alone,
        subprocess.Popen(
            [DPROBE, "--socket", daemon.socket, "log", "-f"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as log,
    ):
        insert(daemon, target, tmp_path)
        target.say("a")
        alone.answer(alone.report())
        assert log.stdout is not None
        assert log.stderr is not None
        log.stdout.readline()  # It follows.
        alone.__exit__()
        said = sorted(log.stderr.readline() for _ in range(2))
        assert said[0].startswith("dprobe: handler alone of mail has died (")
        assert said[1] == "dprobe: mails: nothing takes `exit mail` any more\n"
        log.send_signal(signal.SIGINT)
        log.communicate(timeout=PATIENCE)
    assert "`exit mail` is an exception (INVALID_OPERAND)" in daemon.dprobe("query").stderr


def test_one_that_does_not_answer_is_passed_over(
    daemon: Daemon, target: Cat, tmp_path: Path
) -> None:
    with (
        Handler(daemon, "silent", order="first", timeout=0.05) as silent,
        Handler(daemon, "next", **PATIENT) as following,
    ):
        insert(daemon, target, tmp_path)
        target.say("a")
        assert following.answer(following.report()) == 2
        seen = listed(daemon)
        assert (seen["silent"]["timeouts"], seen["silent"]["waiting"]) == (1, 0)
        assert seen["next"]["timeouts"] == 0
        # Too late, and harmless.
        silent.answer(silent.report(), "terminate")
        target.say("bb")
        assert silent.answer(silent.report(), "terminate") == 3
        # On a machine where others are at work that may have been too late, too.
        handlers = silent.ask({"type": "handlers", "id": 2})["handlers"]
        (timeouts,) = (each["timeouts"] for each in handlers if each["handler"] == "silent")
        passed_over = [3] * (timeouts - 1)
        assert silent.ask({"type": "deregister", "id": 2, "name": "silent"})["id"] == 2
        target.say("ccc")
        heard = [following.answer(following.report()) for _ in (*passed_over, "ccc")]
        assert heard == [*passed_over, 4]


def test_a_slow_handler_loses_reports_and_nobody_waits(
    daemon: Daemon, target: Cat, tmp_path: Path
) -> None:
    with Handler(daemon, "slow", queue=2, timeout=60) as slow:
        insert(daemon, target, tmp_path)
        for _ in range(20):
            target.say("a")
        with Peer(daemon) as affinity:
            affinity.send({"type": "log", "id": 1, "follow": True})
            records = 0
            while records < 20:
                record = affinity.read()
                assert record is not None and record["type"] in ("record", "logged")
                records += record["type"] == "record"
        counted = listed(daemon)["slow"]
        assert (counted["reports"], counted["waiting"], counted["drops"]) == (2, 2, 18)
        (probe,) = daemon.json("query")
        assert (probe["hits"], probe["dropped"]) == (20, 0)
        assert probe["handler_drops"] == {"slow": 18}
        assert "slow=18" in daemon.dprobe("query", "-x").stdout
        slow.answer(slow.report())
        target.say("bb")
        slow.report()
        assert slow.answer(slow.report()) == 3


def test_a_program_that_names_no_facility_is_refused(
    daemon: Daemon, target: Cat, tmp_path: Path
) -> None:
    for exit_to in ("mail", "16"):
        source = program(tmp_path, MAILS.replace("mail", exit_to), "mails")
        done = daemon.dprobe("insert", "--pid", target.pid, source)
        assert done.returncode == 2
        assert f"mails: no facility {exit_to} is registered; registered: " in done.stderr
        assert "trace (4)" in done.stderr
        with Handler(daemon, "late"):
            insert(daemon, target, tmp_path, MAILS.replace("mail", exit_to))
        daemon.dprobe("remove", "--all")


@pytest.mark.parametrize("exit_to", ["mail", "16"])
def test_a_facility_that_goes_away_raises_in_the_program(
    daemon: Daemon, target: Cat, tmp_path: Path, exit_to: str
) -> None:
    with Handler(daemon, "one") as one:
        insert(daemon, target, tmp_path, MAILS.replace("mail", exit_to))
        target.say("a")
        assert one.answer(one.report()) == 2
    with Peer(daemon) as peer:
        # What the tracer was told before it answers: the facility is gone.
        assert peer.ask({"type": "query", "id": 1})["probes"][0]["hits"] == 1
        target.say("bb")
        peer.ask({"type": "query", "id": 2})
    before, after = daemon.json("log")
    assert before["exit"] == "mail"
    assert after["exit"] == "exception"
    assert after["exception"] == {"code": 64, "name": "INVALID_OPERAND", "parm1": 4, "parm2": 16}
    with Handler(daemon, "two") as two:
        with Peer(daemon) as peer:
            peer.ask({"type": "query", "id": 1})
        target.say("ccc")
        assert two.answer(two.report()) == 4


def test_handlers_are_armed_and_disarmed_from_the_command_line(
    daemon: Daemon, target: Cat, tmp_path: Path
) -> None:
    with Handler(daemon, "a", armed=False) as a, Handler(daemon, "b", armed=False) as b:
        insert(daemon, target, tmp_path)
        target.say("nobody hears")
        done = daemon.dprobe("handlers", "arm", "a", "nobody", "b")
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith("dprobe: handler nobody is not registered; `dprobe handlers`")
        assert not any(each["armed"] for each in listed(daemon).values())
        done = daemon.dprobe("handlers", "arm", "a", "b")
        lines = [line.split() for line in done.stdout.splitlines()]
        assert lines[0][:6] == ["facility", "no", "handler", "owner", "order", "armed"]
        assert [(line[2], line[-6]) for line in lines[1:]] == [("a", "yes"), ("b", "yes")]
        target.say("a")
        assert a.answer(a.report()) == 2
        assert b.answer(b.report()) == 2
        assert [each["armed"] for each in daemon.json("handlers", "disarm", "a")] == [False]
        target.say("bb")
        assert b.answer(b.report()) == 3
        assert listed(daemon)["a"]["reports"] == 1


def test_what_acts_at_the_hit_does_so_only_while_it_is_armed(
    daemon: Daemon, target: Cat, tmp_path: Path
) -> None:
    insert(daemon, target, tmp_path, MAILS.replace("mail", "debugger"))
    daemon.dprobe("handlers", "disarm", "debugger")
    with Peer(daemon) as affinity:
        affinity.send({"type": "log", "id": 1, "follow": True})
        assert (affinity.read() or {})["type"] == "logged"
        target.say("it goes on")
        # Its report has come when it is armed: what comes later is counted.
        assert (affinity.read() or {})["exit"] == "no debugger"
        notice = affinity.read() or {}
        assert (notice["type"], notice["kind"]) == ("notice", "debugger")
        assert notice["text"].startswith("no debugger: it is switched off; `dprobe handlers arm")
        daemon.dprobe("handlers", "arm", "debugger")
        stdin, stdout = target.process.stdin, target.process.stdout
        assert stdin is not None and stdout is not None
        stdin.write(b"it is held\n")
        stdin.flush()
        assert (affinity.read() or {})["exit"] == "debugger"
    said = daemon.dprobe("log").stdout.splitlines()
    assert [line.rpartition("[")[2] for line in said] == ["no debugger]", "debugger]"]
    (held,) = daemon.json("handlers", "arm", "debugger")
    assert (held["reports"], held["order"], held["owner"]) == (1, "first", "dprobed")
    assert not select.select([stdout], [], [], 0)[0]
    done = daemon.dprobe("resume", target.pid)
    assert str(target.pid) in done.stdout
    assert stdout.readline() == b"it is held\n"
    daemon.dprobe("remove", "--all")


def test_a_stopped_handler_does_not_stop_the_target(
    daemon: Daemon, target: Cat, tmp_path: Path
) -> None:
    with subprocess.Popen(
        [sys.executable, EXAMPLE, daemon.socket], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as example:
        assert example.stderr
        example.stderr.readline()
        example.stderr.readline()
        insert(daemon, target, tmp_path)
        example.send_signal(signal.SIGSTOP)
        for _ in range(10):
            target.say("a")
        assert target.end() == 0
        example.kill()


def test_what_is_refused(daemon: Daemon) -> None:
    with Handler(daemon, "a", order="last") as a, Peer(daemon) as other:
        register = {"type": "register", "id": 5, "name": "b", "facility": "mail"}
        for message, words_ in [
            ({**register, "order": "last"}, "mail has a last handler already: a"),
            ({**register, "name": "a"}, "a handler a is registered already, by "),
            ({**register, "name": "a b"}, "`a b` is not a valid handler name"),
            ({**register, "facility": "4"}, "`4` is not a valid facility name"),
            ({**register, "order": "middle"}, "not a message: Invalid enum value 'middle'"),
            ({**register, "timeout": 0}, "not a message: Expected `float` >= 0.001"),
            ({**register, "queue": 0}, "not a message: Expected `int` >= 1"),
            ({"type": "deregister", "id": 5, "name": "a"}, "this connection has no handler a"),
            ({"type": "arm", "id": 5, "names": []}, "not a message: Expected `array`"),
        ]:
            answer = other.ask(message)
            assert (answer["type"], answer["id"]) == ("error", 5)
            assert answer["error"].startswith(words_)
        for verdict in ("continue", "perhaps"):
            message = {"type": "answer", "handler": "a", "report": 1, "verdict": verdict}
            answer = other.ask(message)
            assert (answer["type"], answer["id"]) == ("error", None)
        handlers = a.ask({"type": "handlers", "id": 9})["handlers"]
        assert [each["handler"] for each in handlers if each["facility"] == "mail"] == ["a"]
    with Peer(daemon, hello=None) as rude:
        rude.send({"type": "answer", "handler": "a", "report": 1, "verdict": "continue"})
        answer = rude.ask(b"")
        assert answer["error"] == "the first message must be hello"
        assert rude.read() is None
