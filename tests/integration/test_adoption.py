"""A restarted daemon goes on with what was inserted and kept: same numbers, owners, counters."""

from __future__ import annotations

import base64
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from dprobed import last_counts
from dprobed.daemon.kept import KeptDeployment
from dprobed.program.bytecode import encode
from dprobed.program.rpn.parser import assemble
from dprobed.wire import protocol
from tests.integration.client_support import (
    COUNTS_WRITES,
    DPROBE,
    PATIENCE,
    WRITES,
    Cat,
    Daemon,
    Json,
    Peer,
    cat,
    children,
    program,
    running_daemon,
    tracer_of,
    wait_end,
)
from tests.integration.harness import text
from tests.integration.policy_support import (
    NOBODY,
    Place,
    answer,
    asking,
    attach,
    cat_of,
    insert,
)

WHO = ("daemon", "both")
NOBODY_ELSE = 2
DENIES = '[[policy]]\nname = "p"\nmatch.user = "nobody"\nrights.self = "deny"\n'


def kill(daemon: Daemon, who: str) -> None:
    """SIGKILL the daemon, or it and its tracers; wait until nobody of them is left."""
    tracers = children(daemon.process.pid)
    victims = [daemon.process.pid, *(tracers if who == "both" else ())]
    for each in victims:
        os.kill(each, signal.SIGKILL)
    daemon.process.wait(PATIENCE)
    assert all(map(wait_end, tracers))


def log_of(daemon: Daemon, text: str) -> str:
    """Read the daemon's log up to a line that has this text."""
    assert daemon.process.stderr is not None
    line: str
    for line in daemon.process.stderr:
        if text in line:
            return line
    raise AssertionError(f"the daemon's log has no {text!r}")


def state(daemon: Daemon) -> Path:
    """Where the daemon has what outlives it."""
    return daemon.socket.with_name(daemon.socket.name + ".changes")


def counted(daemon: Daemon) -> int:
    """The hits that its tracers have noted for whoever comes after them."""
    hits = 0
    for journal in state(daemon).glob("[0-9]*"):
        with journal.open("rb") as file:
            note = last_counts.read(file.fileno())
        for each in protocol.decode_counts(note[1]) if note is not None else ():
            hits += sum(status.hits for status in each.probes)
    return hits


def noted(target: Cat, daemon: Daemon, hits: int) -> None:
    """Have so many hits, and wait until they are noted."""
    before = counted(daemon)
    for number in range(hits):
        target.say(f"line {number}")
    while counted(daemon) < before + hits:
        daemon.query()


def rows(daemon: Daemon) -> dict[str, Json]:
    """What ``query`` shows, the last of each kind."""
    return {row["type"]: row for row in daemon.json("query")}


@pytest.mark.parametrize("who", WHO)
def test_a_kept_program_goes_on(tmp_path: Path, target: Cat, who: str) -> None:
    """Number, counters, variables; and log and ``query`` say for how long it was not counted."""
    with running_daemon(tmp_path) as daemon:
        (before,) = daemon.json("insert", program(tmp_path, COUNTS_WRITES), "--pid", target.pid)
        noted(target, daemon, 3)
        kill(daemon, who)
    with running_daemon(tmp_path) as daemon:
        said = log_of(daemon, "taken over after a restart").strip()
        assert f"program {before['number']} (writes) of user {os.geteuid()}" in said
        assert re.search(r"; not counted for \d+\.\d s$", said), said
        target.say("once more")
        shown = rows(daemon)
        assert (shown["probe"]["number"], shown["probe"]["state"]) == (before["number"], "active")
        assert (shown["probe"]["hits"], shown["variable"]["value"]) == (4, 4)
        assert 0 < shown["probe"]["uncounted_ns"] < shown["probe"]["present_ns"]
        told = daemon.dprobe("query").stderr
        assert "taken over after a restart of dprobed; not counted for" in told
        # Another program gets another number.
        other_source = program(tmp_path, WRITES, "other")
        (other,) = daemon.json("insert", other_source, "--pid", target.pid)
        assert other["number"] == before["number"] + 1
        daemon.json("remove", "--all")
        assert tracer_of(target.pid) == 0


#: Counts writes by what they write, in a map.
MAPS_WRITES = WRITES.replace("major", "map = lengths, count, keys=1\nmajor").replace(
    "    log 1", "    key 1\n    minc lengths\n    push 1\n    log 1"
)


@pytest.mark.parametrize("who", WHO)
def test_maps_go_on(tmp_path: Path, target: Cat, who: str) -> None:
    with running_daemon(tmp_path) as daemon:
        daemon.json("insert", program(tmp_path, MAPS_WRITES), "--pid", target.pid)
        noted(target, daemon, 3)
        kill(daemon, who)
    with running_daemon(tmp_path) as daemon:
        log_of(daemon, "taken over after a restart")
        target.say("line 3")
        target.say("once more")
        (row,) = daemon.json("maps")
        assert {tuple(e["key"]): e["value"] for e in row["entries"]} == {(7,): 4, (10,): 1}


