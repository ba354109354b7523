"""`dprobe top` on a terminal, and in a pipe."""

from __future__ import annotations

import fcntl
import os
import re
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dprobed.proc.procfs import run_state
from tests.integration.client_support import (
    DPROBE,
    Cat,
    Daemon,
    parsed,
    program,
    running_daemon,
    tracer_of,
)

_CONTROLS = re.compile(rb"\x1b\[[0-9;?]*[A-Za-z]")


class Terminal:
    """A command on a terminal of its own, 120 columns wide."""

    def __init__(self, *command: str | Path, term: str = "xterm") -> None:
        self._ours, theirs = os.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 120, 0, 0))
        self.before = termios.tcgetattr(theirs)
        self.process = subprocess.Popen(
            command,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env={**os.environ, "TERM": term},
            process_group=0,  # In a session of its own nobody could let it go on.
        )
        self._theirs = theirs
        self._said = b""

    def press(self, keys: str) -> None:
        """Keys, and forget what was on the screen before."""
        self._said = b""
        os.write(self._ours, keys.encode())

    def until(self, pattern: str) -> str:
        """Wait until something is on the screen."""
        deadline = time.monotonic() + 30
        while True:
            text = _CONTROLS.sub(b"", self._said).decode(errors="replace")
            if found := re.search(pattern, text):
                return found[0]
            ready, _, _ = select.select([self._ours], [], [], deadline - time.monotonic())
            assert ready, text
            self._said += os.read(self._ours, 1 << 16)

    def end(self) -> int:
        """Its exit status; the terminal is as it was."""
        while self.process.poll() is None:
            self._take()
        while self._take():
            pass
        assert self.is_as_before()
        return self.process.returncode

    def _take(self) -> bool:
        if not select.select([self._ours], [], [], 0.05)[0]:
            return False
        self._said += os.read(self._ours, 1 << 16)
        return True

    def is_as_before(self) -> bool:
        """Whether the terminal is."""
        return termios.tcgetattr(self._theirs) == self.before

    @property
    def shown(self) -> str:
        """All that came since the last keys."""
        return self._said.decode(errors="replace")

    def close(self) -> None:
        """Leave nothing behind."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self._ours)
        os.close(self._theirs)


@contextmanager
def top(daemon: Daemon, *arguments: str, term: str = "xterm") -> Iterator[Terminal]:
    terminal = Terminal(DPROBE, "--socket", daemon.socket, "top", *arguments, term=term)
    try:
        yield terminal
    finally:
        terminal.close()


def test_the_live_screen(daemon: Daemon, target: Cat, tmp_path: Path) -> None:
    daemon.json("insert", program(tmp_path), "--pid", target.pid)
    with top(daemon, "--interval", "0.1") as screen:
        screen.until(rf"{target.pid} +cat +writes +1 +write\+0x0 +active +0 ")
        target.say("x")
        screen.until(rf"{target.pid} +cat +writes +1 +write\+0x0 +active +1 ")
        screen.press("\t")
        screen.until(rf"probes +hits +hits/s\*[^0-9]*{target.pid} +cat +1 +1 ")
        screen.press("t")
        screen.until(r"hits\* +hits/s")
        screen.press(" ")
        screen.until("paused")
        screen.press(" \t")
        screen.until("no program has maps")
        screen.press("\t")
        screen.until("write")
        used = r"[0-9.]+ % CPU, \d+ MB"
        screen.until(rf"daemon {daemon.process.pid}: {used} +resolver \d+: {used}\s+tracer \d+: ")
        screen.press("d")
        screen.until(rf"y: remove program 1 \(writes\) from process {target.pid};")
        assert tracer_of(target.pid)
        screen.press("y")
        screen.until("1 probe removed")
        assert tracer_of(target.pid) == 0
        screen.press("q")
        assert screen.end() == 0


MAPS = """
name = libc.so.6
map = sizes, hist
map = stacks, sum, keys=2
offset = write
    push r,rdx
    madd sizes
    push r,rdx
    key comm
    key ustack
    madd stacks
    abort
