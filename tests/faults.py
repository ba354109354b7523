"""The fault campaign: tracers and daemons are killed at random moments, and nothing comes of it.

Each round has a target whose threads check their own work, a tracer that is at work in it (puts
probes in, takes hits, takes them out, forks, dumps, holds for a debugger, detaches), and a SIGKILL
at a random moment: of the tracer, of the daemon (its socket ends), of both. Then another tracer
undoes what the journal names. The target must go on with right results, its text, mappings, debug
registers and descriptors as they were, and no process of it or of ours be left.

``python -m tests.faults ROUNDS [SEED]``; ``make faults``.
"""

from __future__ import annotations

import collections
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from dprobed.arch.x86_64.debug_registers import CONTROL
from dprobed.proc import procfs
from dprobed.program.bytecode import encode
from dprobed.program.rpn.parser import assemble
from dprobed.tracee import ptrace
from dprobed.wire import protocol
from tests.integration.harness import Target, TracerProcess, counting, text

SOURCE: Final = Path(__file__).parent / "targets" / "faulted.c"
#: Seconds in one of which, at most, the kill comes.
_LONGEST: Final = 0.12


class Fault(Exception):
    """A round in which something was not as it must be."""


class Round:
    """One target and its tracer."""

    def __init__(self, binary: Path, chance: random.Random) -> None:
        self._binary = binary
        self._chance = chance
        self.target = Target([binary])
        self.target.expect("ready")
        self._before = self._state()
        self._text = text(self.target.pid)
        self._tracer = TracerProcess()

    def _state(self) -> tuple[str, list[str], bool]:
        """What is to be as it was: mappings, descriptors, whether SIGTRAP is caught."""
        pid = self.target.pid
        maps = Path(f"/proc/{pid}/maps").read_text().splitlines()
        # What the target itself maps for threads and memory comes and goes.
        code = "\n".join(line for line in maps if "x" in line.split()[1])
        found = procfs.status(pid)
        assert found is not None
        links = sorted(str(each.readlink()) for each in Path(f"/proc/{pid}/fd").iterdir())
        return code, links, bool(found.caught >> (signal.SIGTRAP - 1) & 1)

    # --- what the tracer is at when it is killed ---

    def _say(self, request: protocol.Request) -> None:
        """Ask without waiting for the answer."""
        self._tracer.sock.sendall(protocol.pack(request))

    def _program(self, body: str = "abort") -> str:
        return counting(self._binary, "probed", body=body)

    def _insert(self, source: str, number: int = 90) -> None:
        bytecode = encode(assemble(source, "faults.rpn"))
        self._say(protocol.Insert(self._tracer.next(), self.target.pid, number, bytecode))

    def insert(self) -> None:
        """Probes go in, many at once."""
        places = ("getppid", "getuid", "getgid", "fork", "waitpid", "nanosleep", "write")
        self._insert(counting("libc.so.6", *places))

    def hit(self) -> None:
        """Threads come by."""
        self._tracer.put(self._program("push r,rdi\nlog 1\nexit"))

    def remove(self) -> None:
        """Probes come out."""
        number = self._tracer.put(self._program())
        self._say(protocol.Remove(self._tracer.next(), self.target.pid, number))

    def in_and_out(self) -> None:
        """Probes come and go."""
        for number in range(80, 90):
            self._insert(self._program(), number)
            self._say(protocol.Remove(self._tracer.next(), self.target.pid, number))

    def fork(self) -> None:
        """Children are followed."""
        self._say(protocol.Adjust(self._tracer.next(), self.target.pid, follow_forks=True))
        self._tracer.put(self._program())

    def watch(self) -> None:
        """A debug register is set in each thread."""
        place = "address = watched:8\nwatchpoint = w\nabort"
        self._insert(f'name = "{self._binary}"\nmajor = 7\n{place}')

    def dump(self) -> None:
        """A core is written."""
        self._tracer.put(self._program())
        self._say(protocol.Dump(self._tracer.next(), self.target.pid))

    def debug(self) -> None:
        """The target is held for a debugger."""
        self._tracer.insert(
            self._program("exit debugger"), facilities={"trace": 0, "dump": 1, "debugger": 2}
        )

    def detach(self) -> None:
        """Everything comes out."""
        self._tracer.put(self._program())
        self._say(protocol.Detach(self._tracer.next(), self.target.pid))

    # --- the round ---

    def run(self, what: str, who: str) -> None:
        """Raises Fault."""
        chance, tracer = self._chance, self._tracer
        tracer.attach(self.target.pid)
        getattr(self, what)()
        time.sleep(chance.random() ** 2 * _LONGEST)
        if who == "daemon":
            tracer.close()
            while not tracer.closed:
                tracer.receive()
            tracer.reap()
        else:
            tracer.kill()
        if self.target.process.poll() is not None:
            raise Fault(f"the target ended with {self.target.process.returncode}")
        if who == "both":
            time.sleep(chance.random() * _LONGEST)
        second = TracerProcess(changes=tracer.changes)
        left = second.recover()
        second.end()
        if left:
            raise Fault(f"not recovered: {left}")
        self._check()

    def _check(self) -> None:
        pid = self.target.pid
        if self.target.process.poll() is not None:
            raise Fault(f"the target ended with {self.target.process.returncode}")
        now = self._state()
        names = ("mappings", "descriptors", "SIGTRAP")
        for name, was, is_now in zip(names, self._before, now, strict=True):
            if was != is_now:
                raise Fault(f"{name}: {was} is {is_now}")
        if text(pid) != self._text:
            raise Fault("its text is another")
        for tid in procfs.threads(pid):
            found = procfs.status(tid)
            if found is not None and (found.tracer or found.state in "tT"):
                raise Fault(f"thread {tid} is left in state {found.state}")
        self._no_debug_registers()
        self.target.go()
        try:
            self.target.expect("bad 0")
        except AssertionError as error:
            raise Fault(f"{error}; {self._threads()}") from None
        status = self.target.process.wait(30)
        if status:
            raise Fault(f"the target ended with {status}")

    def _threads(self) -> str:
        """What its threads are at."""
        found = []
        for tid in procfs.threads(self.target.pid):
            try:
                call = Path(f"/proc/{self.target.pid}/task/{tid}/syscall").read_text().strip()
            except OSError:
                continue
            children = [(each, procfs.run_state(each)) for each in procfs.children(tid)]
            found.append(f"{tid} {procfs.run_state(tid)} {call} {children}")
        return "; ".join(found)

    def _no_debug_registers(self) -> None:
        for tid in procfs.threads(self.target.pid):
            try:
                # Without options: a child that it forks just then is not ours to attend to.
                ptrace.bound_call(ptrace.PTRACE_SEIZE, tid)
                ptrace.interrupt(tid)
            except ptrace.Gone:
                continue
            _, status = os.waitpid(tid, 0x40000000)
            left = ptrace.peek_debug(tid, CONTROL)
            # What it was to get, it gets.
            ptrace.detach(tid, 0 if status >> 16 else os.WSTOPSIG(status))
            if left:
                raise Fault(f"thread {tid} has debug registers: {left:#x}")

    def end(self) -> None:
        """Leave nothing behind."""
        self.target.end()
        self._tracer.end()


