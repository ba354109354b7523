"""A target and its tracer, as the hazard tests see them.

``Target``: a program of ``tests/targets``, which stops at named gates. ``TracerProcess``: a tracer
forked as the daemon does it, spoken to through its protocol. All waiting is for something to be
said or to end; nothing sleeps.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import select
import signal
import socket
import subprocess
import time
import traceback
import weakref
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from dprobed.program.bytecode import encode
from dprobed.program.rpn.parser import assemble
from dprobed.resolver import limits
from dprobed.resolver.service import main as resolver_main
from dprobed.tracer.main import import_all
from dprobed.tracer.main import main as tracer_main
from dprobed.wire import protocol
from dprobed.wire.framing import Unpacker
from dprobed.wire.limits import Limits
from dprobed.wire.protocol import ProbeStatus, RawRecord, State

PATIENCE = 120.0


class Target:
    """A running target program. Its ``OK`` at the end says that it came to no harm."""

    def __init__(self, command: Sequence[str | Path], **options: object) -> None:
        self.process = subprocess.Popen(  # type: ignore[call-overload]
            list(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, **options
        )
        self.pid: int = self.process.pid
        self.said: list[str] = []
        self.tracer: TracerProcess | None = None
        self._rest = b""

    def line(self) -> str | None:
        """The next line; None at the end. The tracer's messages are taken in meanwhile."""
        deadline = time.monotonic() + PATIENCE
        output = self.process.stdout
        while b"\n" not in self._rest:
            if self.tracer is not None and not self.tracer.closed:
                ready, _, _ = select.select([output, self.tracer.sock], [], [], PATIENCE)
                if self.tracer.sock in ready:
                    self.tracer.receive()
            else:
                ready, _, _ = select.select([output], [], [], PATIENCE)
            if output in ready:
                data = os.read(output.fileno(), 1 << 16)
                if not data:
                    return None
                self._rest += data
            assert time.monotonic() < deadline, f"the target is silent after {self.said}"
        line, _, self._rest = self._rest.partition(b"\n")
        text = line.decode()
        self.said.append(text)
        assert not text.startswith("FAILED"), text
        return text

    def has_said(self) -> bool:
        """Whether it said something more, or ended."""
        return bool(select.select([self.process.stdout], [], [], 0)[0])

    def expect(self, word: str) -> None:
        """Read lines up to this one."""
        while (line := self.line()) is not None:
            if line == word:
                return
        status = self.process.wait(PATIENCE)
        raise AssertionError(
            f"no {word!r} from the target, only {self.said}; it ended with {status}"
        )

    def go(self) -> None:
        """Open the gate that it waits at."""
        self.process.stdin.write(b"\n")
        self.process.stdin.flush()

    def number(self, name: str) -> int:
        """The number in the line ``name number`` among those said so far."""
        for line in self.said:
            if found := re.fullmatch(rf"{name} (-?\d+)", line):
                return int(found[1])
        raise AssertionError(f"no {name!r} in {self.said}")

    def finish(self) -> int:
        """Let it go to its end, unharmed; the number of calls of ``probed``."""
        self.go()
        self.expect("OK")
        assert self.line() is None
        assert self.process.wait(PATIENCE) == 0
        return self.number("calls")

    def end(self) -> None:
        """Leave nothing behind, whatever happened."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(PATIENCE)
        self.process.stdin.close()
        self.process.stdout.close()


def _keep_resolver(mailbox: socket.socket) -> None:
    """Start a resolver, and again whenever it has died, until nobody can ask any more."""
    limits.LINGER = 3600.0  # type: ignore[misc]
    status = -1
    while status:
        pid = os.fork()
        if pid == 0:
            resolver_main(mailbox)
            os._exit(0)
        _, status = os.waitpid(pid, 0)


class RefusedError(Exception):
    """The tracer refused a request; the text is its reason."""


class TracerProcess:
    """A tracer in a process of its own; ``uid`` is whom it runs as.

    ``engine``: which one is to serve its code probes. ``changes``: the change journal that another
    one has left.
    """

    def __init__(self, uid: int = 0, engine: str = "trap", changes: int | None = None) -> None:
        self.engine = engine
        #: The process that requests are about; the one that was attached to first.
        self.target = 0
        self.sock, theirs = socket.socketpair()
        self.records: list[RawRecord] = []
        self.events: list[protocol.Event] = []
        self.ends: dict[int, protocol.Ended] = {}
        self.forked: list[protocol.Forked] = []
        self.closed = False
        self._unpacker = Unpacker()
        self._answers: dict[int, protocol.Reply] = {}
        self._seq = 0
        self._program = 0
        mailbox, reading = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.resolver = os.fork()
        if self.resolver == 0:
            self._live(uid, [reading.fileno()], lambda: _keep_resolver(reading))
        #: The tracer's change journal: ours to read, and to give to another one.
        self.changes = os.memfd_create("changes") if changes is None else changes
        #: Read when the tracer is gone, too, so not closed before nobody knows it any more.
        self._close_changes = weakref.finalize(
            self, os.close if changes is None else int, self.changes
        )
        journal = self.changes
        self.pid = os.fork()
        if self.pid == 0:
            keep = [theirs.fileno(), mailbox.fileno(), journal]
            self._live(uid, keep, lambda: tracer_main(theirs, mailbox, journal))
        for end in (theirs, mailbox, reading):
            end.close()

    @staticmethod
    def _live(uid: int, keep: list[int], main: Callable[[], None]) -> None:
        status = 1
        # What is called stderr here, and the handlers that are there, write to what is closed now.
        stderr = os.fdopen(2, "w", buffering=1, closefd=False)
        try:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            for number in set(range(3, 1024)) - set(keep):
                with contextlib.suppress(OSError):
                    os.close(number)
            logging.root.handlers = [logging.StreamHandler(stderr)]
            if uid:
                import_all()  # our files may be where that user cannot get at
                os.setgroups([])
                os.setresgid(uid, uid, uid)
                os.setresuid(uid, uid, uid)
            main()
            status = 0
        except BaseException:
            traceback.print_exc(file=stderr)
        finally:
            os._exit(status)

    def receive(self) -> None:
        """Receive messages; waits for at least one."""
        ready, _, _ = select.select([self.sock], [], [], PATIENCE)
        assert ready, "the tracer is silent"
        try:
            data = self.sock.recv(1 << 20)
        except ConnectionResetError:
            data = b""
        self.closed = not data
        self._unpacker.feed(data)
        while (body := self._unpacker.next()) is not None:
            message = protocol.decode_from_tracer(body)
            match message:
                case protocol.Ok() | protocol.Refused():
                    self._answers[message.seq] = message
                case protocol.Records():
                    self.records += message.records
                case protocol.Ended():
                    self.ends[message.pid] = message
                case protocol.Forked():
                    self.forked.append(message)
                case _:
                    self.events.append(message)

    def request(self, request: protocol.Request) -> protocol.Ok:
        """Send it and wait for its answer; raises RefusedError."""
        self.sock.sendall(protocol.pack(request))
        while request.seq not in self._answers:
            assert not self.closed, "the tracer ended instead of answering"
            self.receive()
        answer = self._answers.pop(request.seq)
        if isinstance(answer, protocol.Refused):
            raise RefusedError(answer.reason)
        return answer

    def next(self) -> int:
        """A number for the next request."""
        self._seq += 1
        return self._seq

    @property
    def ended(self) -> protocol.Ended | None:
        """The last message about the target."""
        return self.ends.get(self.target)

    def attach(self, pid: int, **options: bool | float | Limits) -> None:
        """Begin to trace."""
        self.target = self.target or pid
        self.request(protocol.Attach(self.next(), pid, **options))  # type: ignore[arg-type]

    def insert(
        self,
        source: str,
        pid: int = 0,
        *,
        facilities: dict[str, int] | None = None,
        budget: Limits | None = None,
        engine: str = "",
    ) -> tuple[int, list[ProbeStatus]]:
        """Insert a program: its number, and the states of its probes.

        ``engine``: another one than the tracer's.
        """
        self._program += 1
        bytecode = encode(assemble(source, "test.rpn"))
        answer = self.request(
            protocol.Insert(
                self.next(),
                pid or self.target,
                self._program,
                bytecode,
                facilities=facilities or {},
                budget=budget,
                engine=engine or self.engine,
            )
        )
        for each in answer.probes:
            asked = engine or self.engine
            assert asked == "auto" or each.engine in ("", "watch", asked), each
        return self._program, answer.probes

    def put(self, source: str, pid: int = 0) -> int:
        """Insert a program, all of whose probes must become active; its number."""
        number, probes = self.insert(source, pid)
        wrong = [(each.place, each.state, each.reason) for each in probes if each.state != "active"]
        assert probes and not wrong, wrong
        return number

    def remove(self, program: int | None = None, pid: int = 0) -> list[ProbeStatus]:
        """Remove a program, or all."""
        return self.request(protocol.Remove(self.next(), pid or self.target, program)).probes

    def query(self, program: int, pid: int = 0) -> list[ProbeStatus]:
        """The program's probes."""
        answer = self.request(protocol.Query(self.next(), pid or self.target))
        return [each for each in answer.probes if each.program == program]

    def hits(self, program: int, pid: int = 0) -> list[int]:
        """The hits of each probe of a program; none missed, all run."""
        found = self.query(program, pid)
        for each in found:
            assert (each.missed, each.dropped, each.ran) == (0, 0, each.hits), each
        return [each.hits for each in found]

    def vars(self, program: int | None, reset: bool = False, pid: int = 0) -> list[int]:
        """Local variables of a program, or the globals."""
        request = protocol.Vars(self.next(), pid or self.target, program=program, reset=reset)
        return self.request(request).words

    def detach_from(self, pid: int) -> protocol.Ended:
        """Detach from one of several targets; its last message."""
        self.request(protocol.Detach(self.next(), pid))
        return self.ends_of(pid)

    def ends_of(self, pid: int) -> protocol.Ended:
        """Wait until a target has ended; the last message about it."""
        while pid not in self.ends:
            assert not self.closed, "the tracer ended without a word"
            self.receive()
        return self.ends[pid]

    def detach(self) -> protocol.Ended:
        """Detach from the target, and see the tracer end."""
        self.request(protocol.Detach(self.next(), self.target))
        return self.wait()

    def close(self) -> None:
        """Close our side, as the daemon's death does."""
        with contextlib.suppress(OSError):  # it has ended
            self.sock.shutdown(socket.SHUT_WR)

    def wait(self) -> protocol.Ended:
        """Wait for the target's end, and see the tracer end; its last message."""
        while not self.closed and self.ended is None:
            self.receive()
        if not self.closed:
            self.close()
        while not self.closed:
            self.receive()
        self.reap()
        assert self.ended is not None, "the tracer ended without a word"
        return self.ended

    def status(self) -> int:
        """Collect its processes; the tracer's exit code."""
        pid, self.pid = self.pid, 0
        _, status = os.waitpid(pid, 0)
        self.sock.close()
        os.waitpid(self.resolver, 0)
        return os.waitstatus_to_exitcode(status)

    def reap(self) -> None:
        """Collect its processes; the tracer must have ended well."""
        if self.pid:
            status = self.status()
            assert status == 0, f"the tracer ended with exit code {status}"

    def kill(self) -> None:
        """End it as the kernel does when memory is short, without a chance to detach."""
        os.kill(self.pid, signal.SIGKILL)
        self.status()

    def recover(self) -> list[int]:
        """Have it undo what another one has left, as its journal says; whom it could not have."""
        return self.request(protocol.Recover(self.next())).tids

    def end(self) -> None:
        """Have it detach if it has not yet, and reap it."""
        if self.pid:
            if not self.closed:
                self.close()
                while not self.closed:
                    self.receive()
            self.reap()
        self._close_changes()


