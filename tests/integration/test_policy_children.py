"""Children of processes that policies name: which are followed, what is decided about them."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.integration.client_support import PATIENCE, Json, program
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


def test_a_child_that_is_followed_is_decided_about_by_itself(place: Place) -> None:
    rule = place.write(
        '[[policy]]\nname = "p"\nmatch = { exe = "dash", parent = "dash" }\nrights.self = "deny"\n'
    )
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    command = ["dash", "-c", "read a; (read b; echo child); echo parent"]
    with (
        place.daemon() as daemon,
        subprocess.Popen(command, user=NOBODY, group=NOBODY, **pipes) as target,
        asking(daemon) as peer,
    ):
        assert target.stdin is not None
        assert target.stdout is not None
        answer(peer, {"type": "attach", "id": 1, "pid": target.pid, "follow_forks": True})
        assert insert(peer, target.pid)["type"] == "inserted"
        target.stdin.write(b"go\n")
        target.stdin.flush()
        child = report(peer, "forked")["pid"]
        while (change := report(peer, "state"))["probes"][0]["state"] != "removed":
            pass
        assert change["pid"] == child
        assert f"policy p ({rule}:1) gives nothing" in change["probes"][0]["reason"]
        target.stdin.write(b"go\n")
        target.stdin.flush()
        assert target.stdout.read() == b"child\nparent\n"
        assert target.wait(PATIENCE) == 0


def test_policies_that_are_read_anew_say_whether_forks_are_followed(place: Place) -> None:
    policy = '[[policy]]\nname = "p"\nmatch = {{ exe = "dash" }}\nfollow_forks = {follow}\n'
    place.write(policy.format(follow="false"))
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    command = ["dash", "-c", "while read line; do (echo child); done"]
    with (
        place.daemon() as daemon,
        subprocess.Popen(command, user=NOBODY, group=NOBODY, **pipes) as target,
        asking(daemon) as peer,
    ):
        assert target.stdin is not None
        assert target.stdout is not None

        def fork() -> None:
            assert target.stdin is not None
            assert target.stdout is not None
            target.stdin.write(b"go\n")
            target.stdin.flush()
            assert target.stdout.readline() == b"child\n"

        attach(peer, target.pid)
        assert insert(peer, target.pid)["type"] == "inserted"
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
        target.stdin.close()
        assert target.wait(PATIENCE) == 0


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
