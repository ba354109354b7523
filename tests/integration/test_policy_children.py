"""Children of processes that policies name: which are followed, what is decided about them."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.integration.client_support import PATIENCE, Daemon, Json, Peer, program
from tests.integration.policy_support import (
    NOBODY,
    Place,
    answer,
    asking,
    attach,
    insert,
    report,
    until,
)

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can serve other users")


class Shell:
    """A shell of another user's, which goes on by a line that it reads."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self.pid = process.pid
        self.stdout = process.stdout
        self._stdin = process.stdin
        self._process = process

    def go(self) -> None:
        self._stdin.write(b"go\n")
        self._stdin.flush()

    def end(self) -> None:
        self._stdin.close()
        assert self._process.wait(PATIENCE) == 0


@contextmanager
def with_shell(place: Place, script: str) -> Iterator[tuple[Daemon, Shell, Peer]]:
    """A daemon, a shell that runs a script, and its user's connection."""
    with (
        place.daemon() as daemon,
        subprocess.Popen(
            ["dash", "-c", script],
            user=NOBODY,
            group=NOBODY,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as process,
        asking(daemon) as peer,
    ):
        yield daemon, Shell(process), peer


def test_a_child_that_is_followed_is_decided_about_by_itself(place: Place) -> None:
    rule = place.write(
        '[[policy]]\nname = "p"\nmatch = { exe = "dash", parent = "dash" }\nrights.self = "deny"\n'
    )
    with with_shell(place, "read a; (read b; echo child); echo parent") as (_, shell, peer):
        answer(peer, {"type": "attach", "id": 1, "pid": shell.pid, "follow_forks": True})
        assert insert(peer, shell.pid)["type"] == "inserted"
        shell.go()
        child = report(peer, "forked")["pid"]
        while (change := report(peer, "state"))["probes"][0]["state"] != "removed":
            pass
        assert change["pid"] == child
        assert f"policy p ({rule}:1) gives nothing" in change["probes"][0]["reason"]
        shell.go()
        assert shell.stdout.read() == b"child\nparent\n"
        shell.end()


def test_policies_that_are_read_anew_say_whether_forks_are_followed(place: Place) -> None:
    policy = '[[policy]]\nname = "p"\nmatch = {{ exe = "dash" }}\nfollow_forks = {follow}\n'
    place.write(policy.format(follow="false"))
    script = "while read line; do (echo child); done"
    with with_shell(place, script) as (daemon, shell, peer):

        def fork() -> None:
            shell.go()
            assert shell.stdout.readline() == b"child\n"

        attach(peer, shell.pid)
        assert insert(peer, shell.pid)["type"] == "inserted"
        fork()
        assert (
            report(peer, "notice")["text"] == "detached from a child, which goes on without probes"
        )
        place.write(policy.format(follow="true"))
        assert daemon.dprobe("policy", "reload").returncode == 0
        fork()
        child = report(peer, "forked")["pid"]
        assert report(peer, "record")["pid"] == child
        place.write(policy.format(follow="false"))
        assert daemon.dprobe("policy", "reload").returncode == 0
        fork()
        assert (
            report(peer, "notice")["text"] == "detached from a child, which goes on without probes"
        )
        shell.end()


@pytest.mark.parametrize("follow", ["true", "false"])
def test_each_short_child_is_probed_or_counted(place: Place, follow: str) -> None:
    """Children of a probed process live for a moment; those not followed are found like any."""
    shell = Path(shutil.copy("/bin/dash", place.folder / "own_dash"))
    program(place.policies)
    place.write(
        f'[[policy]]\nname = "p"\nmatch = {{ exe = "{shell}" }}\nfollow_forks = {follow}\n'
        'apply.programs = ["writes.rpn"]\n'
    )
    script = "read go; n=0; while [ $n -lt 200 ]; do (echo a); n=$((n+1)); done"
    with place.daemon() as daemon:
        with subprocess.Popen(
            [shell, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as target:
            until(daemon, lambda row: row["processes"] == 1)
            output, _ = target.communicate(b"go\n", timeout=2 * PATIENCE)
            assert output == b"a\n" * 200
        row = until(daemon, lambda row: row["processes"] == 0)
        if follow == "true":
            assert (row["entered"], row["hits"], row["missed"]) == (201, 200, 0)
        else:
            # The last of them may have ended just now. Others of the machine may be unseen, too.
            until(daemon, lambda row: _counted(row) >= 201)


def _counted(row: Json) -> int:
    """The processes that a deployment knows of."""
    known: int = row["entered"] + row["missed"] + row["unseen"]
    refused: int = sum(row["refused"].values())
    return known + refused
