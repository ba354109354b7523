"""Root's daemon and users whom policies allow this and refuse that; real processes of theirs."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from dprobed.proc import procfs
from tests.conftest import BuildTarget
from tests.integration.client_support import (
    DPROBED,
    PATIENCE,
    Daemon,
    Json,
    Peer,
    cat,
    children,
    dprobe,
    parsed,
    program,
    tracer_of,
    words,
)
from tests.integration.policy_support import (
    DAEMON,
    NOBODY,
    Place,
    answer,
    asking,
    attach,
    cat_of,
    insert,
    refused,
    report,
    until,
    upload,
)

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can serve other users")

#: Makes write(2) of libc claim one byte more than there is: it alters.
ALTERS = """
name = libc.so.6
offset = write
    push r,rdx
    pop r,rdx
    exit
"""
HOLDS = "name = libc.so.6\noffset = write\nsuspend\nexit\n"


def ids(pid: int) -> tuple[int, ...]:
    found = procfs.status(pid)
    assert found is not None
    return (*found.uids, *found.gids)


def is_traced_by(daemon: Daemon, pid: int) -> bool:
    """Whether this daemon traces a process; another one on this machine may, too."""
    return tracer_of(pid) in children(daemon.process.pid)


def test_users_and_root_by_default(place: Place) -> None:
    """Each user what is the user's own, and nothing of anybody else; root all."""
    with place.daemon() as daemon, cat_of(NOBODY) as own, cat_of(DAEMON) as other:
        with asking(daemon) as peer:
            text = refused(attach(peer, other.pid))
            assert text == (
                f"user 65534 (nobody) may not touch process {other.pid} (cat): no policy matches, "
                "and by default only root and user 1 (daemon), whose it is, may"
            )
            assert not is_traced_by(daemon, other.pid)
            entry = place.entry()
            assert entry["MESSAGE"] == f"denied: {text}"
            assert entry["DPROBE_UID"] == str(NOBODY)
            assert entry["DPROBE_RULE"] == "default"
            assert entry["OBJECT_PID"] == str(other.pid)

            assert attach(peer, own.pid)["type"] == "attached"
            assert ids(tracer_of(own.pid)) == (NOBODY,) * 8
            done = insert(peer, own.pid, upload(ALTERS, "alters"))
            assert done["type"] == "inserted"
            daemon.dprobe("insert", program(place.folder), "--pid", other.pid)
            other.say("12345")
            own.say("123")
            assert report(peer, "record")["pid"] == own.pid

            # Nobody sees what is root's: no program, no process, no record.
            listing = answer(peer, {"type": "query", "id": 3})
            assert [each["pid"] for each in listing["targets"]] == [own.pid]
            assert {each["pid"] for each in listing["probes"]} == {own.pid}
            assert len(answer(peer, {"type": "programs", "id": 4})["programs"]) == 1
            peer.send({"type": "log", "id": 5})
            logged = []
            while (line := peer.read()) is not None and line["type"] != "logged":
                logged.append(line["pid"])
            assert logged == [own.pid]
            assert line == {"type": "logged", "id": 5, "forgotten": 0}
            number = daemon.json("programs", "--pid", other.pid)[0]["number"]
            remove = {"type": "remove", "id": 6, "select": {"number": number}}
            assert "no such program" in refused(answer(peer, remove))
            reset = {"type": "vars", "id": 7, "number": number, "reset": True}
            assert "there is no program" in refused(answer(peer, reset))
            for kind in ("dump", "resume"):
                message = {"type": kind, "id": 8, "pid": other.pid}
                assert "not traced by this daemon" in refused(answer(peer, message))
            # Root sees both.
            assert {row["pid"] for row in daemon.json("query")} == {own.pid, other.pid}
            answer(peer, {"type": "remove", "id": 9})
        assert [row["pid"] for row in daemon.json("programs")] == [other.pid]
        other.say("12")
        assert daemon.json("query")[0]["hits"] == 2


