"""Hostile files: the tracer refuses them and serves others; the daemon answers meanwhile."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from dprobed.binary.elf import ElfFile
from dprobed.resolver import caution
from tests.integration.client_support import Cat, Daemon, resolvers
from tests.integration.conftest import Trace
from tests.integration.harness import TracerProcess, counting
from tests.unit.location_files import endless_needs, endless_symbols

#: Nobody else's.
USER = 54321

MAPS = """
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>
int main(int count, char **arguments)
{
    int fd = open(arguments[1], O_RDONLY);
    if (mmap(0, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE, fd, 0) == MAP_FAILED)
        return 1;
    puts("mapped");
    fflush(stdout);
    return getchar() != EOF;
}
"""

CALLS = """
#include <stdio.h>
#include <unistd.h>
__attribute__((noinline)) void called(void) { __asm__ volatile(""); }
int main(int count, char **arguments)
{
    puts("ready");
    fflush(stdout);
    if (count > 1)
        getchar();
    for (;;) { called(); usleep(1000); }
}
"""


def built(folder: Path, name: str, source: str) -> Path:
    """A C program."""
    (folder / f"{name}.c").write_text(source)
    subprocess.run(["gcc", "-o", folder / name, folder / f"{name}.c"], check=True)
    return folder / name


@contextmanager
def started(*command: str | Path, user: int | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """A program that has said that it is ready."""
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, user=user, group=user
    ) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline()
            yield process
            assert process.poll() is None, "it came to harm"
        finally:
            process.kill()


@pytest.mark.parametrize("begins", ["before", "meanwhile"])
def test_a_tracer_refuses_it_and_serves_others_meanwhile(
    trace: Trace, tmp_path: Path, begins: str
) -> None:
    """Those that go on hitting their probes, and those that come to one for the first time."""
    hostile = endless_symbols(tmp_path / "hostile.so")
    calling = built(tmp_path, "calls", CALLS)
    with (
        started(calling, *([] if begins == "before" else ["waits"])) as good,
        started(built(tmp_path, "maps", MAPS), hostile) as bad,
    ):
        tracer = trace()
        tracer.attach(good.pid)
        program = tracer.put(counting(calling, "called"), good.pid)
        tracer.attach(bad.pid)
        (before,) = tracer.hits(program, good.pid)
        while begins == "before" and not before:
            (before,) = tracer.hits(program, good.pid)
        begun = time.monotonic()
        if begins == "meanwhile":
            assert good.stdin is not None
            threading.Timer(1.0, os.write, (good.stdin.fileno(), b"go on\n")).start()
        _, (probe,) = tracer.insert(counting(hostile, "anything"), bad.pid)
        waited = time.monotonic() - begun
        (after,) = tracer.hits(program, good.pid)
        assert (probe.state, waited < 30) == ("invalid offset", True)
        assert probe.reason.startswith(f"{hostile}: reading it took too long (the limit is 5 s)")
        # Where nobody is served, one waits at its breakpoint until then.
        assert after - before > 4 * waited
        # Others' files are read as ever.
        tracer.put(counting("libc.so.6", "getenv"), bad.pid)
        for pid in (good.pid, bad.pid):
            tracer.detach_from(pid)


OPENS = """
#include <dlfcn.h>
#include <stdio.h>
int main(int count, char **arguments)
{
    puts("ready");
    fflush(stdout);
    for (int i = 1; i < count && getchar() != EOF; i++) {
        printf("%s\\n", dlopen(arguments[i], RTLD_NOW) ? "opened" : "failed");
        fflush(stdout);
    }
    return getchar() != EOF;
}
"""


def wanted(folder: Path, name: str) -> Path:
    """A library of which only its soname says that a program means it."""
    source, library = folder / f"{name}.c", folder / f"{name}.so"
    source.write_text(f"int {name}(void) {{ return 1; }}")
    soname = f"-Wl,-soname,{name}-wanted.so"
    subprocess.run(["gcc", "-shared", "-o", library, soname, source], check=True)
    return library


@contextmanager
def stopped_resolver(tracer: TracerProcess) -> Iterator[None]:
    """It neither answers nor dies, as in uninterruptible sleep."""
    (resolver,) = psutil.Process(tracer.resolver).children()
    resolver.suspend()
    try:
        yield
    finally:
        resolver.resume()


def go(process: subprocess.Popen[bytes]) -> None:
    """Have it open the next library."""
    assert process.stdin is not None
    process.stdin.write(b"\n")
    process.stdin.flush()


def test_a_stopped_resolver_does_not_hold_up_each_dlopen(
    trace: Trace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The tracer is a fork of ours. It waits for the first one, for none as long as that again.
    patience = 4.0
    monkeypatch.setattr(caution, "PATIENCE", patience)
    monkeypatch.setattr(caution, "_SILENCE", patience)
    libraries = [wanted(tmp_path, name) for name in ("first", "second", "third")]
    with started(built(tmp_path, "opens", OPENS), *libraries) as process:
        assert process.stdout is not None
        tracer = trace()
        tracer.attach(process.pid)
        tracer.put(counting("libc.so.6", "getenv"), process.pid)
        program, _ = tracer.insert(counting("third-wanted.so", "third"), process.pid)
        with stopped_resolver(tracer):
            begun = time.monotonic()
            for _ in libraries:
                go(process)
                assert process.stdout.readline() == b"opened\n"
            assert patience <= time.monotonic() - begun < 3 * patience
            (probe,) = tracer.query(program, process.pid)
            assert probe.state == "pending"
            assert re.search("(second|third).so: the resolver does not answer", probe.reason)
        # Looked for again by and by.
        end = time.monotonic() + 60
        while probe.state == "pending":
            assert time.monotonic() < end
            time.sleep(0.1)
            (probe,) = tracer.query(program, process.pid)
        assert probe.state == "active"
        tracer.detach_from(process.pid)


def test_a_stopped_resolver_does_not_hold_up_detaching(trace: Trace, tmp_path: Path) -> None:
    library = wanted(tmp_path, "first")
    with started(built(tmp_path, "opens", OPENS), library) as process:
        assert process.stdout is not None
        tracer = trace()
        tracer.attach(process.pid)
        tracer.put(counting("libc.so.6", "getenv"), process.pid)
        tracer.insert(counting("first-wanted.so", "first"), process.pid)
        with stopped_resolver(tracer):
            go(process)
            wait_until_traced_stop(process.pid)
            begun = time.monotonic()
            tracer.detach_from(process.pid)
            assert time.monotonic() - begun < 5
            assert process.stdout.readline() == b"opened\n"


def wait_until_traced_stop(pid: int) -> None:
    """Until the process stands in a stop for its tracer for a while."""
    seen = 0
    end = time.monotonic() + 60
    while seen < 20:
        assert time.monotonic() < end
        seen = seen + 1 if psutil.Process(pid).status() == psutil.STATUS_TRACING_STOP else 0
        time.sleep(0.005)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root's daemon looks at others' processes")
def test_the_daemon_answers_others_meanwhile(daemon: Daemon, target: Cat, tmp_path: Path) -> None:
    source = tmp_path / "x.rpn"
    source.write_text(counting("no-such-soname.so", "f"))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        hostile = endless_needs(folder / "hostile.so")
        begun = time.process_time()
        ElfFile(os.open(hostile, os.O_RDONLY), str(hostile))
        reading = time.process_time() - begun
        assert reading > 0.1
        with started(built(folder, "maps", MAPS), hostile, user=USER):
            # Of each process of that user is asked whether it maps that: of the hostile file, too.
            daemon.json("insert", source, "--user", USER)
            longest, busy = 0.0, 0.0
            end = time.monotonic() + 60
            while busy < reading / 2 and time.monotonic() < end:
                begun = time.monotonic()
                daemon.query()
                longest = max(longest, time.monotonic() - begun)
                for each in map(psutil.Process, resolvers(daemon.process.pid)):
                    with contextlib.suppress(psutil.Error):
                        # It reads with the rights of him whose process it is.
                        if each.uids().real == USER:
                            busy = max(busy, sum(each.cpu_times()[:2]))
            assert busy >= reading / 2
            assert longest < 3
            source.write_text(counting("libc.so.6", "getenv"))
            (first, *_) = daemon.json("insert", source, "--pid", target.pid)
            assert first["state"] == "active"


def test_it_is_started_again_after_it_was_killed(
    daemon: Daemon, target: Cat, tmp_path: Path
) -> None:
    source = tmp_path / "x.rpn"
    source.write_text(counting("libc.so.6", "getenv"))
    (first, *_) = daemon.json("insert", source, "--pid", target.pid)
    assert first["state"] == "active"
    (resolver,) = resolvers(daemon.process.pid)
    # Where memory runs out it goes before the daemon, and before targets.
    assert Path(f"/proc/{resolver}/oom_score_adj").read_text() == "500\n"
    os.kill(resolver, signal.SIGKILL)
    source.write_text(counting("libc.so.6", "getppid+0"))
    (second, *_) = daemon.json("insert", "--merge", source, "--pid", target.pid)
    assert second["state"] == "active"
    assert resolvers(daemon.process.pid) != [resolver]


def test_one_that_is_stopped_is_replaced(daemon: Daemon, target: Cat, tmp_path: Path) -> None:
    source = tmp_path / "x.rpn"
    source.write_text(counting("libc.so.6", "getenv"))
    (first, *_) = daemon.json("insert", source, "--pid", target.pid)
    assert first["state"] == "active"
    (before,) = resolvers(daemon.process.pid)
    os.kill(before, signal.SIGSTOP)
    # Another tracer wants to ask it, and has to be taken in.
    with subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE) as other:
        source.write_text(counting("libc.so.6", "getppid+0"))
        end = time.monotonic() + 90
        state = ""
        while state != "active":
            assert time.monotonic() < end
            done = daemon.dprobe("insert", "--merge", source, "--pid", other.pid, "--json")
            state = "active" if '"active"' in done.stdout else done.stdout + done.stderr
        other.kill()
    assert before not in resolvers(daemon.process.pid)


def test_killed_in_the_middle_of_a_question(daemon: Daemon, tmp_path: Path) -> None:
    hostile = endless_symbols(tmp_path / "hostile.so")
    source = tmp_path / "x.rpn"
    source.write_text(counting(hostile, "f"))
    with started(built(tmp_path, "maps", MAPS), hostile) as bad:

        def kill() -> None:
            while not (found := resolvers(daemon.process.pid)):
                time.sleep(0.01)
            # It is at work on the question: what the file is, takes it less than that.
            process = psutil.Process(found[0])
            while str(hostile) not in (each.path for each in process.open_files()):
                time.sleep(0.01)
            until = process.cpu_times().user + 0.2
            while process.cpu_times().user < until:
                time.sleep(0.01)
            os.kill(found[0], signal.SIGKILL)

        killer = threading.Thread(target=kill)
        killer.start()
        # Without a look for the place before: the tracer's own question is meant.
        options = ("--missing", "warn", "--json")
        done = daemon.dprobe("insert", source, "--pid", bad.pid, *options)
        killer.join()
        assert "ended while it read this one" in done.stdout + done.stderr
        source.write_text(counting("libc.so.6", "getenv"))
        (second, *_) = daemon.json("insert", source, "--pid", bad.pid)
        assert second["state"] == "active"
