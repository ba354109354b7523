"""`dprobe policy` without a daemon, the examples, and policies of a user's own."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from tests.integration.client_support import (
    DPROBE,
    DPROBED,
    Cat,
    Daemon,
    Peer,
    cat,
    children,
    dprobe,
    parsed,
    program,
    running_daemon,
    tracer_of,
)

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "etc" / "policies").glob("*.toml"))
ALL = ["observe", "alter", "dump", "debug"]


def rule(folder: Path, text: str, name: str = "p") -> Path:
    path = folder / f"{name}.toml"
    path.write_text(text)
    return path


def test_check_tells_all_that_is_wrong_with_all_files(tmp_path: Path) -> None:
    good = rule(tmp_path, '[[policy]]\nname = "p"\nmatch.exe = "cat"\n', "good")
    bad = rule(tmp_path, '[[policy]]\nname = "q"\nmatch.exe = "a["\n', "bad")
    worse = rule(tmp_path, "[[policy\n", "worse")
    done = dprobe("policy", "check", good)
    assert (done.returncode, done.stderr) == (0, "")
    done = dprobe("policy", "check", "--json", good, bad, worse)
    assert done.returncode == 2
    rows = parsed(done.stdout)
    assert [(row["file"], row["ok"]) for row in rows] == [
        (str(good), True),
        (str(bad), False),
        (str(worse), False),
    ]
    assert rows[1]["diagnostics"][0]["message"].startswith("`[` is not closed")
    assert done.stderr.startswith(f"dprobe: {bad}:3:15: error: ")
    assert f"\n{worse}:1:9: error: no TOML" in done.stderr
    assert "Traceback" not in done.stderr


MAILS = "name = libc.so.6\noffset = write\n    exit mail\n"


def test_a_facility_that_nobody_handles_yet(tmp_path: Path) -> None:
    """It is told of with its place, by the check and by the daemon, and waited for."""
    own = tmp_path / "own-cat"
    shutil.copy("/bin/cat", own)
    folder = tmp_path / "policies.d"
    folder.mkdir()
    source = program(folder, MAILS, "mails")
    text = f'[[policy]]\nname = "p"\nmatch.exe = "{own}"\napply.programs = ["mails.rpn"]\n'
    path = rule(folder, text)
    done = dprobe("policy", "check", "--json", path)
    assert done.returncode == 0, done.stderr
    (row,) = parsed(done.stdout)
    (found,) = row["diagnostics"]
    assert (row["ok"], found["severity"], found["line"]) == (True, "warning", 3)
    said = f"{source}:3:5: warning: no facility mail is registered"
    assert done.stderr.startswith(f"dprobe: {said}\n")
    assert f"the policy at {path}:1 inserts its programs when one is" in done.stderr
    (tmp_path / "dprobed.toml").write_text(f'policies = "{folder}"\n')
    with running_daemon(tmp_path, "--config", tmp_path / "dprobed.toml") as daemon:
        listed = daemon.dprobe("policy", "list").stderr
        assert f"{source}:3:5: mails: no facility mail is registered" in listed
        assert not daemon.json("programs")
        with Peer(daemon) as mailer, cat([own]) as target:
            registered = mailer.ask(
                {"type": "register", "id": 1, "name": "mailer", "facility": "mail"}
            )
            assert registered["type"] == "registered"
            while not any(row["type"] == "probe" for row in daemon.query()):
                pass
            assert "no facility" not in daemon.dprobe("policy", "list").stderr
            target.say("a line")
            report = mailer.read()
            assert report is not None
            assert (report["type"], report["record"]["exit"]) == ("report", "mail")
        daemon.dprobe("remove", "--all")


def test_what_a_file_would_decide(tmp_path: Path) -> None:
    text = '[[policy]]\nname = "cats"\nmatch.exe = "cat"\nrights.self = ["observe"]\n'
    path = rule(tmp_path, text + 'rights.user.root = "deny"\nbudget.share = "5%"\n')
    with cat() as target:
        done = dprobe("policy", "test", path, target.pid)
        assert done.returncode == 0
        lines = done.stdout.splitlines()
        assert lines[0] == f"process {target.pid} (cat): /usr/bin/cat"
        assert f"  policy cats ({path}:1) matches" in lines
        assert "    exe: /usr/bin/cat fits cat" in lines
        assert f"decides: cats ({path}:1)" in lines
        assert "  root: deny" in lines
        assert "budget: 0.05 of its time, else throttle" in lines
        found = json.loads(dprobe("policy", "test", "--json", path, target.pid).stdout)
        assert (found["rule"], found["budget"]["share"]) == ("cats", 0.05)
        found = json.loads(dprobe("policy", "test", "--json", path, os.getpid()).stdout)
        assert (found["rule"], found["rights"]["root"]) == ("default", ALL)
    done = dprobe("policy", "test", path, target.pid)
    assert done.returncode == 2
    assert done.stderr == f"dprobe: process {target.pid} is gone (no such process)\n"
    path.write_text("x = 1\n")
    done = dprobe("policy", "test", path, os.getpid())
    assert done.returncode == 2
    assert f"{path}:1:1: error: unknown key `x`" in done.stderr


def test_who_may_not_read_a_process_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Root's daemon may: then another policy decides than the test says."""
    from dprobe.commands import policy

    from dprobed.proc import executables

    path = rule(tmp_path, '[[policy]]\nname = "p"\nmatch.exe = "**"\n')
    said: list[str] = []
    monkeypatch.setattr(policy, "complain", said.append)
    assert policy.test_command.callback is not None
    policy.test_command.callback(path, os.getpid(), form=None, as_json=True)
    assert said == []
    monkeypatch.setattr(executables, "path", lambda pid: "")
    policy.test_command.callback(path, os.getpid(), form=None, as_json=True)
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["rule"] == "default"
    (line,) = said
    assert line.startswith(f"what process {os.getpid()} executes, and its environment, may not be")


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_every_example_is_right(path: Path) -> None:
    done = dprobe("policy", "check", path)
    assert done.returncode == 0, done.stderr


