"""Each line of docs/cookbook.md, on the real program."""

from __future__ import annotations

import http.client
import os
import re
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.client_support import DPROBE, PATIENCE, Cat, cat, dprobe, tracer_of
from tests.integration.script_support import built
from tests.service.nginx import nginx
from tests.service.postgres import postgres

DOCUMENT = Path(__file__).parents[2] / "docs" / "cookbook.md"


def recipe(title: str) -> list[str]:
    """The line under a heading, as words without ``dprobe``."""
    section = DOCUMENT.read_text().split(f"\n## {title}\n")[1].split("\n## ")[0]
    line = re.search(r"^    dprobe (.*)$", section, flags=re.MULTILINE)
    assert line is not None
    return shlex.split(line[1])


def ran(title: str, *command: str | Path) -> subprocess.CompletedProcess[str]:
    """What the line does with a command."""
    words = recipe(title)
    assert words[-1] == "COMMAND"
    return dprobe(*words[:-1], *command)


def attached(words: list[str], change: tuple[str, str] = ("PID", "PID")) -> subprocess.Popen[str]:
    """The line in a process, when its probes are in."""
    changed = [word.replace(*change) for word in words]
    # It says so in a line that scripts can wait for.
    script = changed.index("-e") + 1
    changed[script] += ' interval:ms:20 { if (!@told) { @told = 1; printf("in\\n"); } }'
    one = subprocess.Popen(
        [DPROBE, *changed],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert one.stdout is not None
    assert one.stdout.readline() == "in\n"
    return one


def ended(one: subprocess.Popen[str]) -> str:
    """Ctrl-C; what it printed."""
    one.send_signal(signal.SIGINT)
    out, err = one.communicate(timeout=PATIENCE)
    assert one.returncode == 0, err
    return out


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small program of the script tests."""
    return built(tmp_path_factory.mktemp("cookbook"))


@pytest.fixture
def worker(work: Path) -> Iterator[Cat]:
    """One that calls when it is told to."""
    with cat((work, "3")) as one:
        yield one


def test_files_that_are_opened() -> None:
    done = ran("Which files does it open?", "sh", "-c", "cat /etc/hostname; ls /etc/apt >/dev/null")
    assert done.returncode == 0
    lines = done.stderr.splitlines()
    assert "cat /etc/hostname" in lines
    assert "ls /etc/apt" in lines


@pytest.mark.parametrize("preload", ["", "/usr/lib/x86_64-linux-gnu/libjemalloc.so.2"])
def test_sizes_that_malloc_is_asked_for(preload: str) -> None:
    if preload and not Path(preload).exists():
        pytest.skip("no jemalloc here")
    title = "How much does it ask malloc for?"
    words = recipe(title)
    environment = {"LD_PRELOAD": preload, "PATH": "/usr/bin:/bin"}
    done = dprobe(*words[:-1], "ls", "/", env=environment)
    assert done.returncode == 0
    counts = [int(each) for each in re.findall(r"^\[.* (\d+) \|", done.stderr, re.MULTILINE)]
    assert done.stderr.startswith("@:\n")
    assert sum(counts) > 20


def test_how_long_a_function_takes(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    done = ran("How long does a function take?", "sync", tmp_path / "file")
    assert done.returncode == 0
    assert re.fullmatch(r"@us\[sync\]:\n\[.*\) +1 \|@{52}\|\n\n", done.stderr)


def test_a_field_where_another_has_a_value(work: Path) -> None:
    done = ran("A field, where another one has a value", work)
    assert (done.returncode, done.stderr) == (0, "x=-3 y=500\n")


def test_who_calls_it_and_how_often() -> None:
    done = ran("Who calls it, and how often?", "ls", "/")
    assert done.returncode == 0
    assert "@[\n    malloc+0\n    strdup+" in done.stderr


def test_a_full_disk_without_filling_one() -> None:
    done = ran("A full disk, without filling one", "cat", "/etc/hostname")
    assert (done.returncode, done.stdout) == (1, "")
    assert "No space left on device" in done.stderr


def test_who_writes_a_variable(work: Path) -> None:
    done = ran("Who writes a variable?", work)
    assert (done.returncode, done.stderr) == (
        0,
        "outer: total is 5\nouter: total is 6\nouter: total is 8\n",
    )


def test_a_core_at_the_guilty_moment(worker: Cat, work: Path) -> None:
    words = recipe("A core at the guilty moment, once")
    words = [word.replace("malloc /arg0 > 0x10000000/", "inner /arg0 == 1/") for word in words]
    one = attached(words, ("PID", str(worker.pid)))
    worker.say("go")
    worker.say("go")
    assert one.stderr is not None
    said = ""
    while "core: " not in said:
        said = one.stderr.readline()
        assert said
    core = Path(said.split("core: ")[1].split()[0])
    try:
        assert core.exists() or core.with_suffix(core.suffix + ".zst").exists()
    finally:
        for path in core.parent.glob(f"{core.stem}*"):
            path.unlink()
    ended(one)
    assert tracer_of(worker.pid) == 0


def test_a_debugger_at_a_certain_call(worker: Cat, work: Path) -> None:
    words = recipe("gdb at the thousandth call")
    words = [word.replace("malloc {", "inner {").replace("1000", "5") for word in words]
    one = attached(words, ("PID", str(worker.pid)))
    worker.say("go")
    assert worker.process.stdin is not None
    worker.process.stdin.write(b"go\n")
    worker.process.stdin.flush()
    assert one.stderr is not None
    said = ""
    while "is held at a probe" not in said:
        said = one.stderr.readline()
        assert said
    ended(one)
    assert worker.process.stdout is not None
    assert worker.process.stdout.readline() == b"go\n"


def ask_until(port: int, one: subprocess.Popen[str], seen: set[int], wanted: set[int]) -> None:
    """Ask for pages until each of the workers has accepted somebody."""
    assert one.stdout is not None
    os.set_blocking(one.stdout.fileno(), False)
    deadline = time.monotonic() + PATIENCE
    while not wanted <= seen:
        assert time.monotonic() < deadline
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
        connection.request("GET", "/plain")
        assert connection.getresponse().status == 200
        connection.close()
        seen |= {int(line) for line in one.stdout.read().split()}
    os.set_blocking(one.stdout.fileno(), True)


def test_connections_that_nginx_accepts() -> None:
    words = recipe("The connections that nginx's workers accept, later workers too")
    with nginx() as service:
        service.start()
        words[2] += ' uprobe:libc:accept4 { printf("%d\\n", pid); }'
        one = attached(words, ("nginx", str(service.executable)))
        seen: set[int] = set()
        ask_until(service.port, one, seen, set(service.workers()))
        later = service.replace_worker(service.workers()[0])
        ask_until(service.port, one, seen, {later})
        out = ended(one)
    counted = {int(pid) for pid in re.findall(r"^@\[(\d+)\]: \d+$", out, re.MULTILINE)}
    assert counted == seen
    assert len(seen) == 3


def test_statements_of_postgres_backends() -> None:
    words = recipe("The statements of all postgres backends")
    with postgres() as service:
        service.control("start")
        one = attached(words, ("postgres", str(service.executable)))
        with service.load("-c", "2", "-t", "5") as load:
            load.end()
        out = ended(one)
    assert re.search(r"^\d+ UPDATE pgbench_accounts SET ", out, re.MULTILINE)
    pids = {line.split()[0] for line in out.splitlines() if "UPDATE pgbench_accounts" in line}
    assert len(pids) == 2


def test_it_stands_in_for_bpftrace(tmp_path: Path) -> None:
    words = recipe("As bpftrace")
    assert words[-1] == "COMMAND"
    done = dprobe(*words[:-1], "true")
    assert done.stdout.startswith("Attached 1 probe\n")
    assert shutil.which("true")
