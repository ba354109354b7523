"""What an ordinary user tries against root's daemon, each refused and in the journal.

docs/attacks.md has the whole list, with the tests of what is not here.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.integration.client_support import PATIENCE, Json, Peer, cat, program, tracer_of
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
    upload,
)

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can serve other users")

HOLDS = "name = libc.so.6\noffset = write\nexit debugger\n"


@contextmanager
def script_of(uid: int, text: str) -> Iterator[subprocess.Popen[bytes]]:
    """A Python program of a user that says a line when it is ready, and waits for another."""
    command = [sys.executable, "-I", "-c", f"{text}\nprint(flush=True)\ninput()"]
    with subprocess.Popen(
        ["/usr/bin/python3", *command[1:]],
        user=uid,
        group=uid,
        extra_groups=[],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"\n"
        try:
            yield process
        finally:
            process.kill()


def noted(place: Place, why: str, request: str, pid: int | None = None) -> str:
    """The next entry is about this refusal of the user's; its message."""
    entry = place.entry()
    assert entry["DPROBE_EVENT"] == "refused", entry
    assert (entry["DPROBE_WHY"], entry["DPROBE_REQUEST"]) == (why, request)
    assert entry["DPROBE_UID"] == str(NOBODY)
    assert entry["DPROBE_BY_PID"] == str(os.getpid())
    assert entry.get("OBJECT_PID") == (None if pid is None else str(pid))
    assert entry["MESSAGE"].startswith(f"refused: user {NOBODY} (process {os.getpid()}), {request}")
    return entry["MESSAGE"]


def test_what_is_roots_alone(place: Place) -> None:
    requests: list[Json] = [
        {"type": "register", "name": "a", "facility": "trace"},
        {"type": "arm", "names": ["dump"]},
        {"type": "disarm", "names": ["dump"]},
        {"type": "tracestart", "name": "a", "folder": "/dev/full"},
        {"type": "tracestop", "name": "a"},
        {"type": "tracesave", "name": "a"},
        {"type": "tracelist"},
        {"type": "policyreload"},
    ]
    with place.daemon() as daemon, asking(daemon) as peer:
        for request in requests:
            text = refused(answer(peer, {**request, "id": 1}))
            assert noted(place, "root only", str(request["type"])).endswith(text)
        # Whom the configuration names may have some there.
        kernel = upload("name = kernel\nmodtype = kernel\noffset = vfs_read\nexit\n")
        message = {"type": "insertkernel", "id": 1, "programs": [kernel]}
        text = refused(answer(peer, message))
        assert text.startswith("only root may insert programs into the kernel")
        entry = place.entry()
        assert (entry["DPROBE_EVENT"], entry["DPROBE_RULE"]) == ("denied", "kernel")
        assert entry["MESSAGE"].endswith(text)


def test_dprobed_itself(place: Place) -> None:
    with place.daemon() as daemon, cat_of(NOBODY) as own, asking(daemon) as peer:
        assert attach(peer, own.pid)["type"] == "attached"
        # The last of them runs as the user: the kernel would allow it.
        for pid in (daemon.process.pid, os.getpid(), tracer_of(own.pid)):
            assert "part of dprobed itself" in refused(attach(peer, pid))
            noted(place, "dprobed itself", "attach", pid)


def test_a_process_that_the_kernel_protects(place: Place) -> None:
    """It is the user's own, and was made not dumpable, as setuid programs are."""
    hide = "import ctypes; assert not ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)"
    with place.daemon() as daemon, script_of(NOBODY, hide) as own, asking(daemon) as peer:
        text = refused(attach(peer, own.pid))
        assert text.startswith(f"not permitted to trace process {own.pid}")
        assert noted(place, "kernel", "attach", own.pid).endswith(text)
        # Root's tracer may, and the user does not get into that.
        daemon.dprobe("insert", program(place.folder), "-p", own.pid)
        assert "is traced for user 0 already" in refused(attach(peer, own.pid))
        noted(place, "another user's tracer", "attach", own.pid)


def test_what_is_another_users(place: Place) -> None:
    with place.daemon() as daemon, cat_of(DAEMON) as other, asking(daemon) as peer:
        daemon.dprobe("insert", program(place.folder), "-p", other.pid)
        number = daemon.json("programs")[0]["number"]
        for request in ("dump", "resume", "detach"):
            message: Json = {"type": request, "id": 1, "pid": other.pid}
            assert "is not traced by this daemon" in refused(answer(peer, message))
            noted(place, "another user's target", request, other.pid)
        for message in (
            {"type": "vars", "id": 2, "number": number, "reset": True},
            {"type": "remove", "id": 2, "select": {"number": number}},
        ):
            assert "no" in refused(answer(peer, message))
            noted(place, "another user's program", str(message["type"]))
        assert daemon.json("programs")[0]["number"] == number


def test_a_handler_of_another(place: Place) -> None:
    with place.daemon() as daemon, asking(daemon) as peer, Peer(daemon) as root:
        found = answer(root, {"type": "register", "id": 1, "name": "h", "facility": "f"})
        assert found["type"] == "registered"
        found = answer(peer, {"type": "deregister", "id": 2, "name": "h"})
        assert refused(found) == "this connection has no handler h"
        noted(place, "another's handler", "deregister")
        peer.send({"type": "answer", "handler": "h", "report": 1, "verdict": "terminate"})
        assert peer.read() == {
            "type": "error", "error": "this connection has no handler h", "id": None
        }  # fmt: skip
        noted(place, "another's handler", "answer")


