"""The service under the real systemd: started by the first connection, watched, restarted,
reloaded, stopped; and what the journal then says."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator

import pytest

from dprobed import systemd_journal
from tests.integration.client_support import PATIENCE, WRITES, Json
from tests.system.container import Container

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can boot a container"),
    # The first of them may have to make the container's root, and fetch Python's packages.
    pytest.mark.timeout(1200),
]

SERVICE, SOCKET = "dprobed.service", "dprobed.socket"


def query(service: Container) -> list[Json]:
    """What `dprobe query` says; it also starts the service, if need be."""
    return [json.loads(line) for line in service.out("dprobe", "query", "--json").splitlines()]


def main_pid(service: Container) -> str:
    return service.shown(SERVICE, "MainPID")


def restarted(service: Container, before: str) -> None:
    """Wait until another daemon is ready."""
    deadline = time.monotonic() + PATIENCE
    while main_pid(service) in (before, "0") or service.shown(SERVICE, "ActiveState") != "active":
        assert time.monotonic() < deadline, service.out("systemctl", "status", SERVICE)
        time.sleep(0.05)


class Beat:
    """A process that writes a line twenty times a second, as a unit of its own."""

    def __init__(self, service: Container) -> None:
        self._service = service
        script = "i=0; while :; do i=$((i+1)); /bin/true; echo $i >/run/beat; sleep 0.05; done"
        service.run("systemd-run", "--unit=beat", "bash", "-c", script)
        self.pid = service.shown("beat.service", "MainPID")

    def goes_on(self) -> None:
        """It does what it did before."""
        assert self._service.shown("beat.service", "MainPID") == self.pid
        deadline = time.monotonic() + PATIENCE
        before = self._service.out("cat", "/run/beat")
        while self._service.out("cat", "/run/beat") == before:
            assert time.monotonic() < deadline, "it stands still"
            time.sleep(0.02)

    def tracer(self) -> str:
        text = self._service.out("cat", f"/proc/{self.pid}/status")
        return next(line.split()[1] for line in text.splitlines() if line.startswith("TracerPid:"))


@pytest.fixture
def beat(service: Container) -> Iterator[Beat]:
    """A process to probe."""
    yield Beat(service)
    service.run("systemctl", "stop", "beat.service")


def insert(service: Container, beat: Beat) -> None:
    """Probe the calls of write(2), and wait for the first hit."""
    service.write("/run/writes.rpn", WRITES)
    service.run("dprobe", "insert", "--pid", beat.pid, "/run/writes.rpn")
    deadline = time.monotonic() + PATIENCE
    while not any(each.get("hits") for each in query(service) if each["type"] == "probe"):
        assert time.monotonic() < deadline, query(service)
        time.sleep(0.05)


def test_the_first_connection_starts_it(service: Container) -> None:
    service.run("systemctl", "stop", SERVICE)
    assert service.shown(SOCKET, "ActiveState") == "active"
    assert service.shown(SERVICE, "ActiveState") == "inactive"
    query(service)
    # It answers who comes while it is still about to say that it is ready.
    service.until("the start", SERVICE, "ActiveState", "active")
    service.until("what it says", SERVICE, "StatusText", "0 programs in 0 processes; 0 deployments")
    assert service.out("stat", "--format=%a %U:%G", "/run/dprobed/control.sock") == (
        "660 root:dprobe"
    )


def test_it_runs_within_what_its_unit_allows(service: Container) -> None:
    query(service)
    status = service.out("cat", f"/proc/{main_pid(service)}/status")
    found = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    own = service.out("cat", "/proc/1/status")
    # With a filter of its own it could not suspend those of the processes that it traces.
    filters = next(line for line in own.splitlines() if line.startswith("Seccomp_filters"))
    assert f"Seccomp_filters:\t{found['Seccomp_filters']}" == filters
    assert found["NoNewPrivs"] == "1"
    assert int(found["CapEff"], 16) & 1 << 16 == 0  # CAP_SYS_MODULE
    assert service.shown(SERVICE, "OOMScoreAdjust") == "-900"


@pytest.fixture
def metrics(service: Container) -> Iterator[str]:
    """The service with metrics at a socket; its path."""
    config, path = "/etc/dprobed/dprobed.toml", "/run/dprobed/metrics.sock"
    before = service.out("cat", config)
    service.write(config, f'{before}\n[metrics]\nlisten = "{path}"\n')
    service.run("systemctl", "restart", SERVICE)
    yield path
    service.write(config, f"{before}\n")
    service.run("systemctl", "restart", SERVICE)


#: Prints the page at a socket.
SCRAPE = """
import socket, sys
page = socket.socket(socket.AF_UNIX)
page.connect(sys.argv[1])
page.sendall(b"GET /metrics HTTP/1.1\\r\\nHost: localhost\\r\\n\\r\\n")
while part := page.recv(1 << 16):
    sys.stdout.buffer.write(part)