def test_a_process_has_one_tracer_and_it_is_not_shared_with_strangers(place: Place) -> None:
    """A program of a user's in a tracer of root's would go on in a setuid program."""
    with place.daemon() as daemon, cat_of(NOBODY) as own:
        done = daemon.dprobe("insert", program(place.folder), "--pid", own.pid)
        assert done.returncode == 0, done.stderr
        with asking(daemon) as peer:
            text = refused(attach(peer, own.pid))
            assert f"process {own.pid} (cat) is traced for user 0 already" in text
        daemon.dprobe("remove", "--all")
        with asking(daemon) as peer:
            assert attach(peer, own.pid)["type"] == "attached"
            # Root may join the tracer of a user.
            done = daemon.dprobe("insert", program(place.folder), "--pid", own.pid)
            assert done.returncode == 0, done.stderr


GRANT = """
[[policy]]
name = "observers"
match = { exe = "cat", user = "daemon" }
rights = { user.nobody = ["observe", "debug"], self = "deny" }
"""


def test_what_a_policy_gives_by_name(place: Place) -> None:
    rule = place.write(GRANT)
    with place.daemon() as daemon, cat_of(DAEMON) as target, cat_of(NOBODY) as own:
        with asking(daemon, DAEMON) as peer:
            text = refused(attach(peer, target.pid))
            assert text.endswith(f"policy observers ({rule}:2) gives nothing")
        with asking(daemon) as peer:
            assert attach(peer, target.pid)["type"] == "attached"
            # As the process's own user: the kernel would not let nobody trace it.
            assert ids(tracer_of(target.pid)) == (DAEMON,) * 8
            text = refused(insert(peer, target.pid, upload(), upload(ALTERS, "alters")))
            assert text.startswith(f"user 65534 (nobody) may not alter process {target.pid} (cat)")
            assert f"policy observers ({rule}:2) gives observe, debug" in text
            assert text.endswith("alters needs alter for `pop r` in alters.rpn:5:5")
            assert daemon.json("programs") == []
            dump = {"type": "dump", "id": 3, "pid": target.pid}
            assert "may not dump" in refused(answer(peer, dump))
            assert insert(peer, target.pid)["type"] == "inserted"
            target.say("1234")
            assert words(report(peer, "record")) == [5]
            # A policy that does not match says nothing about a process of one's own.
            assert attach(peer, own.pid)["type"] == "attached"
            assert insert(peer, own.pid, upload(ALTERS, "alters"))["type"] == "inserted"
    denied = [place.entry()["DPROBE_RIGHTS"] for _ in range(3)]
    assert denied == ["nothing", "alter", "dump"]


def test_held_threads_are_let_go_by_whom_a_policy_allows(place: Place) -> None:
    place.write(GRANT.replace('self = "deny"', 'self = ["observe"]'))
    with place.daemon() as daemon, cat_of(DAEMON) as target, asking(daemon) as peer:
        attach(peer, target.pid)
        assert insert(peer, target.pid, upload(HOLDS, "holds"))["type"] == "inserted"
        stdin, stdout = target.process.stdin, target.process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(b"held\n")
        stdin.flush()
        assert report(peer, "notice")["kind"] == "suspend"
        with asking(daemon, DAEMON) as owner:
            resume = {"type": "resume", "id": 3, "pid": target.pid}
            assert "may not debug" in refused(answer(owner, resume))
            assert answer(owner, {"type": "resume", "id": 4})["tids"] == []
        resume = {"type": "resume", "id": 3}
        assert answer(peer, resume)["tids"] == [target.pid]
        assert stdout.readline() == b"held\n"
        answer(peer, {"type": "detach", "id": 5, "pid": target.pid})


