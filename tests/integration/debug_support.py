"""Debuggers on a held target: the real gdb, and a client that sends single packets."""

from __future__ import annotations

import re
import select
import signal
import socket
import subprocess
from pathlib import Path

from dprobed.tracer.debug import rsp
from dprobed.wire import protocol
from dprobed.wire.notices import NoticeKind
from tests.integration.harness import PATIENCE, Target, TracerProcess

DEBUGGER = 1


def holding(program: Path, place: str, condition: str = "") -> str:
    """A program that ends with ``exit debugger`` where ``condition`` leaves 0 on the stack."""
    check = f"{condition}\njz hold\nabort\nhold:\n" if condition else ""
    return f'name = "{program}"\nmajor = 7\noffset = {place}\n{check}exit debugger\n'


def when(register: str, value: int) -> str:
    """The condition that a register has a value."""
    return f"push r,{register}\npush {value}\nsub"


def status(tracer: TracerProcess) -> protocol.DebuggerStatus:
    """The tracer's status of debugging."""
    found = tracer.request(protocol.Query(tracer.next(), tracer.target)).debugger
    assert found is not None
    return found


def told(tracer: TracerProcess) -> list[str]:
    """What the daemon is told of what is held, or is not: a line each."""
    return [
        event.reason if isinstance(event, protocol.NoDebugger) else event.text
        for event in tracer.events
        if isinstance(event, protocol.NoDebugger)
        or (isinstance(event, protocol.TargetEvent) and event.kind is NoticeKind.DEBUGGER)
    ]


def await_hold(tracer: TracerProcess) -> protocol.DebuggerStatus:
    """Wait until the target is held and a debugger invited."""
    before = len(told(tracer))
    while len(told(tracer)) == before:
        tracer.receive()
    return status(tracer)


def put(tracer: TracerProcess, source: str) -> int:
    """A program that may end with ``exit debugger``."""
    number, probes = tracer.insert(source, facilities={"debugger": DEBUGGER})
    assert probes and all(each.state == "active" for each in probes), probes
    return number


def gdb(where: str, *commands: str, sysroot: str = "/", file: Path | None = None) -> str:
    """A session of the real gdb; what it printed."""
    setup = [f"set sysroot {sysroot}", "set debuginfod enabled off", "set confirm off"]
    command = ["gdb", "-q", "-nx", "-batch"]
    for each in setup:
        command += ["-iex", each]
    command += ["-ex", f"target remote {where}"]
    for each in commands:
        command += ["-ex", each]
    if file is not None:
        command.append(str(file))
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=PATIENCE, stdin=subprocess.DEVNULL
    )
    return done.stdout + done.stderr


def values(output: str) -> list[str]:
    """What gdb's ``print`` said, in order."""
    return re.findall(r"^\$\d+ = (.*)$", output, re.MULTILINE)


class Client:
    """A debugger that sends what a test tells it to."""

    def __init__(self, where: str) -> None:
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._sock.connect(where)
        self._reader = rsp.Reader()

    def send(self, payload: bytes) -> None:
        """A packet."""
        self._sock.sendall(rsp.frame(payload))

    def raw(self, data: bytes) -> None:
        """Bytes as they are."""
        self._sock.sendall(data)

    def interrupt(self, payload: bytes) -> None:
        """A packet that lets threads go on, and Ctrl-C right behind it: sent together, so that they
        do not get as far as we are slow."""
        self._sock.sendall(rsp.frame(payload) + b"\x03")

    def answer(self) -> bytes:
        """The next packet."""
        while True:
            while (item := self._reader.next()) is not None:
                if isinstance(item, bytes):
                    return item
            ready, _, _ = select.select([self._sock], [], [], PATIENCE)
            assert ready, "the server is silent"
            data = self._sock.recv(1 << 18)
            assert data, "the server hung up"
            self._reader.feed(data)

    def ask(self, payload: bytes) -> bytes:
        """A packet and its answer."""
        self.send(payload)
        return self.answer()

    def close(self) -> None:
        """Hang up."""
        self._sock.close()


def interrupt_when_told(process: subprocess.Popen[str], target: Target, word: str) -> None:
    """Ctrl-C for gdb when the target has said a word."""
    target.expect(word)
    process.send_signal(signal.SIGINT)