def test_a_debuggers_socket(place: Place) -> None:
    """Only its owner may open the folder; who got in nevertheless is turned away."""
    with place.daemon() as daemon, cat_of(DAEMON) as target, asking(daemon, DAEMON) as owner:
        assert attach(owner, target.pid)["type"] == "attached"
        assert insert(owner, target.pid, upload(HOLDS, "holds"))["type"] == "inserted"
        assert target.process.stdin is not None
        target.process.stdin.write(b"x\n")
        target.process.stdin.flush()
        while (found := owner.read()) is not None and found.get("kind") != "debugger":
            pass
        status = answer(owner, {"type": "query", "id": 3})
        path = Path(status["targets"][0]["debugger"]["socket"])
        for is_open in (False, True):
            if is_open:
                path.parent.chmod(0o777)
                path.chmod(0o777)
            os.seteuid(NOBODY)
            try:
                with socket.socket(socket.AF_UNIX) as sock:
                    sock.settimeout(PATIENCE)
                    if not is_open:
                        with pytest.raises(PermissionError):
                            sock.connect(str(path))
                        continue
                    sock.connect(str(path))
                    assert sock.recv(1) == b""
            finally:
                os.seteuid(0)
        entry = place.entry()
        assert (entry["DPROBE_EVENT"], entry["DPROBE_WHY"]) == ("refused", "debugger")
        assert entry["MESSAGE"] == (
            f"refused: process {os.getpid()} of user {NOBODY} may not debug process {target.pid}"
        )
        assert answer(owner, {"type": "resume", "id": 4, "pid": target.pid})["type"] == "resumed"
        assert target.process.stdout is not None
        assert target.process.stdout.readline() == b"x\n"


def test_quotas(place: Place) -> None:
    with place.daemon() as daemon, asking(daemon) as peer:
        deploy: Json = {"type": "deploy", "id": 1, "selection": {"exe": "/none"}}
        found = answer(peer, {**deploy, "programs": [upload(label=f"x{n}") for n in range(65)]})
        assert "limit 64" in refused(found)
        noted(place, "quota", "deploy")


def test_a_name_with_line_feeds_is_one_line(place: Place) -> None:
    rename = "open('/proc/self/comm', 'w').write('a\\nrefused: x')"
    with place.daemon() as daemon, script_of(DAEMON, rename) as other, asking(daemon) as peer:
        name = r"a\nrefused: x"
        assert name in refused(attach(peer, other.pid))
        entry = place.entry()
        assert entry["DPROBE_EVENT"] == "denied"
        assert f"process {other.pid} ({name})" in entry["MESSAGE"]
    assert daemon.process.stderr is not None


def test_a_flood_of_refusals_hides_nothing(place: Place) -> None:
    """Many times the same is cut, what is new is not, and how many more there were is told."""

    def entries() -> list[dict[str, str]]:
        """All up to the line that comes by itself, some seconds later."""
        found = [place.entry()]
        while not found[-1]["MESSAGE"].startswith(f"denied: user {NOBODY}: "):
            found.append(place.entry())
        return found

    with (
        place.daemon() as daemon,
        cat_of(DAEMON) as other,
        asking(daemon) as peer,
        ThreadPoolExecutor(1) as pool,
    ):
        reading = pool.submit(entries)
        began = time.monotonic()
        for _ in range(1000):
            refused(attach(peer, other.pid))
        refused(attach(peer, 1))
        refused(answer(peer, {"type": "tracelist", "id": 1}))
        seconds = time.monotonic() - began
        *found, last = reading.result()
    assert "more like this" in last["MESSAGE"]
    assert last["DPROBE_UID"] == str(NOBODY)
    pids = [each.get("OBJECT_PID") for each in found]
    assert pids.count("1") == 1
    assert [each["DPROBE_EVENT"] for each in found].count("refused") == 1
    assert len(found) <= 51 + 5 * (seconds + 1) + 2


def test_what_others_execute_is_not_told(place: Place) -> None:
    """/proc does not tell who executes what to everybody: a deployment with a glob must not."""
    secret = place.folder / "secret_tool"
    secret.write_bytes(Path("/usr/bin/cat").read_bytes())
    secret.chmod(0o755)
    with place.daemon() as daemon, asking(daemon) as peer, cat_of(NOBODY) as own:
        selection = {"exe": f"{place.folder}/secret_*"}
        deploy: Json = {"type": "deploy", "id": 1, "selection": selection}
        assert answer(peer, {**deploy, "programs": [upload()]})["type"] == "deployed"
        everything: Json = {"type": "deploy", "id": 2, "selection": {}}
        found = answer(peer, {**everything, "programs": [upload(label="all")]})
        assert found["type"] == "deployed"
        with cat_of(DAEMON, secret) as other, cat([secret]) as roots:
            deadline = time.monotonic() + PATIENCE
            while not tracer_of(own.pid):
                assert time.monotonic() < deadline
            rows = answer(peer, {"type": "query", "id": 3})["deployments"]
            told = {pid for row in rows for pid in row["refusals"]}
            assert not told & {str(other.pid), str(roots.pid)}
            assert [row["processes"] for row in rows if row["program"] == "writes"] == [0]