def until_it_reads(task: str) -> None:
    """Wait until this process or thread (``PID``, ``PID/task/TID``) is in ``read``."""
    deadline = time.monotonic() + PATIENCE
    while not Path(f"/proc/{task}/syscall").read_text().startswith("0 "):
        assert time.monotonic() < deadline


def counting(module: Path | str, *places: str, body: str = "abort") -> str:
    """A program with a probe at each place."""
    parts = [f'name = "{module}"\nmajor = 7\n']
    parts += [
        f"offset = {place}\nminor = {number}\n{body}\n"
        for number, place in enumerate(places, start=1)
    ]
    return "\n".join(parts)


def active(probes: Iterable[ProbeStatus]) -> bool:
    """Whether every probe is active."""
    return all(each.state is State.ACTIVE for each in probes)


def mappings(pid: int) -> list[str]:
    """Executable mappings, as /proc tells them."""
    lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    return [line for line in lines if "x" in line.split()[1] and "[vsyscall]" not in line]


def text(pid: int) -> dict[str, bytes]:
    """All executable memory of a process, by mapping."""
    found = {}
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        for line in mappings(pid):
            start, end = (int(word, 16) for word in line.split()[0].split("-"))
            data = b""
            while len(data) < end - start:
                memory.seek(start + len(data))
                data += memory.read(end - start - len(data))
            found[line] = data
    return found
