"""Hostile files: the tracer refuses them and serves others, the daemon answers meanwhile."""

from __future__ import annotations

import contextlib
import os
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

from tests.integration.client_support import Cat, Daemon, resolvers
from tests.integration.conftest import Trace
from tests.integration.harness import counting
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
int main(void)
{
    puts("ready");
    fflush(stdout);
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


def test_a_tracer_refuses_it_and_serves_others_meanwhile(trace: Trace, tmp_path: Path) -> None:
    hostile = endless_symbols(tmp_path / "hostile.so")
    calling = built(tmp_path, "calls", CALLS)
    with (
        started(calling) as good,
        started(built(tmp_path, "maps", MAPS), hostile) as bad,
    ):
        tracer = trace()
        tracer.attach(good.pid)
        program = tracer.put(counting(calling, "called"), good.pid)
        tracer.attach(bad.pid)
        (before,) = tracer.hits(program, good.pid)
        begun = time.monotonic()
        _, (probe,) = tracer.insert(counting(hostile, "anything"), bad.pid)
        waited = time.monotonic() - begun
        (after,) = tracer.hits(program, good.pid)
        assert (probe.state, waited < 9) == ("invalid offset", True)
        assert probe.reason.startswith(f"{hostile}: reading it took too long (the limit is 5 s)")
        # Where nobody is served, one waits at its breakpoint until then.
        assert after - before > 4 * waited
        # Others' files are read as ever.
        tracer.put(counting("libc.so.6", "getenv"), bad.pid)
        for pid in (good.pid, bad.pid):
            tracer.let_go(pid)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root's daemon looks at others' processes")
def test_the_daemon_answers_others_meanwhile(daemon: Daemon, target: Cat, tmp_path: Path) -> None:
    source = tmp_path / "x.rpn"
    source.write_text(counting("no-such-soname.so", "f"))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        hostile = endless_needs(folder / "hostile.so")
        with started(built(folder, "maps", MAPS), hostile, user=USER):
            # Of each process of that user is asked whether it maps that: of the hostile file, too.
            daemon.json("insert", source, "--user", USER)
            longest, busy = 0.0, 0.0
            end = time.monotonic() + 60
            while busy < 1 and time.monotonic() < end:
                begun = time.monotonic()
                daemon.json("query")
                longest = max(longest, time.monotonic() - begun)
                for each in map(psutil.Process, resolvers(daemon.process.pid)):
                    with contextlib.suppress(psutil.Error):
                        # It reads with the rights of him whose process it is.
                        if each.uids().real == USER:
                            busy = max(busy, sum(each.cpu_times()[:2]))
            assert busy >= 1
            assert longest < 3  # of which most is the client's own start
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
    os.kill(resolver, signal.SIGKILL)
    source.write_text(counting("libc.so.6", "getppid+0"))
    (second, *_) = daemon.json("insert", "--merge", source, "--pid", target.pid)
    assert second["state"] == "active"
    assert resolvers(daemon.process.pid) != [resolver]


def test_killed_in_the_middle_of_a_question(daemon: Daemon, tmp_path: Path) -> None:
    hostile = endless_symbols(tmp_path / "hostile.so")
    source = tmp_path / "x.rpn"
    source.write_text(counting(hostile, "f"))
    with started(built(tmp_path, "maps", MAPS), hostile) as bad:

        def kill() -> None:
            while not (found := resolvers(daemon.process.pid)):
                time.sleep(0.01)
            time.sleep(1)
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
