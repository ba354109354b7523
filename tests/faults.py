"""The fault campaign: tracers and daemons are killed at random moments, and nothing comes of it.

Each round has a target whose threads check their own work, a tracer that is at work in it (puts
probes in, takes hits, takes them out, follows returns, counts semaphores up, forks, dumps, holds
for a debugger, detaches), and a SIGKILL at a random moment: of the tracer, of the daemon (its
socket ends), of both. Then another tracer undoes what the journal names. The target must go on with
right results, its text, mappings, semaphores, debug registers and descriptors as they were, and no
process of it or of ours be left.

One in ``DAEMON_EVERY`` rounds is one of a whole daemon, asked through its socket, with its own
tracers under it: there what is to be undone is the work of the daemon that goes on, or of the next
one at the same socket.

``python -m tests.faults ROUNDS [SEED]``; ``make faults``.
"""

from __future__ import annotations

import base64
import collections
import contextlib
import gc
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

from dprobed import change_journal
from dprobed.arch.x86_64.debug_registers import CONTROL
from dprobed.proc import procfs
from dprobed.program.bytecode import encode
from dprobed.program.rpn.parser import assemble
from dprobed.tracee import ptrace
from dprobed.wire import protocol
from tests.integration.client_support import (
    Daemon,
    Json,
    Peer,
    children,
    tracer_of,
    wait_end,
)
from tests.integration.harness import PATIENCE, Target, TracerProcess, counting, text

SOURCE: Final = Path(__file__).parent / "targets" / "faulted.c"
#: Seconds in which one who waits for its children has done so.
_MOMENT: Final = 10.0
#: Seconds in one of which, at most, the kill comes.
_LONGEST: Final = 0.12


#: A program that is hit as functions return.
RETURNS: Final = "at = return\npush r,rax\nlog 1\nexit"


class Fault(Exception):
    """A round in which something was not as it must be."""


class Trial:
    """One target, and what it is to be like afterwards."""

    def __init__(self, binary: Path, chance: random.Random) -> None:
        self.binary = binary
        self.chance = chance
        self.target = Target([binary])
        self.target.expect("ready")
        self._before = self._state()
        self._text = text(self.target.pid)

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

    def check_alive(self) -> None:
        """Raises Fault if the target has ended."""
        if self.target.process.poll() is not None:
            raise Fault(f"the target ended with {self.target.process.returncode}")

    def check(self) -> None:
        """The target is as it was, and ends well; raises Fault."""
        pid = self.target.pid
        self.check_alive()
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
        self.no_zombies(pid)
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

    @staticmethod
    def no_zombies(parent: int) -> None:
        """No child that has ended is left to a parent that takes its children; raises Fault.

        One that has just ended is the next moment's.
        """
        deadline = time.monotonic() + _MOMENT
        while dead := [each for each in procfs.children(parent) if procfs.run_state(each) == "Z"]:
            if time.monotonic() > deadline:
                raise Fault(f"process {parent} has zombies: {dead}")
            time.sleep(0.01)

    def end(self) -> None:
        """Leave nothing behind."""
        self.target.end()


class Round(Trial):
    """One target and its tracer."""

    def __init__(self, binary: Path, chance: random.Random) -> None:
        super().__init__(binary, chance)
        self._tracer = TracerProcess()

    # --- what the tracer is at when it is killed ---

    def _say(self, request: protocol.Request) -> None:
        """Ask without waiting for the answer."""
        self._tracer.sock.sendall(protocol.pack(request))

    def _program(self, body: str = "abort") -> str:
        return counting(self.binary, "probed", body=body)

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

    def returns(self) -> None:
        """Functions return; one of them twice, in a child."""
        self._say(protocol.Adjust(self._tracer.next(), self.target.pid, follow_forks=True))
        self._tracer.put(counting(self.binary, "work", body=RETURNS))
        self._insert(counting("libc.so.6", "fork", "nanosleep", "waitpid", body=RETURNS))

    def semaphores(self) -> None:
        """A static probe comes and goes, whose semaphore is up meanwhile."""
        for number in range(80, 86):
            self._insert(counting(self.binary, "usdt:faulted:turn"), number)
            if number % 2:
                self._say(protocol.Remove(self._tracer.next(), self.target.pid, number))

    def fork(self) -> None:
        """Children are followed."""
        self._say(protocol.Adjust(self._tracer.next(), self.target.pid, follow_forks=True))
        self._tracer.put(self._program())

    def watch(self) -> None:
        """A debug register is set in each thread."""
        place = "address = watched:8\nwatchpoint = w\nabort"
        self._insert(f'name = "{self.binary}"\nmajor = 7\n{place}')

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
        chance, tracer = self.chance, self._tracer
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
        self.check_alive()
        if who == "both":
            time.sleep(chance.random() * _LONGEST)
        second = TracerProcess(changes=tracer.changes)
        left = second.recover()
        second.end()
        if left:
            raise Fault(f"not recovered: {left}")
        self.check()

    def end(self) -> None:
        """Leave nothing behind."""
        super().end()
        self._tracer.end()