def test_policies_that_are_read_anew_hold_for_what_is_in(place: Place) -> None:
    with place.daemon() as daemon, cat_of(NOBODY) as own, asking(daemon) as peer:
        attach(peer, own.pid)
        insert(peer, own.pid, upload(), upload(ALTERS, "alters"))
        rule = place.write('[[policy]]\nname = "p"\nmatch.exe = "cat"\nrights.self = ["observe"]\n')
        done = daemon.dprobe("policy", "reload")
        assert done.returncode == 0, done.stderr
        change = report(peer, "state")["probes"][0]
        assert (change["program"], change["state"]) == ("alters", "removed")
        assert f"policy p ({rule}:1) gives observe" in change["reason"]
        own.say("123")
        assert report(peer, "record")["program"] == "writes"

        # What is wrong changes nothing, and is told wherever one looks.
        rule.write_text('[[policy]]\nname = "p"\nmatch.exe = "cat"\nrights.self = ["obsrve"]\n')
        bad = place.write("polcy = 1\n", "other")
        done = daemon.dprobe("policy", "reload")
        assert done.returncode == 2
        for text in (done.stderr, daemon.dprobe("policy", "list").stderr):
            assert f"{rule}:4:16: error: unknown right `obsrve`" in text
            assert f"{bad}:1:1: error: unknown key `polcy`" in text
        assert [row["rights"] for row in daemon.json("policy", "list")] == [{"self": ["observe"]}]
        bad.unlink()
        rule.write_text('[[policy]]\nname = "p"\nmatch.exe = "cat"\nrights.self = "deny"\n')
        daemon.process.send_signal(signal.SIGHUP)
        assert report(peer, "state")["probes"][0]["program"] == "writes"
        assert "may not" in refused(attach(peer, own.pid))
    assert "denied" in place.entry()["MESSAGE"]


def test_files_whose_names_are_no_utf8(place: Place) -> None:
    """They are policies like others, and what is wrong with them can be told."""
    strange = os.fsdecode(b"\xff")
    programs = place.folder / strange
    programs.mkdir()
    program(programs)
    text = '[[policy]]\nname = "p"\nmatch.exe = "cat"\nrights.self = "deny"\n'
    path = place.policies / f"{strange}.toml"
    path.write_text(text)
    shown = f"{place.policies}/\ufffd.toml"
    with place.daemon() as daemon, cat() as target:
        (row,) = daemon.json("policy", "list")
        assert (row["name"], row["place"]) == ("p", f"{shown}:1")
        (found,) = daemon.json("policy", "explain", target.pid)
        assert found["place"] == f"{shown}:1"
        (place.policies / "link").symlink_to(programs)
        path.write_text(f'{text}apply.programs = "link/writes.rpn"\nx = 1\n')
        programs.chmod(0o777)
        done = daemon.dprobe("policy", "reload")
        assert done.returncode == 2
        assert f"{shown}:6:1: error: unknown key `x`" in done.stderr
        assert f"the folder {place.folder}/\ufffd on the way to it is writable" in done.stderr
        done = dprobe("policy", "check", "--json", path)
        assert done.returncode == 2
        (row,) = parsed(done.stdout)
        assert (row["file"], row["ok"]) == (shown, False)
        faults = [(fault["file"], fault["line"], fault["message"]) for fault in row["diagnostics"]]
        assert (shown, 6, "unknown key `x`") in faults
        assert all(message in done.stderr for _, _, message in faults)


def test_a_process_that_executes_what_is_denied(place: Place) -> None:
    place.write('[[policy]]\nname = "p"\nmatch.exe = "cat"\nrights.self = "deny"\n')
    with place.daemon() as daemon:
        command = ["sh", "-c", "read line; exec cat"]
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        with (
            subprocess.Popen(command, user=NOBODY, group=NOBODY, **pipes) as target,
            asking(daemon) as peer,
        ):
            assert target.stdin is not None
            assert target.stdout is not None
            attach(peer, target.pid)
            assert insert(peer, target.pid)["type"] == "inserted"
            target.stdin.write(b"go\nafter\n")
            target.stdin.flush()
            while report(peer, "state")["probes"][0]["state"] != "removed":
                pass
            assert target.stdout.readline() == b"after\n"
            assert "policy p" in refused(attach(peer, target.pid))
            target.stdin.close()
            assert target.wait(PATIENCE) == 0