def test_what_ended_by_itself_stays_out(tmp_path: Path, target: Cat) -> None:
    """``max_hits`` is for the program's whole life, not for that of a daemon."""
    source = program(tmp_path, WRITES.replace("minor", "max_hits = 2\nminor"))
    with running_daemon(tmp_path) as daemon:
        daemon.json("insert", source, "--pid", target.pid)
        noted(target, daemon, 2)
        kill(daemon, "daemon")
    with running_daemon(tmp_path) as daemon:
        log_of(daemon, "taken over after a restart")
        target.say("once more")
        probe = rows(daemon)["probe"]
        assert (probe["hits"], probe["state"]) == (2, "disabled")


#: A daemon that listens at once, and undoes what killed tracers have left when a file is there.
SLOW = """
import asyncio, os, sys
from dprobed.daemon import app, main, recovery

soon = recovery.recover

async def later(*arguments):
    while not os.path.exists("go"):
        await asyncio.sleep(0.01)
    await soon(*arguments)

app._ORPHANS, recovery.recover = 0.0, later
main.main(sys.argv[2:])
"""


@pytest.mark.parametrize("kind", ["--pid", "--exe"])
def test_nothing_goes_in_before_what_was_left_is_out(tmp_path: Path, kind: str) -> None:
    """What another tracer finds there it would take for the process's own: a kept program, a
    deployment and what a user inserts all wait; whoever asks is answered meanwhile."""
    tool = copied_cat(tmp_path)
    source, other = program(tmp_path, COUNTS_WRITES), program(tmp_path, WRITES, "other")
    slow = (sys.executable, "-c", SLOW)
    with cat((tool,)) as target:
        before = text(target.pid)
        with running_daemon(tmp_path) as daemon:
            daemon.json("insert", source, kind, target.pid if kind == "--pid" else tool)
            until(daemon, lambda row: row["type"] == "probe" and row["state"] == "active")
            noted(target, daemon, 2)
            kill(daemon, "both")
        with running_daemon(tmp_path, before=slow, cwd=tmp_path) as daemon:
            inserting = subprocess.Popen(
                [DPROBE, "--socket", daemon.socket, "insert", other, "--pid", str(target.pid)],
                stdout=subprocess.DEVNULL,
            )
            if kind == "--exe":
                until(daemon, lambda row: "may have something left" in str(row.get("refused")))
            assert [row for row in daemon.query() if row["type"] == "probe"] == []
            assert tracer_of(target.pid) == 0
            assert text(target.pid) != before
            (tmp_path / "go").touch()
            assert inserting.wait(PATIENCE) == 0
            until(daemon, lambda row: row.get("program") == "writes" and bool(row["hits"]))
            target.say("once more")
            until(daemon, lambda row: row.get("program") == "writes" and row["hits"] >= 3)
            daemon.json("remove", "--all")
            assert text(target.pid) == before


@pytest.mark.parametrize("who", WHO)
def test_a_deployment_goes_on(tmp_path: Path, who: str) -> None:
    """It, what it counted in processes that ended, and in one that goes on."""
    tool = copied_cat(tmp_path)
    source = program(tmp_path, COUNTS_WRITES)
    with running_daemon(tmp_path) as daemon, cat((tool,)) as target:
        (before,) = daemon.json("insert", source, "--exe", tool)
        until(daemon, lambda row: row["type"] == "deployment" and row["processes"] == 1)
        noted(target, daemon, 2)
        with cat((tool,)) as short:
            until(daemon, lambda row: row["type"] == "deployment" and row["processes"] == 2)
            noted(short, daemon, 3)
        until(daemon, lambda row: row["type"] == "deployment" and row["processes"] == 1)
        kept = state(daemon) / f"deployment-{before['number']}"
        # With the line by which that one said that it had begun, or without.
        hits = rows(daemon)["deployment"]["hits"]
        assert hits in (5, 6)
        while kept_hits(kept) < hits - 2:
            daemon.query()
        kill(daemon, who)
        with running_daemon(tmp_path) as daemon:
            until(daemon, lambda row: row["type"] == "deployment" and row["processes"] == 1)
            target.say("once more")
            shown = rows(daemon)
            row = shown["deployment"]
            assert (row["number"], row["hits"]) == (before["number"], hits + 1)
            assert (row["entered"], shown["variable"]["value"]) == (2, hits + 1)
            daemon.json("remove", "--all")