class DaemonRound(Trial):
    """One target, and a daemon with its tracers."""

    def __init__(self, binary: Path, folder: Path, chance: random.Random) -> None:
        super().__init__(binary, chance)
        self._descriptors = _open()
        self._daemon = Daemon(folder / "control.sock")
        self._peer = Peer(self._daemon)
        self._number = 0

    # --- what the tracer is at when it is killed ---

    def _say(self, kind: str, **fields: object) -> int:
        """Ask without waiting for the answer."""
        self._number += 1
        self._peer.send({"type": kind, "id": self._number, **fields})
        return self._number

    def _ask(self, kind: str, **fields: object) -> Json:
        """Ask, and wait for the answer; raises Fault."""
        number = self._say(kind, **fields)
        while (message := self._peer.read()) is not None:
            if message.get("id") == number:
                if message["type"] == "error":
                    raise Fault(f"{kind}: {message}")
                return message
        raise Fault(f"no answer to {kind}")

    def _upload(self, source: str) -> Json:
        bytecode = base64.b64encode(encode(assemble(source, "faults.rpn"))).decode()
        return {
            "pid": self.target.pid,
            "programs": [{"label": "faults", "bytecode": bytecode}],
            "keep": True,
        }

    def _put(self, body: str = "abort") -> int:
        inserted = self._ask("insert", **self._upload(counting(self.binary, "probed", body=body)))
        number: int = inserted["programs"][0]["number"]
        return number

    def _insert(self) -> None:
        places = ("getppid", "getuid", "getgid", "fork", "waitpid", "nanosleep", "write")
        self._say("insert", **self._upload(counting("libc.so.6", *places)))

    def _hit(self) -> None:
        self._put("push r,rdi\nlog 1\nexit")

    def _remove(self) -> None:
        self._say("remove", select={"number": self._put()})

    def _in_and_out(self) -> None:
        for _ in range(10):
            self._say("insert", **self._upload(counting(self.binary, "probed")))
            self._say("remove")

    def _returns(self) -> None:
        self._say("insert", **self._upload(counting(self.binary, "work", body=RETURNS)))
        places = counting("libc.so.6", "fork", "nanosleep", "waitpid", body=RETURNS)
        self._say("insert", **self._upload(places))

    def _semaphores(self) -> None:
        for _ in range(5):
            self._say("insert", **self._upload(counting(self.binary, "usdt:faulted:turn")))
            self._say("remove")
        self._say("insert", **self._upload(counting(self.binary, "usdt:faulted:turn")))

    def _fork(self) -> None:
        self._put("push r,rdi\nlog 1\nexit")

    def _watch(self) -> None:
        place = "address = watched:8\nwatchpoint = w\nabort"
        self._say("insert", **self._upload(f'name = "{self.binary}"\nmajor = 7\n{place}'))

    def _dump(self) -> None:
        self._put()
        self._say("dump", pid=self.target.pid)

    def _debug(self) -> None:
        self._put("exit debugger")

    def _detach(self) -> None:
        self._put()
        self._say("remove")
        self._say("detach", pid=self.target.pid)

    # --- the round ---

    def run(self, what: str, who: str) -> None:
        """Raises Fault."""
        self._ask("attach", pid=self.target.pid, follow_forks=what in ("fork", "returns"))
        getattr(self, f"_{what}")()
        time.sleep(self.chance.random() ** 2 * _LONGEST)
        pid = self._daemon.process.pid
        family = _descendants(pid)
        victims = [pid] if who == "daemon" else children(pid)
        if who == "both":
            victims.insert(self.chance.randrange(len(victims) + 1), pid)
        for each in victims:
            with contextlib.suppress(ProcessLookupError):
                os.kill(each, signal.SIGKILL)
        self.check_alive()
        if who != "tracer":
            self._again(who)
        self._take_out()
        self.no_zombies(self._daemon.process.pid)
        self.check()
        self._end_daemon()
        if left := [each for each in family if not wait_end(each)]:
            raise Fault(f"processes are left: {left}")
        gc.collect()
        more = _open() - self._descriptors
        if more > 0:
            raise Fault(f"{more} descriptors are left here")

    def _again(self, who: str) -> None:
        """Start the next daemon at the same socket."""
        self._close()
        if who == "both":
            time.sleep(self.chance.random() * _LONGEST)
        self._daemon = Daemon(self._daemon.socket)
        self._peer = Peer(self._daemon)

    def _take_out(self) -> None:
        """Have the daemon take out what is in, until nobody has the target and no journal names
        it; raises Fault."""
        deadline = time.monotonic() + PATIENCE
        while True:
            self._ask("remove")
            left = self._noted()
            # After that: who undoes it detaches a moment later.
            tracers = {tracer_of(tid) for tid in procfs.threads(self.target.pid)}
            status = self._ask("query")
            is_traced = tracers != {0} or any(not each["ended"] for each in status["targets"])
            # A busy machine takes longer to undo it than the daemon's start waits for that.
            if not is_traced and not left:
                return
            if time.monotonic() > deadline:
                raise Fault(f"it is still traced, by {tracers}: {status['probes']}; noted: {left}")
            self.check_alive()

    def _noted(self) -> list[change_journal.Change]:
        """What change journals say is in the target."""
        found: list[change_journal.Change] = []
        for path in Path(f"{self._daemon.socket}.changes").glob("[0-9]*"):
            with contextlib.suppress(FileNotFoundError), path.open("rb") as journal:
                found += [change for _, change in change_journal.read(journal.fileno())]
        return [each for each in found if each.pid == self.target.pid]

    def _end_daemon(self) -> None:
        self._peer.__exit__()
        self._daemon.stop()
        self._said()
        left = list(self._daemon.socket.parent.glob("control.sock*"))
        if left:
            raise Fault(f"files are left: {left}")

    def _said(self) -> None:
        """Read the rest of the daemon's log; raises Fault."""
        log = self._daemon.process.stderr
        assert log is not None
        said = log.read()
        log.close()
        if "Traceback" in said or "internal error" in said:
            raise Fault(said)

    def _close(self) -> None:
        self._peer.__exit__()
        self._daemon.process.wait(PATIENCE)
        self._said()

    def end(self) -> None:
        """Leave nothing behind."""
        super().end()
        self._peer.__exit__()
        if self._daemon.process.poll() is None:
            self._daemon.process.terminate()
            self._daemon.process.wait(PATIENCE)
        log = self._daemon.process.stderr
        assert log is not None
        log.close()


def _open() -> int:
    """How many descriptors this process has."""
    return len(list(Path("/proc/self/fd").iterdir()))


def _descendants(pid: int) -> list[int]:
    found = procfs.children(pid)
    for each in found:
        found += procfs.children(each)
    return found


WHAT: Final = (
    *("insert", "hit", "remove", "in_and_out", "returns", "semaphores", "fork", "watch"),
    *("dump", "debug", "detach"),
)
WHO: Final = ("tracer", "both", "daemon")
#: One in so many rounds has a whole daemon: no divisor of what there is to do, so that all come.
DAEMON_EVERY: Final = 2


def campaign(
    binary: Path, rounds: int, seed: int, tell: Callable[[str], None]
) -> collections.Counter[str]:
    """So many rounds; how many were faulty, by what was at work and who was killed."""
    faulty: collections.Counter[str] = collections.Counter()
    for number in range(rounds):
        what, who = WHAT[number % len(WHAT)], WHO[number // len(WHAT) % len(WHO)]
        chance = random.Random(f"{seed} {number}")
        one: Round | DaemonRound
        if number % DAEMON_EVERY:
            one = DaemonRound(binary, binary.parent, chance)
        else:
            one = Round(binary, chance)
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