"""


def test_maps_are_tables(daemon: Daemon, target: Cat, tmp_path: Path) -> None:
    path = tmp_path / "sizes.rpn"
    path.write_text(MAPS)
    daemon.json("insert", path, "--pid", target.pid)
    for text in ("four", "nine"):
        target.say(text)  # and a line feed
    with top(daemon, "--interval", "0.1") as screen:
        screen.until("q quit")
        screen.press("\t\t")
        screen.until(r"program +map +pid +value")
        screen.until(r"sizes +sizes +count 2, most in \[4, 8\): 2")
        # Beside it, or in a line of its own: as many frames fit as the machine's libraries have.
        screen.until(r"sizes +stacks +10\s+(key )?cat, write < ")
        target.say("more")
        screen.until(r"sizes +stacks +15\s+(key )?cat, write < ")
        screen.press("d")  # of what one looks at nothing is removed
        screen.press("q")
        assert screen.end() == 0
    text = daemon.dprobe("top", "--interval", "0.1").stdout
    assert re.search(r"sizes +stacks +15 +cat, write < ", text)
    rows = parsed(daemon.dprobe("top", "--interval", "0.1", "--json").stdout)
    found = {each["map"]: each["value"] for each in rows if each["type"] == "map"}
    assert found == {"sizes": "count 3, most in [4, 8): 3", "stacks": "15"}


def test_ctrl_c_ends_it(daemon: Daemon) -> None:
    with top(daemon) as screen:
        screen.until("quit")
        screen.process.send_signal(2)
        assert screen.end() == 0


def test_sigterm_gives_the_terminal_back(daemon: Daemon) -> None:
    with top(daemon) as screen:
        screen.until("quit")
        screen.process.send_signal(signal.SIGTERM)
        assert screen.end() == 143
        # The screen from before, with its cursor.
        assert "\x1b[?1049l" in screen.shown
        assert "\x1b[?25h" in screen.shown


def test_ctrl_z_stops_it_and_it_goes_on(daemon: Daemon) -> None:
    with top(daemon, "--interval", "0.1") as screen:
        screen.until("quit")
        screen.press("\x1a")
        while run_state(screen.process.pid) != "T":
            pass
        assert screen.is_as_before()
        screen.process.send_signal(signal.SIGCONT)
        screen.press("")
        screen.until("quit")
        screen.press("q")
        assert screen.end() == 0


def test_a_dumb_terminal_gets_one_look(daemon: Daemon) -> None:
    with top(daemon, "--interval", "0.1", term="dumb") as screen:
        screen.until("0 processes   0 probes")
        assert screen.end() == 0
        assert "\x1b" not in screen.shown


def test_the_end_of_the_daemon_ends_it(tmp_path: Path) -> None:
    with running_daemon(tmp_path) as daemon, top(daemon, "--interval", "0.1") as screen:
        screen.until("quit")
        daemon.stop()
        screen.until("dprobe: the daemon is gone")
        assert screen.end() == 1


def test_in_a_pipe(daemon: Daemon, target: Cat, tmp_path: Path) -> None:
    daemon.json("insert", program(tmp_path), "--pid", target.pid)
    target.say("x")
    done = daemon.dprobe("top", "--interval", "0.1")
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert lines[0] == "1 process   1 probe   0 hits/s"
    assert re.fullmatch(rf" *{target.pid} +cat +1 +1 +0.0 +0.0", lines[3])
    assert re.match(rf" *{target.pid} +cat +writes +1 +write\+0x0 +active +1 ", lines[6])
    rows = parsed(daemon.dprobe("top", "--interval", "0.1", "--json").stdout)
    (row,) = [each for each in rows if each.get("type") != "usage"]
    assert (row["pid"], row["hits"], row["rate"]) == (target.pid, 1, 0.0)
    own = {each["what"]: each for each in rows if each.get("type") == "usage"}
    assert own["daemon"]["pid"] == daemon.process.pid
    assert own["tracer"]["pid"] == tracer_of(target.pid)
    assert all(each["memory"] > 1 and each["cpu"] >= 0 for each in own.values())
    assert lines[8].split() == ["pid", "what", "CPU", "%", "memory,", "MB"]