"""


def scraped(service: Container, path: str) -> dict[str, float]:
    """What the metrics say."""
    head, _, body = service.out("python3", "-c", SCRAPE, path).partition("\n\n")
    assert head.startswith("HTTP/1.1 200 "), head
    lines = [line for line in body.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}


def test_metrics_at_a_socket(service: Container, beat: Beat, metrics: str) -> None:
    """Within all that the unit forbids, for root alone, and at the same place after a restart."""
    insert(service, beat)
    assert service.out("stat", "--format=%a %U:%G", metrics) == "600 root:root"
    found = scraped(service, metrics)
    hits, overhead = (
        'dprobed_hits_total{process="bash",program="writes"}',
        'dprobed_overhead_seconds_total{process="bash"}',
    )
    assert found["dprobed_targets"] == found["dprobed_programs"] == 1
    assert found[hits] > 0
    assert found[overhead] > 0
    stranger = ("setpriv", "--clear-groups", "--regid=65534", "--reuid=65534")
    done = service.run(*stranger, "python3", "-c", SCRAPE, metrics, check=False)
    assert done.returncode != 0
    assert "PermissionError" in done.stderr
    before = main_pid(service)
    service.run("systemctl", "kill", "--kill-who=main", "--signal=KILL", SERVICE)
    restarted(service, before)
    deadline = time.monotonic() + PATIENCE
    while not scraped(service, metrics).get(hits):
        assert time.monotonic() < deadline, query(service)
        time.sleep(0.05)
    beat.goes_on()
    service.run("dprobe", "remove", "writes")


def test_only_members_of_its_group_may_connect(service: Container) -> None:
    service.run("useradd", "--create-home", "stranger")
    service.run("useradd", "--create-home", "--groups=dprobe", "member")
    ask = ("setpriv", "--init-groups", "--regid=1000", "--reuid")
    done = service.run(*ask, "stranger", "dprobe", "query", check=False)
    assert done.returncode == 1
    assert "it is for members of group dprobe; as root: usermod -a -G dprobe USER" in done.stderr
    done = service.run(*ask, "member", "dprobe", "query", check=False)
    assert done.returncode == 0, done.stderr


def test_a_users_own(service: Container) -> None:
    service.run("useradd", "--create-home", "owner")
    uid = service.out("id", "--user", "owner")
    service.run("loginctl", "enable-linger", "owner")
    service.until("its manager", f"user@{uid}.service", "ActiveState", "active")
    own = ["setpriv", "--init-groups", f"--reuid={uid}", f"--regid={uid}", "env"]
    own += [f"XDG_RUNTIME_DIR=/run/user/{uid}", "HOME=/home/owner"]
    service.run(*own, "systemctl", "--user", "start", "dprobed.socket")
    found = json.loads(service.out(*own, "dprobe", "status", "--json"))
    assert (found["uid"], found["socket"]) == (int(uid), f"/run/user/{uid}/dprobed/control.sock")
    shows = ("systemctl", "--user", "show", "--value", "-p", "StatusText", SERVICE)
    deadline = time.monotonic() + PATIENCE
    while service.out(*own, *shows) != "0 programs in 0 processes; 0 deployments":
        assert time.monotonic() < deadline
    service.run(*own, "systemctl", "--user", "stop", "dprobed.socket", SERVICE)


def test_a_daemon_that_hangs_is_restarted_and_its_target_goes_on(
    service: Container, beat: Beat
) -> None:
    insert(service, beat)
    said = "1 program in 1 process; 0 deployments"
    service.until("insertion", SERVICE, "StatusText", said)
    before = main_pid(service)
    service.run("systemctl", "kill", "--kill-who=main", "--signal=STOP", SERVICE)
    restarted(service, before)
    assert service.shown(SERVICE, "NRestarts") != "0"
    beat.goes_on()
    (entry, *_) = service.journal(f"UNIT={SERVICE}", "UNIT_RESULT=watchdog")
    assert "watchdog" in entry["MESSAGE"]
    # It says where it hung.
    texts = [str(each["MESSAGE"]) for each in service.journal(f"_PID={before}")]
    assert "Fatal Python error: Aborted" in texts
    assert any("asyncio" in text for text in texts)


def test_a_daemon_that_is_killed_is_restarted_and_its_target_goes_on(
    service: Container, beat: Beat
) -> None:
    insert(service, beat)
    before = main_pid(service)
    service.run("systemctl", "kill", "--kill-who=main", "--signal=KILL", SERVICE)
    restarted(service, before)
    beat.goes_on()
    query(service)


#: What outlives the daemon.
CHANGES = "/run/dprobed/control.sock.changes"
#: Waits until a tracer has noted hits in a process for whoever comes after it; how many.
NOTED = f"""
import pathlib, sys, time
from dprobed import last_counts
from dprobed.wire import protocol