def test_the_examples_hold_together_and_their_configuration_is_the_default() -> None:
    assert len(EXAMPLES) >= 4
    done = dprobe("policy", "check", *EXAMPLES)
    assert done.returncode == 0, done.stderr
    from dprobed.policy.config import Config, load

    path = ROOT / "etc" / "dprobed.toml"
    found = load(path, os.geteuid())
    assert found == Config(path.parent / "policies.d")


def test_what_a_file_would_decide_about_what_we_trace(
    daemon: Daemon, target: Cat, tmp_path: Path
) -> None:
    path = rule(tmp_path, '[[policy]]\nname = "cats"\nmatch.exe = "cat"\n')
    done = daemon.dprobe("insert", program(tmp_path), "--pid", target.pid)
    assert done.returncode == 0, done.stderr
    tracer = tracer_of(target.pid)
    assert tracer in children(daemon.process.pid)
    done = dprobe("policy", "test", path, target.pid)
    assert done.returncode == 0
    assert "cannot be probed" not in done.stdout
    assert f"decides: cats ({path}:1)" in done.stdout
    # As for the daemon itself, whose tracers nobody may touch.
    for ours in (tracer, daemon.process.pid):
        done = dprobe("policy", "test", path, ours)
        assert "protected: it is part of dprobed itself; nobody may touch it" in done.stdout