def test_a_process_that_becomes_another_users(place: Place, build_target: BuildTarget) -> None:
    path = place.folder / "becomes"
    shutil.copy(build_target("becomes.c"), path)
    place.write(
        f'[[policy]]\nname = "roots"\nmatch = {{ exe = "{path}", user = "root" }}\n'
        'rights.user.nobody = ["observe"]\n'
    )
    with place.daemon() as daemon, cat([path, str(DAEMON)]) as target, asking(daemon) as peer:
        assert attach(peer, target.pid) == {"type": "attached", "pid": target.pid, "id": 1}
        assert insert(peer, target.pid)["type"] == "inserted"
        deploy: Json = {"type": "deploy", "id": 3, "selection": {"exe": str(path)}}
        made = answer(peer, {**deploy, "programs": [upload(label="everywhere")]})
        assert made["type"] == "deployed"
        deadline = time.monotonic() + PATIENCE
        while daemon.query()[0].get("processes") != 1:
            assert time.monotonic() < deadline
        target.say("go")
        denied = report(peer, "state")["probes"][0]
        assert denied["state"] == "removed"
        assert "may not observe process" in denied["reason"]
        assert "only root and user 1 (daemon), whose it is, may" in denied["reason"]
        while tracer_of(target.pid):
            assert time.monotonic() < deadline
        # What it wrote when it had become that user was seen, or came too late.
        (row,) = daemon.json("query")
        assert (row["processes"], row["hits"]) in ((0, 0), (0, 1))
        seen = row["hits"]
        target.say("not seen")
        (row,) = daemon.json("query")
        assert (row["processes"], row["hits"]) == (0, seen)
        assert row["refused"] == {"user nobody may not observe becomes": 1}, row


def test_what_only_root_may_ask_of_roots_daemon(place: Place) -> None:
    requests: list[Json] = [
        {"type": "register", "name": "a", "facility": "trace"},
        {"type": "arm", "names": ["dump"]},
        {"type": "disarm", "names": ["dump"]},
        {"type": "tracestart", "name": "a", "folder": str(place.folder / "trace")},
        {"type": "tracestop", "name": "a"},
        {"type": "tracesave", "name": "a"},
        {"type": "tracelist"},
        {"type": "policyreload"},
    ]
    with place.daemon() as daemon, asking(daemon) as peer:
        for request in requests:
            assert "root" in refused(peer.ask({**request, "id": 1}))
        assert not (place.folder / "trace").exists()
        assert all(row["armed"] for row in daemon.json("handlers"))
        assert peer.ask({"type": "policylist", "id": 2})["policies"] == []


def test_explanations(place: Place) -> None:
    rule = place.write(GRANT)
    with place.daemon() as daemon, cat_of(DAEMON) as target, cat_of(NOBODY) as own:
        (found,) = daemon.json("policy", "explain", target.pid)
        assert (found["rule"], found["place"]) == ("observers", f"{rule}:2")
        assert found["rights"] == {
            "root": ["observe", "alter", "dump", "debug"],
            "user 1 (daemon), whose it is": ["deny"],
            "user 65534 (nobody)": ["observe", "debug"],
        }
        assert found["steps"][0]["tested"] == ["exe: /usr/bin/cat fits cat", "user: 1 fits daemon"]
        (found,) = daemon.json("policy", "explain", own.pid)
        assert found["rule"] == "default"
        assert found["steps"][0]["tested"][-1] == "user: 65534 does not fit daemon"
        text = daemon.dprobe("policy", "explain", own.pid).stdout
        assert f"policy observers ({rule}:2) does not match" in text
        assert "decides: default: no policy matches" in text
        # That the daemon itself traces it keeps nobody from it.
        daemon.json("insert", "--pid", own.pid, program(place.folder))
        (found,) = daemon.json("policy", "explain", own.pid)
        assert found["obstacle"] == ""
        with asking(daemon, 4) as peer:
            message = {"type": "policyexplain", "id": 1, "pid": own.pid}
            assert "may not touch" in refused(peer.ask(message))


def test_protected_processes(place: Place) -> None:
    everything = 'rights = { user.root = "all", self = "all" }\n'
    place.write(f'[[policy]]\nname = "p"\nmatch.cgroup = "**"\n{everything}')
    with place.daemon() as daemon:
        done = daemon.dprobe("attach", 1, program(place.folder))
        assert done.returncode == 2
        assert done.stderr.count("\n") == 1
        assert "may not touch process 1 " in done.stderr
        assert "(`init`), and `protect` of dprobed.toml protects that" in done.stderr
        done = daemon.dprobe("insert", program(place.folder), "--pid", daemon.process.pid)
        assert "part of dprobed itself" in done.stderr
        (found,) = daemon.json("policy", "explain", daemon.process.pid)
        assert found["protected"] == "it is part of dprobed itself"
    place.config.write_text('policies = "policies.d"\nprotect = ["dbus"]\n')
    with place.daemon() as daemon:
        (found,) = daemon.json("policy", "explain", 1)
        assert found["protected"] == ""