while True:
    for journal in pathlib.Path("{CHANGES}").glob("[0-9]*"):
        with journal.open("rb") as file:
            note = last_counts.read(file.fileno())
        for each in protocol.decode_counts(note[1]) if note is not None else ():
            if each.pid == int(sys.argv[1]) and (hits := sum(one.hits for one in each.probes)):
                sys.exit(print(hits))
    time.sleep(0.05)
"""


def probes_of(service: Container, beat: Beat) -> list[Json]:
    return [row for row in query(service) if row.get("pid") == int(beat.pid) and "state" in row]


@pytest.mark.parametrize("who", ["main", "all"])
def test_a_daemon_that_is_killed_goes_on_with_what_was_inserted(
    service: Container, beat: Beat, who: str
) -> None:
    """The daemon, or it and its tracers: the same number, and what it has counted."""
    insert(service, beat)
    (probe,) = probes_of(service, beat)
    service.write("/run/noted.py", NOTED)
    counted = int(service.out("/usr/lib/dprobed/bin/python", "/run/noted.py", beat.pid))
    # It is one that lives: what daemons die of, one after the other, is given up.
    service.run("sh", "-c", f"while [ -e {CHANGES}/tries ]; do sleep 0.1; done")
    before = main_pid(service)
    service.run("systemctl", "kill", f"--kill-who={who}", "--signal=KILL", SERVICE)
    restarted(service, before)
    beat.goes_on()
    deadline = time.monotonic() + PATIENCE
    name = f"process {beat.pid}: program {probe['number']}"
    while True:
        now = [row for row in probes_of(service, beat) if row["state"] == "active"]
        # The journal takes a line in a moment later.
        said = service.out("journalctl", "-u", SERVICE, "-o", "cat").splitlines()
        lines = [line for line in said if name in line]
        if now and lines:
            break
        assert time.monotonic() < deadline, said
    (taken,) = now
    assert taken["number"] == probe["number"]
    assert taken["hits"] >= counted
    assert taken["uncounted_ns"] > 0
    assert "taken over after a restart; not counted for" in lines[-1]
    # What it has counted is there for whoever asks after its process's end, too.
    service.run("dprobe", "remove", "--all")
    assert beat.tracer() == "0"
    beat.goes_on()


def test_the_journal_has_fields(service: Container, beat: Beat) -> None:
    insert(service, beat)
    service.run("dprobe", "remove", "--all")
    service.run("useradd", "curious")
    service.run("usermod", "--append", "--groups=dprobe", "curious")
    ask = ("setpriv", "--init-groups", "--regid=65534", "--reuid=curious", "dprobe")
    assert service.run(*ask, "policy", "explain", "1", check=False).returncode == 2
    ours = service.journal("-u", SERVICE)
    found = {each["DPROBE_EVENT"]: each for each in ours if "DPROBE_EVENT" in each}
    inserted = found["inserted"]
    assert inserted["DPROBE_PID"] == inserted["OBJECT_PID"] == beat.pid
    assert (inserted["DPROBE_UID"], inserted["DPROBE_PROGRAM"]) == ("0", "writes")
    assert inserted["MESSAGE_ID"] == systemd_journal.EVENTS["inserted"]
    assert inserted["OBJECT_COMM"] == "bash"
    assert found["removed"]["DPROBE_PROGRAM"] == "writes"
    assert found["denied"]["DPROBE_PID"] == "1"
    assert found["denied"]["DPROBE_RULE"] == "default"
    # The message is one entry, and no line of a stream besides.
    assert [each["MESSAGE"] for each in ours].count(inserted["MESSAGE"]) == 1
    explained = service.out("journalctl", "--catalog", f"MESSAGE_ID={inserted['MESSAGE_ID']}")
    assert f"Subject: Probes were put into process {beat.pid}" in explained

    shown = service.out("dprobe", "log", "--journal", "--json", "--pid", beat.pid).splitlines()
    entries = [json.loads(line) for line in shown]
    assert {"inserted", "removed"} <= {each["event"] for each in entries}
    assert all(each["pid"] == int(beat.pid) for each in entries)
    last = service.out("dprobe", "log", "--journal", "-n", "1", "--program", "writes")
    assert last.endswith("removed writes")
    assert len(last.splitlines()) == 1


def test_records_in_the_journal_of_the_system(service: Container, beat: Beat) -> None:
    service.run("dprobe", "trace", "start", "--format", "journal", "--all")
    insert(service, beat)
    deadline = time.monotonic() + PATIENCE
    while not service.journal("DPROBE_HIT=2", f"OBJECT_PID={beat.pid}"):
        assert time.monotonic() < deadline, service.out("dprobe", "trace", "list")
        time.sleep(0.1)
    service.run("dprobe", "trace", "stop", "journal")


def test_reload(service: Container) -> None:
    query(service)
    before = main_pid(service)
    good = '[[policy]]\nname = "quiet"\nmatch.exe = "**"\n'
    service.write("/etc/dprobed/policies.d/10-test.toml", good)
    service.run("systemctl", "reload", SERVICE)
    assert "quiet" in service.out("dprobe", "policy", "list")
    service.write("/etc/dprobed/policies.d/10-test.toml", "[[policy]]\nnam = 1\n")
    done = service.run("systemctl", "reload", SERVICE, check=False)
    assert done.returncode == 1
    assert "quiet" in service.out("dprobe", "policy", "list")
    service.run("rm", "/etc/dprobed/policies.d/10-test.toml")
    service.run("systemctl", "reload", SERVICE)
    assert main_pid(service) == before


def test_stop_takes_all_probes_out(service: Container, beat: Beat) -> None:
    insert(service, beat)
    assert beat.tracer() != "0"
    began = time.monotonic()
    service.run("systemctl", "stop", SERVICE)
    assert time.monotonic() - began < 30
    assert beat.tracer() == "0"
    assert service.shown(SERVICE, "Result") == "success"
    assert (
        service.out(
            "sh",
            "-c",
            "cat /sys/fs/cgroup/*/system.slice/dprobed.service/cgroup.procs 2>/dev/null; true",
        )
        == ""
    )
    beat.goes_on()