def test_what_a_file_would_decide_about_what_a_private_one_traces(tmp_path: Path) -> None:
    path = rule(tmp_path, '[[policy]]\nname = "cats"\nmatch.exe = "cat"\n')
    with cat() as target:
        command: list[str | Path] = [DPROBE, "attach", str(target.pid), program(tmp_path)]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as attached:
            assert attached.stderr is not None
            while "1 probe in process" not in attached.stderr.readline():
                assert attached.poll() is None
            done = dprobe("policy", "test", path, target.pid)
            assert "cannot be probed: process" in done.stdout
            assert f"already traced by process {tracer_of(target.pid)}" in done.stdout
            attached.send_signal(signal.SIGINT)
            assert attached.wait(60) == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
def test_a_users_own_policies_hold_for_the_users_own_daemon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the daemon reads them: a test cannot count on a Python that other users may read."""
    from dprobed.policy import config
    from dprobed.policy.errors import PolicyError
    from dprobed.policy.store import PolicyStore

    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    folder = tmp_path / "dprobed" / "policies.d"
    folder.mkdir(parents=True)
    path = rule(folder, '[[policy]]\nname = "mine"\nmatch.exe = "cat"\nrights.self = "deny"\n')
    store = PolicyStore(config.load(None, 1234), 1234)
    assert [each.name for each in store.policies.policies] == ["mine"]
    os.chown(path, 4321, 4321)
    assert f"{path}: error: belongs to user 4321; run: chown 1234 {path}" in store.reload()
    assert [each.name for each in store.policies.policies] == ["mine"]
    with pytest.raises(PolicyError):
        PolicyStore(config.load(None, 1234), 1234)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts over /etc/dprobed")
def test_a_private_daemon_holds_to_the_policies_too(tmp_path: Path) -> None:
    """In a mount namespace of its own: what is in this machine's /etc/dprobed stays as it is."""
    policies = tmp_path / "etc" / "policies.d"
    policies.mkdir(parents=True)
    etc = Path("/etc/dprobed")
    made = not etc.exists()
    if made:
        etc.mkdir()
    inside = f'mount --bind {tmp_path}/etc /etc/dprobed && exec "$@"'
    command = ["unshare", "--mount", "sh", "-c", inside, "sh"]
    run = [*command, str(DPROBED.with_name("dprobe")), "run", str(program(tmp_path)), "--", "true"]
    try:
        path = rule(policies, '[[policy]]\nname = "t"\nmatch.exe = "true"\nrights.self = "x"\n')
        done = subprocess.run(run, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 2
        assert done.stderr == (
            f"dprobe: {str(path).replace(str(tmp_path / 'etc'), '/etc/dprobed')}:4:15: error: "
            "unknown right `x` (`dprobed --check-config` shows all)\n"
        )
        rule(policies, '[[policy]]\nname = "t"\nmatch.exe = "**"\nrights.user.root = "deny"\n')
        done = subprocess.run(run, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 2
        assert "policy t (/etc/dprobed/policies.d/p.toml:1) gives nothing" in done.stderr
    finally:
        if made:
            etc.rmdir()


def test_a_script_that_a_policy_inserts_keeps_its_maps(tmp_path: Path) -> None:
    own = tmp_path / "own-cat"
    shutil.copy("/bin/cat", own)
    folder = tmp_path / "policies.d"
    folder.mkdir()
    text = f'[[policy]]\nname = "p"\nmatch.exe = "{own}"\n'
    text += 'apply.scripts = ["uprobe:libc.so.6:write { @sizes[arg2] = count(); }"]\n'
    path = rule(folder, text)
    assert dprobe("policy", "check", path).returncode == 0
    (tmp_path / "dprobed.toml").write_text(f'policies = "{folder}"\n')
    with (
        running_daemon(tmp_path, "--config", tmp_path / "dprobed.toml") as daemon,
        cat([own]) as it,
    ):
        while not any(row.get("state") == "active" for row in daemon.query()):
            pass
        it.say("a line")
        it.say("more")
        it.say("of it")
        (row,) = daemon.json("maps")
        assert {entry["key"][0]: entry["value"] for entry in row["entries"]} == {7: 1, 5: 1, 6: 1}
        daemon.dprobe("remove", "--all")