def test_the_first_process_is_refused_where_it_is_meant(place: Place) -> None:
    """As protected; on many machines nothing of it can be read, for root neither."""
    first = "protected: it is the first process (`init`)"
    path = place.folder / "own_cat"
    shutil.copy("/usr/bin/cat", path)
    program(place.folder)
    place.write(f'[[policy]]\nname = "p"\nmatch.exe = "{path}"\napply.programs = "../writes.rpn"\n')
    with place.daemon() as daemon, cat([path]) as target:
        until(daemon, lambda row: row["processes"] > 0)
        assert is_traced_by(daemon, target.pid)
        nowhere = program(place.folder, "name = libnone.so\noffset = f\nexit\n", "nowhere")
        daemon.json("insert", "--user", "root", nowhere)
        with cat([path]) as later:  # Who was there before has been looked at when it is in.
            while not is_traced_by(daemon, later.pid):
                pass
            applied, roots, *_ = daemon.json("query")
        assert applied["selection"]["policy"] == "p"
        assert "1" not in applied["refusals"]
        assert roots["refusals"].get("1", first) == first


def test_one_user_cannot_keep_the_others_out(place: Place) -> None:
    with place.daemon() as daemon:
        peers = []
        try:
            os.seteuid(NOBODY)
            try:
                peers = [Peer(daemon) for _ in range(32)]
                one_more = Peer(daemon, hello=None)
            finally:
                os.seteuid(0)
            peers.append(one_more)
            found = one_more.read()
            assert found is not None
            assert "32 clients of user 65534 are connected" in refused(found)
            assert daemon.json("query") == []
            with asking(daemon, DAEMON):
                pass
        finally:
            for peer in peers:
                peer.__exit__()


