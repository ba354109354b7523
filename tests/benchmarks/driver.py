"""Targets and tracers for the benchmarks: compiled C programs, and a tracer without a daemon."""

from __future__ import annotations

import contextlib
import os
import resource
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, NoReturn, Self

import psutil

from dprobed.program.bytecode import encode
from dprobed.program.rpn.parser import assemble
from dprobed.resolver.service import main as resolver_main
from dprobed.tracer.main import main as tracer_main
from dprobed.wire import protocol
from dprobed.wire.framing import Unpacker
from dprobed.wire.protocol import State

#: Three instructions, at the function that ``tick.c`` calls.
TICK_PROGRAM = """
name = "{binary}"
offset = tick
push r,rdi
log 1
exit
"""

HERE = Path(__file__).parent


@contextlib.contextmanager
def compiled(name: str, *options: str) -> Iterator[Path]:
    """The C program ``name`` of this folder, compiled for as long as the block lasts."""
    with tempfile.TemporaryDirectory(prefix="dprobed-bench-") as folder:
        Path(folder).chmod(0o755)  # It may run as another user.
        binary = Path(folder) / name
        source = HERE / f"{name}.c"
        words = ["gcc", "-O2", "-g", "-pthread", "-Wall", *options, "-o", str(binary), str(source)]
        subprocess.run(words, check=True, timeout=60)
        yield binary


def by_load() -> list[int]:
    """The CPUs that we may use, the idlest first: others may be at work on this machine."""
    busy = psutil.cpu_percent(0.5, percpu=True)
    return sorted(os.sched_getaffinity(0), key=lambda cpu: busy[cpu])


#: A user without any rights (Debian's nobody).
NOBODY = 65534


def _become_nobody() -> None:
    """Without a trace of root's rights, that of raising a priority included."""
    resource.setrlimit(resource.RLIMIT_NICE, (0, 0))
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)


class Target:
    """A running program that is told what to do on its standard input, one line at a time."""

    def __init__(
        self,
        binary: Path,
        cpu: int | None = None,
        arguments: tuple[str, ...] = (),
        *,
        as_nobody: bool = False,
    ) -> None:
        def prepare() -> None:
            if cpu is not None:
                os.sched_setaffinity(0, {cpu})
            if as_nobody:
                _become_nobody()

        self.process = subprocess.Popen(
            [binary, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, preexec_fn=prepare
        )

    @property
    def pid(self) -> int:
        """The process id."""
        return self.process.pid

    @property
    def output(self) -> IO[bytes]:
        """Its standard output."""
        assert self.process.stdout is not None
        return self.process.stdout

    def tell(self, line: str) -> None:
        """Send it a line."""
        assert self.process.stdin is not None
        self.process.stdin.write(line.encode() + b"\n")
        self.process.stdin.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is not None:
            self.process.kill()
        self.process.communicate(timeout=30)
        if kind is None and self.process.returncode != 0:
            raise RuntimeError(f"the target ended with status {self.process.returncode}")


class Tracer:
    """A tracer process, spoken to as the daemon does, whose records are counted and dropped."""

    def __init__(self, pid: int, *, as_nobody: bool = False) -> None:
        ours, theirs = socket.socketpair()
        mailbox, reading = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._resolver = os.fork()
        if self._resolver == 0:
            self._live(as_nobody, (ours, theirs, mailbox), lambda: resolver_main(reading))
        self.pid = os.fork()
        if self.pid == 0:
            changes = os.memfd_create("changes")
            self._live(as_nobody, (ours, reading), lambda: tracer_main(theirs, mailbox, changes))
        for end in (theirs, mailbox, reading):
            end.close()
        self.records = 0
        self._socket = ours
        self._unpacker = Unpacker()
        self._seq = 0
        self._target = pid
        self._is_killed = False
        self.ask(protocol.Attach(seq=self._next(), pid=pid))

    @staticmethod
    def _live(
        as_nobody: bool, others: tuple[socket.socket, ...], main: Callable[[], None]
    ) -> NoReturn:
        status = 1
        try:
            for end in others:
                end.close()
            if as_nobody:
                _become_nobody()
            main()
            status = 0
        finally:
            os._exit(status)

    def _next(self) -> int:
        self._seq += 1
        return self._seq

    def receive(self) -> Iterator[protocol.Reply | protocol.Event]:
        """What the tracer says next."""
        data = self._socket.recv(1 << 20)
        if not data:
            raise RuntimeError("the tracer ended by itself")
        self._unpacker.feed(data)
        while (body := self._unpacker.next()) is not None:
            message = protocol.decode_from_tracer(body)
            if isinstance(message, protocol.Records):
                self.records += len(message.records)
            yield message

    def ask(self, request: protocol.Request) -> protocol.Ok:
        """Send a request and wait for its answer; raises RuntimeError when refused."""
        self._socket.sendall(protocol.pack(request))
        while True:
            for message in self.receive():
                if isinstance(message, protocol.Refused):
                    raise RuntimeError(message.reason)
                if isinstance(message, protocol.Ok) and message.seq == request.seq:
                    return message

    def insert(self, source: str, engine: str = "trap", **facilities: int) -> protocol.Ok:
        """Put in the program with this source text; ``facilities``: what it can end with.

        Raises RuntimeError if one of its probes cannot fire.
        """
        bytecode = encode(assemble(source, "bench.rpn"))
        done = self.ask(
            protocol.Insert(
                seq=self._next(),
                pid=self._target,
                program=1,
                bytecode=bytecode,
                facilities=facilities,
                engine=engine,
            )
        )
        for probe in done.probes:
            if probe.state != State.ACTIVE:
                raise RuntimeError(f"{probe.place}: {probe.state.value}: {probe.reason}")
        return done

    def remove(self) -> protocol.Ok:
        """Take all programs out."""
        return self.ask(protocol.Remove(seq=self._next(), pid=self._target))

    def query(self) -> protocol.Ok:
        """The states and counters."""
        return self.ask(protocol.Query(seq=self._next(), pid=self._target))

    def until_line(self, target: Target) -> str:
        """Take records until the target has printed a line; gives the line."""
        while True:
            both: list[Any] = [self._socket, target.output]
            ready, _, _ = select.select(both, [], [])
            if self._socket in ready:
                for _ in self.receive():
                    pass
            if target.output in ready:
                return target.output.readline().decode().strip()

    def kill(self) -> None:
        """Kill it: the target goes on without one, with all that it has put in."""
        os.kill(self.pid, signal.SIGKILL)
        self._is_killed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None and not self._is_killed:
            self.ask(protocol.Detach(seq=self._next(), pid=self._target))
        self._socket.close()
        os.waitpid(self.pid, 0)
        os.waitpid(self._resolver, 0)


def timed(command: list[str | Path]) -> float:
    """Seconds that a command takes; raises CalledProcessError when it fails."""
    start = time.perf_counter()
    null = subprocess.DEVNULL
    subprocess.run(command, check=True, stdout=null, stderr=null, stdin=null)
    return time.perf_counter() - start


def dprobe(*arguments: str | Path) -> list[str | Path]:
    """The command line of `dprobe`, as it is installed beside this Python."""
    return [Path(sys.executable).with_name("dprobe"), *arguments]


def relatives(client: int) -> dict[str, psutil.Process]:
    """Our own processes of a `dprobe run`: the client, its private daemon, tracer and resolver."""
    found = {"client": psutil.Process(client)}
    for child in found["client"].children():
        if child.name() == "dprobed":
            found["daemon"] = child
            for process in child.children():
                own = "resolver" if process.name() == "dprobed-resolve" else "tracer"
                found[own] = process
    return found