def test_what_a_policy_inserts_goes_on_when_its_handler_is_there_again(tmp_path: Path) -> None:
    """A handler comes a moment after the daemon: until then nothing is forgotten."""
    tool = copied_cat(tmp_path)
    folder = tmp_path / "policies.d"
    folder.mkdir()
    (folder / "mails.rpn").write_text("name = libc.so.6\noffset = write\n    exit mail\n")
    applies = f'match.exe = "{tool}"\napply.programs = ["mails.rpn"]\n'
    (folder / "p.toml").write_text(f'[[policy]]\nname = "p"\n{applies}')
    config = tmp_path / "dprobed.toml"
    config.write_text(f'policies = "{folder}"\n')
    register = {"type": "register", "id": 1, "name": "mailer", "facility": "mail"}
    with cat((tool,)) as target:
        with running_daemon(tmp_path, "--config", config) as daemon, Peer(daemon) as mailer:
            # Numbers are given anew where nothing is remembered.
            daemon.json("insert", program(tmp_path), "--pid", target.pid)
            daemon.json("remove", "--all")
            assert mailer.ask(register)["type"] == "registered"
            until(daemon, lambda row: row["type"] == "probe" and row["state"] == "active")
            number = rows(daemon)["deployment"]["number"]
            noted(target, daemon, 2)
            kill(daemon, "both")
        with running_daemon(tmp_path, "--config", config) as daemon, Peer(daemon) as mailer:
            assert daemon.query() == []
            assert mailer.ask(register)["type"] == "registered"
            until(daemon, lambda row: row["type"] == "probe" and row["state"] == "active")
            target.say("once more")
            shown = rows(daemon)
            assert shown["deployment"]["number"] == number
            assert shown["deployment"]["hits"] >= 3
            daemon.json("remove", "--all")


def kept_hits(path: Path) -> int:
    """What a deployment, as it is kept, has counted in processes that ended."""
    return msgspec.msgpack.decode(path.read_bytes(), type=KeptDeployment).sums.get("hits", 0)


def until(daemon: Daemon, holds: Callable[[Json], bool]) -> None:
    """Wait until a row of the query is so."""
    while not any(holds(row) for row in daemon.query()):
        pass


def copied_cat(folder: Path) -> Path:
    """A `cat` that nobody else executes."""
    tool = folder / "own-cat"
    shutil.copy("/bin/cat", tool)
    return tool


def test_what_goes_with_its_client_is_not_put_in_again(tmp_path: Path, target: Cat) -> None:
    bytecode = base64.b64encode(encode(assemble(WRITES, "x.rpn"))).decode()
    with running_daemon(tmp_path) as daemon, Peer(daemon) as peer:
        assert peer.ask({"type": "attach", "id": 1, "pid": target.pid})["type"] == "attached"
        upload = {"label": "mine", "bytecode": bytecode}
        peer.ask({"type": "insert", "id": 2, "pid": target.pid, "programs": [upload]})
        kill(daemon, "both")
    with running_daemon(tmp_path) as daemon:
        said = log_of(daemon, "breakpoints of its lost tracer removed")
        assert f"process {target.pid}: " in said
        assert daemon.query() == []
        assert tracer_of(target.pid) == 0


def test_a_process_that_has_ended_is_told(tmp_path: Path) -> None:
    with running_daemon(tmp_path) as daemon, cat() as target:
        daemon.json("insert", program(tmp_path), "--pid", target.pid)
        kill(daemon, "both")
        target.process.kill()
        target.process.wait(PATIENCE)
    with running_daemon(tmp_path) as daemon:
        said = log_of(daemon, "is not put in again after a restart")
        assert f"process {target.pid}: program 1 (writes)" in said
        assert daemon.query() == []
        assert not list(state(daemon).glob("program-*"))


def test_what_was_removed_stays_out(tmp_path: Path, target: Cat) -> None:
    with running_daemon(tmp_path) as daemon:
        daemon.json("insert", program(tmp_path), "--pid", target.pid)
        daemon.json("insert", program(tmp_path), "--exe", copied_cat(tmp_path))
        daemon.json("remove", "--all")
        kill(daemon, "both")
    with running_daemon(tmp_path) as daemon:
        assert daemon.query() == []


def test_daemons_that_die_of_it_give_it_up(tmp_path: Path, target: Cat) -> None:
    with running_daemon(tmp_path) as daemon:
        daemon.json("insert", program(tmp_path), "--pid", target.pid)
        kill(daemon, "both")
        (state(daemon) / "tries").write_text("3")
    with running_daemon(tmp_path) as daemon:
        log_of(daemon, "none is put in again")
        assert daemon.query() == []
        assert not list(state(daemon).glob("program-*"))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root's daemon has other users")
def test_rights_are_those_of_now(place: Place) -> None:
    """A policy denies it by now: its owner's program stays out, as is told; another's goes on."""
    with cat_of(NOBODY) as denied, cat_of(NOBODY_ELSE) as allowed:
        with place.daemon() as daemon:
            for uid, target in ((NOBODY, denied), (NOBODY_ELSE, allowed)):
                with asking(daemon, uid) as peer:
                    assert attach(peer, target.pid)["type"] == "attached"
                    assert insert(peer, target.pid, keep=True)["type"] == "inserted"
            kill(daemon, "both")
        place.write(DENIES)
        with place.daemon() as daemon:
            lines = log_of(daemon, "taken over after a restart")
            assert f"process {allowed.pid}: program 2 (writes) of user {NOBODY_ELSE}" in lines
            with asking(daemon, NOBODY_ELSE) as peer:
                (probe,) = answer(peer, {"type": "query", "id": 1})["probes"]
                assert (probe["number"], probe["pid"]) == (2, allowed.pid)
                assert answer(peer, {"type": "remove", "id": 2})["type"] == "removed"
            with asking(daemon, NOBODY) as peer:
                assert answer(peer, {"type": "query", "id": 1})["probes"] == []
            assert tracer_of(denied.pid) == 0