def test_a_daemon_does_not_start_with_policies_that_are_wrong(place: Place) -> None:
    bad = place.write("[[policy]]\n")
    command = ["--config", str(place.config), "--socket", str(place.folder / "s")]
    for more in ([], ["--check-config"]):
        done = subprocess.run(
            [DPROBED, *command, *more], capture_output=True, text=True, check=False
        )
        assert done.returncode == 2
        assert f"dprobed: {bad}:1:1: error: this policy has no `name`" in done.stderr
        assert f"{bad}:1:1: error: this policy has no `match`" in done.stderr
        assert "Traceback" not in done.stderr
    bad.unlink()
    place.config.write_text('policy = "x"\nprotect = ["dbs"]\n')
    done = subprocess.run(
        [DPROBED, *command, "--check-config"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "dprobed.toml:1:1: error: unknown key `policy`" in done.stderr
    assert "hint: did you mean `policies`?" in done.stderr
    assert "dprobed.toml:2:12: error: unknown kind of process `dbs`" in done.stderr
    for seconds in ("nan", "-5", "x"):
        limit = ["--check-config", "--hold-limit", seconds]
        done = subprocess.run([DPROBED, *limit], capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert f"{seconds} is no duration above 0" in done.stderr


APPLY = """
[[policy]]
name = "writers"
match.environment.DPROBE_APPLY = "{word}"
apply = {{ programs = ["writes.rpn"], for = "{seconds}", processes = 1 }}
"""


def test_a_policy_alone_puts_a_program_in(place: Place) -> None:
    """No client: into what runs, into what starts, out when the time or the policy is over."""
    word = place.folder.name
    program(place.policies)
    rule = place.write(APPLY.format(word=word, seconds="1h"))
    meant = {**os.environ, "DPROBE_APPLY": word}
    with cat(env=meant) as old, cat() as other, place.daemon() as daemon:
        row = until(daemon, lambda row: row["processes"] == 1)
        assert (row["program"], row["selection"]["policy"]) == ("writes", "writers")
        old.say("1234")
        with cat(env=meant) as new:
            row = until(daemon, lambda row: str(new.pid) in row["refusals"])
            assert row["refusals"][str(new.pid)].startswith("over the limit")
            old.end()
            until(daemon, lambda row: row["entered"] == 2 and row["processes"] == 1)
            new.say("12")
            daemon.query()  # Its answer comes behind the records.
            assert [words(each) for each in parsed(daemon.dprobe("log", "--json").stdout)] == [
                [5],
                [3],
            ]
            assert not is_traced_by(daemon, other.pid)
            (found,) = daemon.json("policy", "explain", new.pid)
            assert found["programs"] == [str(place.policies / "writes.rpn")]

            # Another policy of the same name: out, and in by what it says now.
            rule.write_text(APPLY.format(word=word, seconds="0.2s"))
            assert daemon.dprobe("policy", "reload").returncode == 0
            row = until(daemon, lambda row: row["entered"] == 1 and row["processes"] == 0)
            rule.unlink()
            assert daemon.dprobe("policy", "reload").returncode == 0
            assert daemon.json("query") == []
            assert not is_traced_by(daemon, new.pid)


def test_policies_that_are_read_anew_twice_at_once(place: Place) -> None:
    path = place.folder / "own_cat"
    shutil.copy("/usr/bin/cat", path)
    program(place.folder)
    rule = f'[[policy]]\nname = "p"\nmatch.exe = "{path}"\napply.programs = "../writes.rpn"\n'
    place.write(rule)
    deadline = time.monotonic() + PATIENCE
    with cat([path]) as target, place.daemon() as daemon:
        while not tracer_of(target.pid):
            assert time.monotonic() < deadline
        place.write(rule + 'apply.for = "1h"\n')
        with Peer(daemon) as one, Peer(daemon) as other:
            for peer in (one, other):
                peer.send({"type": "policyreload", "id": 1})
            assert [peer.read()["type"] for peer in (one, other)] == ["policylisting"] * 2  # type: ignore[index]
        rows = daemon.json("query")
        assert [row["type"] for row in rows].count("deployment") == 1


def test_a_policy_whose_program_has_no_facility_says_so(place: Place) -> None:
    text = "name = libc.so.6\noffset = write\nexit mailer\n"
    source = program(place.policies, text)
    rule = place.write(APPLY.format(word="x", seconds="1h"))
    with place.daemon() as daemon:
        listed = daemon.dprobe("policy", "list")
        assert listed.returncode == 0
        why = f"{source}:3:1: writes: no facility mailer"
        assert f"policy writers ({rule}:2) inserts nothing: {why}" in listed.stderr


def test_denied_processes_of_a_deployment_are_counted(place: Place) -> None:
    path = shutil.copy("/usr/bin/cat", place.folder / "own_cat")
    secret = shutil.copy("/usr/bin/cat", place.folder / "own_secret")
    place.write(f'[[policy]]\nname = "p"\nmatch.exe = "{secret}"\nrights.self = "deny"\n')
    with (
        place.daemon() as daemon,
        cat_of(NOBODY, path) as own,
        cat_of(NOBODY, secret) as denied,
        cat_of(DAEMON, path) as other,
        asking(daemon) as peer,
    ):
        deploy = {"type": "deploy", "id": 1, "selection": {"exe": f"{place.folder}/own_*"}}
        found = answer(peer, {**deploy, "programs": [upload()]})
        assert found["type"] == "deployed"
        row = until(daemon, lambda row: row["processes"] == 1)
        row = until(daemon, lambda row: str(denied.pid) in row["refusals"])
        assert list(row["refusals"]) == [str(denied.pid)]
        assert row["refusals"][str(denied.pid)].startswith("denied by policy p ")
        assert not is_traced_by(daemon, denied.pid)
        # What others execute is nobody's business: it is not even counted.
        shown = answer(peer, {"type": "query", "id": 9})["deployments"][0]
        assert list(shown["refusals"]) == [str(denied.pid)]
        assert sum(shown["refused"].values()) == 1
        assert shown["missed"] == 0
        assert not is_traced_by(daemon, other.pid)
        assert ids(tracer_of(own.pid)) == (NOBODY,) * 8
        with asking(daemon, DAEMON) as stranger:
            listing = answer(stranger, {"type": "query", "id": 2})
            assert listing["deployments"] == listing["probes"] == []
            answer(stranger, {"type": "remove", "id": 3})
        own.say("123")
        assert words(report(peer, "record")) == [4]


def test_one_user_cannot_fill_the_daemon(place: Place) -> None:
    with place.daemon() as daemon, cat_of(NOBODY) as own, asking(daemon) as peer:
        deploy = {"type": "deploy", "id": 1, "selection": {}, "programs": [upload()] * 65}
        assert "would have 65 deployments (limit 64)" in refused(answer(peer, deploy))
        attach(peer, own.pid)
        assert insert(peer, own.pid)["type"] == "inserted"
        text = refused(insert(peer, own.pid, *[upload()] * 1000))
        assert text.startswith("user 65534 has 1 program inserted (limit 1000)")


@contextmanager
def busy(**options: Any) -> Iterator[int]:
    """A process that writes as fast as it can; nothing of ours ends it."""
    command = ["dd", "if=/dev/zero", "of=/dev/null", "bs=1"]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, **options) as process:
        try:
            yield process.pid
            assert process.poll() is None
        finally:
            process.kill()


BUDGET = """
[[policy]]
name = "frugal"
match.exe = "dd"
budget = {{ {limit}, over = "remove" }}
"""


@pytest.mark.parametrize(
    ("limit", "text"),
    [("hits_per_second = 100", "100 hits a second"), ('share = "1%"', "1 % of the time")],
)
def test_what_is_over_its_budget_goes_out(place: Place, limit: str, text: str) -> None:
    rule = place.write(BUDGET.format(limit=limit))
    quiet = upload("name = libc.so.6\noffset = fsync\nabort\n", "quiet")
    loud = upload("name = libc.so.6\noffset = write\nabort\n", "loud")
    with place.daemon() as daemon, busy(user=NOBODY, group=NOBODY) as pid, asking(daemon) as peer:
        attach(peer, pid)
        change = insert(peer, pid, quiet, loud)["probes"][1]
        if change["state"] == "active":  # else it was out before the answer, which says so
            change = report(peer, "state")["probes"][0]
        assert (change["program"], change["state"]) == ("loud", "disabled")
        assert change["hits"] > 0
        reason = f"over the budget of process {pid}: {text} (policy frugal ({rule}:2))"
        assert change["reason"] == reason
        rows = answer(peer, {"type": "query", "id": 3})["probes"]
        assert [(each["program"], each["state"]) for each in rows] == [
            ("quiet", "active"),
            ("loud", "disabled"),
        ]


@pytest.mark.parametrize(("over", "state"), [("remove", "disabled"), ("throttle", "throttled")])
def test_what_a_policy_applies_has_a_budget_of_its_own(place: Place, over: str, state: str) -> None:
    program(place.policies, "name = libc.so.6\noffset = write\nabort\n", "loud")
    word = place.folder.name
    place.write(
        f'[[policy]]\nname = "p"\nmatch.environment.DPROBE_APPLY = "{word}"\n'
        'apply = { programs = "loud.rpn", hits_per_second = 100 }\n'
        f'budget.over = "{over}"\n'
    )
    with busy(env={**os.environ, "DPROBE_APPLY": word}) as pid, place.daemon() as daemon:
        until(daemon, lambda row: row["hits"] > 0)
        state_now = "active"
        while state_now == "active":
            (probe,) = (each for each in daemon.query() if each["type"] == "probe")
            state_now = probe["state"]
        assert (probe["pid"], state_now) == (pid, state)
        assert probe["reason"] == "over the budget of loud: 100 hits a second"


def test_policies_that_are_read_anew_change_the_budget(place: Place) -> None:
    place.write(BUDGET.format(limit="hits_per_second = 1000000000"))
    with place.daemon() as daemon, busy(user=NOBODY, group=NOBODY) as pid, asking(daemon) as peer:
        attach(peer, pid)
        loud = upload("name = libc.so.6\noffset = write\nabort\n", "loud")
        assert insert(peer, pid, loud)["type"] == "inserted"
        place.write(BUDGET.format(limit="hits_per_second = 100"))
        assert daemon.dprobe("policy", "reload").returncode == 0
        change = report(peer, "state")["probes"][0]
        assert (change["program"], change["state"]) == ("loud", "disabled")