WHAT: Final = (
    *("insert", "hit", "remove", "in_and_out", "fork", "watch", "dump", "debug", "detach"),
)
WHO: Final = ("tracer", "both", "daemon")


def campaign(
    binary: Path, rounds: int, seed: int, tell: Callable[[str], None]
) -> collections.Counter[str]:
    """So many rounds; how many were faulty, by what was at work and who was killed."""
    faulty: collections.Counter[str] = collections.Counter()
    for number in range(rounds):
        what, who = WHAT[number % len(WHAT)], WHO[number // len(WHAT) % len(WHO)]
        one = Round(binary, random.Random(f"{seed} {number}"))
        try:
            one.run(what, who)
        except Fault as fault:
            faulty[f"{what}, {who}"] += 1
            tell(f"round {number} ({what}, {who}): {fault}")
        finally:
            one.end()
    return faulty


def build(folder: Path) -> Path:
    """The target."""
    binary = folder / "faulted"
    subprocess.run(["cc", "-O1", "-g", "-pthread", "-o", binary, SOURCE], check=True)
    return binary


def main(arguments: list[str]) -> int:
    """The command."""
    rounds = int(arguments[0]) if arguments else 500
    seed = int(arguments[1]) if len(arguments) > 1 else random.randrange(1 << 30)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["DPROBED_DUMPS"] = folder
        faulty = campaign(build(Path(folder)), rounds, seed, lambda text: print(text, flush=True))
    print(f"{rounds} rounds, seed {seed}: {faulty.total()} faulty {dict(faulty)}")
    return bool(faulty)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
