"""Running the real `dprobe` and `dprobed`, and targets that do one thing when they are told to."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import select
import signal
import socket as sockets
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Self

#: Seconds in which anything that a test waits for happens.
PATIENCE: Final = 60.0

DPROBE = Path(sys.executable).with_name("dprobe")
DPROBED = Path(sys.executable).with_name("dprobed")

#: Before a daemon's command: without this capability the kernel tells it of no processes.
WITHOUT_EVENTS: Final = ("setpriv", "--inh-caps=-net_admin", "--bounding-set=-net_admin")

#: Logs the length of each write(2) through libc: one record for each line that `cat` passes on.
WRITES = """
name = libc.so.6
major = 7
offset = write
minor = 3
    push r,rdx
    log 1
    exit
"""
#: The same, and a variable that counts them.
COUNTS_WRITES = WRITES.replace("offset", "vars = 1\noffset").replace("push", "inc lv,0\n    push")

Json = dict[str, Any]

HELLO: Json = {"type": "hello", "id": 0, "protocol": 1}


def program(folder: Path, text: str = WRITES, name: str = "writes") -> Path:
    """A program's source as a file."""
    path = folder / f"{name}.rpn"
    path.write_text(text)
    return path


def dprobe(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    """One command of the client, to its end."""
    command = [str(DPROBE), *map(str, arguments)]
    options = {"stdin": subprocess.DEVNULL, "capture_output": True, **options}
    return subprocess.run(command, text=True, timeout=2 * PATIENCE, check=False, **options)


def parsed(text: str) -> list[Json]:
    """JSON lines."""
    return [json.loads(line) for line in text.splitlines()]


def words(record: Json) -> list[int]:
    """The words that a record logged."""
    return [word for item in record["log"] for word in item.get("words", [])]


#: What a resolver calls itself.
RESOLVER = "dprobed-resolve"


def _started(pid: int) -> list[tuple[int, str]]:
    found = []
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        with contextlib.suppress(OSError):
            found.append((int(child), Path(f"/proc/{child}/comm").read_text().strip()))
    return found


def children(pid: int) -> list[int]:
    """The processes that ``pid`` started, but for resolvers, which stay for a while."""
    return [child for child, name in _started(pid) if name != RESOLVER]


def resolvers(pid: int) -> list[int]:
    """The resolvers of a daemon."""
    return [child for child, name in _started(pid) if name == RESOLVER]


def wait_end(pid: int, seconds: float = PATIENCE) -> bool:
    """Wait until a process that need not be ours is gone (a zombie is)."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([descriptor], [], [], seconds)[0])
    finally:
        os.close(descriptor)


def tracer_of(pid: int) -> int:
    """Who traces ``pid``; 0: nobody."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("TracerPid:"):
            return int(line.split()[1])
    raise AssertionError(f"no TracerPid for {pid}")


def lowest_free(pid: int) -> int:
    """The number that the next file has which a process opens: as its limit it lets it open none,
    whatever it has open above."""
    there = {int(path.name) for path in Path(f"/proc/{pid}/fd").iterdir()}
    return next(number for number in itertools.count() if number not in there)


class Cat:
    """`cat`: passes each line on by one write(2), when it is told to."""

    def __init__(self, command: Sequence[str | Path] = ("cat",), **options: Any) -> None:
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, **options
        )
        self.pid = self.process.pid
        self.say("started")

    def say(self, line: str) -> None:
        """One line in, and out again."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(line.encode() + b"\n")
        self.process.stdin.flush()
        # One that is held would keep a test that failed from its end.
        assert select.select([self.process.stdout], [], [], PATIENCE)[0]
        assert self.process.stdout.readline() == line.encode() + b"\n"

    def end(self) -> int:
        """The end of its input; its exit status."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        return self.process.wait(PATIENCE)


@contextmanager
def cat(command: Sequence[str | Path] = ("cat",), **options: Any) -> Iterator[Cat]:
    """A `cat` that ends well: whoever traced it has let it go unharmed.

    ``command``: what becomes one.
    """
    target = Cat(command, **options)
    try:
        yield target
        if target.process.poll() is None:
            target.say("still here")
            assert target.end() == 0
    finally:
        if target.process.poll() is None:
            target.process.kill()
            target.process.wait()
        for stream in (target.process.stdin, target.process.stdout):
            assert stream is not None
            stream.close()


class Daemon:
    """A `dprobed` of our own, at a socket of its own."""

    def __init__(
        self, socket: Path, *arguments: object, before: Sequence[str] = (), **options: Any
    ) -> None:
        self.socket = socket
        # Limits of dumps are for an hour, and kept in their folder.
        environment = {**os.environ, "DPROBED_DUMPS": str(socket.with_name("dumps"))}
        options.setdefault("env", environment)
        self.process = subprocess.Popen(
            [*before, str(DPROBED), "--socket", str(socket), *map(str, arguments)],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            **options,
        )
        assert self.process.stderr is not None
        assert "listens at" in self.process.stderr.readline()

    def dprobe(self, *arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
        """One command of the client, through this daemon."""
        return dprobe("--socket", self.socket, *arguments, **options)

    def json(self, *arguments: object) -> list[Json]:
        """The rows of a listing."""
        done = self.dprobe(*arguments, "--json")
        assert done.returncode == 0, done.stderr
        return parsed(done.stdout)

    def query(self) -> list[Json]:
        """The rows of ``dprobe query``, by the protocol: for who asks until something is so, a
        command each time would take most of the machine. It lets the others have it, too."""
        time.sleep(0.01)
        with Peer(self) as peer:
            answer = peer.ask({"type": "query", "id": 1})
        rows: list[Json] = answer["deployments"] + answer["probes"]
        return rows

    def stop(self) -> None:
        """Ask it to end; it must, and take its tracers with it."""
        tracers = children(self.process.pid) + resolvers(self.process.pid)
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(PATIENCE) == 0
        assert all(map(wait_end, tracers))


@contextmanager
def running_daemon(
    folder: Path, *arguments: object, before: Sequence[str] = (), **options: Any
) -> Iterator[Daemon]:
    """A daemon for a test; it ends well, and leaves neither file nor process.

    ``before``: a command that executes it.
    """
    daemon = Daemon(folder / "control.sock", *arguments, before=before, **options)
    try:
        yield daemon
        if daemon.process.poll() is None:
            daemon.stop()
            assert not list(folder.glob("control.sock*"))
    finally:
        if daemon.process.poll() is None:
            daemon.process.kill()
            daemon.process.wait()
        assert daemon.process.stderr is not None
        daemon.process.stderr.close()


class Peer:
    """A client that says what it likes."""

    def __init__(self, daemon: Daemon, hello: Json | None = HELLO) -> None:
        self.socket = sockets.socket(sockets.AF_UNIX)
        self.socket.settimeout(PATIENCE)
        self.socket.connect(str(daemon.socket))
        self.lines = self.socket.makefile("rb")
        if hello is not None:
            assert self.ask(hello)["type"] == "welcome"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.lines.close()
        self.socket.close()

    def send(self, message: Json | bytes) -> None:
        """A message, or whatever else."""
        data = message if isinstance(message, bytes) else json.dumps(message).encode() + b"\n"
        self.socket.sendall(data)

    def read(self) -> Json | None:
        """The next message; None at the end."""
        try:
            line = self.lines.readline()
        except ConnectionResetError:
            return None
        message: Json | None = json.loads(line) if line else None
        return message

    def ask(self, message: Json | bytes) -> Json:
        """A message, and what comes next."""
        self.send(message)
        answer = self.read()
        assert answer is not None
        return answer
