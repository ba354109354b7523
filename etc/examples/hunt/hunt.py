"""`make hunt`: who damages the data of a multi-threaded program?

Four probe programs (``*.rpn``, beside this) find out, in ``bank.c``, while it runs:

1. a core at the moment at which damage is seen,
2. a watchpoint that tells which instruction writes there,
3. a core at the guilty write, which names the line and shows the stale pointer,
4. until the program is mended: a repair, with which it comes to its right end.

Every command that is shown can be typed; what it says is what `dprobe` and `gdb` say.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.text import Text

HERE = Path(__file__).parent
DPROBE = Path(sys.executable).with_name("dprobe")
VISITORS = "1000"
#: For some minutes: it runs until the hunt is over.
MANY_VISITORS = "200000"
#: Seconds that a command may take.
PATIENCE = 60
#: Lines of a command's output that are shown, half of them from its beginning.
SHOWN = 12
#: What gdb says of each core, which tells nothing here.
NOISE = ("[New LWP", "[Thread debugging", "Using host", "Core was generated", "[Current thread")

console = Console(highlight=False)


class HuntError(Exception):
    """The hunt cannot go on; the text says why."""


@dataclass(frozen=True)
class Bank:
    """The program that is hunted in, in a folder of its own."""

    folder: Path

    @property
    def path(self) -> Path:
        """The program."""
        return self.folder / "bank"

    @property
    def cores(self) -> Path:
        """Where cores go."""
        return self.folder / "cores"

    def run(self, *command: str | Path, status: int = 0) -> str:
        """Show a command, run it, and show what it says, which is returned."""
        words = [str(word) for word in command]
        say("$ " + shlex.join(words), "bold")
        if words[0] == "dprobe":
            words[0] = str(DPROBE)
        done = subprocess.run(
            words,
            cwd=HERE,
            env={**os.environ, "DPROBED_DUMPS": str(self.cores)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        show([line for line in done.stdout.splitlines() if line and not line.startswith(NOISE)])
        if done.returncode != status:
            raise HuntError(f"that ended with status {done.returncode}")
        return done.stdout

    def gdb(self, core: str, *orders: str) -> str:
        """What gdb says of a core."""
        given = [word for order in orders for word in ("-ex", order)]
        return self.run("gdb", "-nx", "-q", "-batch", *given, self.path, core)

    def attach(self, pid: int, program: str, **defines: str) -> str:
        """Put a probe program into the running bank, until it has seen enough."""
        given = [word for name, text in defines.items() for word in ("-D", f"{name}={text}")]
        return self.run("dprobe", "attach", *given, str(pid), program)


def say(text: str, style: str = "") -> None:
    """A line of text, whatever characters are in it."""
    console.print(Text(text, style=style), soft_wrap=True)


def show(lines: Sequence[str]) -> None:
    """What a command said; of much the beginning and the end."""
    left_out = len(lines) - SHOWN
    if left_out > 0:
        half = SHOWN // 2
        lines = [*lines[:half], f"… {left_out} more lines …", *lines[-half:]]
    for line in lines:
        say(f"  {line}")


def explain(*lines: str) -> None:
    """What is about to happen, or what was found."""
    say("")
    for line in lines:
        say(line, "cyan")


def found(pattern: str, text: str, what: str) -> tuple[str, ...]:
    """What a pattern's groups match; raises HuntError."""
    match = re.search(pattern, text, re.MULTILINE)
    if match is None:
        raise HuntError(f"there is no {what} in that")
    return match.groups()


def see_damage(bank: Bank, pid: int) -> tuple[str, str]:
    """Step 1: a core, and the address of the account that is damaged."""
    explain(
        "Step 1. Every account begins with a mark. A probe program at post() looks at it, and",
        "exits to `dump` where it is not there. The core is written while the bank goes on.",
    )
    said = bank.attach(pid, "damaged.rpn")
    where, value = found(r" damaged .*: (0x\w+) (\w+) \[dump\]$", said, "record of a dump")
    (core,) = found(r"^dprobe: core: (.+)$", said, "core")
    bank.gdb(core, "backtrace 3", "print *account")
    explain(
        f"The account at {where} has lost its mark. {value} is there instead: as seconds since",
        "1970 that is about now. post() finds the damage, but has not done it. Who writes there?",
    )
    return core, where


def see_writer(bank: Bank, pid: int, core: str, where: str) -> tuple[str, str]:
    """Step 2: the place of the instruction that writes there, and the register that it goes by."""
    explain(
        "Step 2. A watchpoint on that address, in the same process. A record has the address",
        "behind the instruction that wrote, and what it wrote. By the core gdb knows the line.",
    )
    said = bank.attach(pid, "writer.rpn", WHERE=where)
    thread, behind = found(r" (\S+)\[\S+ writer .* #1: (0x\w+) ", said, "record of a write")
    said = bank.gdb(core, f"info line *({behind} - 1)", "x/i $_")
    (place,) = found(r"<([\w.]+\+?\d*)>:", said, "instruction")
    (pointer,) = found(r"mov\s+%\w+,\(%(\w+)\)", said, "write by a pointer in a register")
    explain(
        f"It is the thread `{thread}`, at {place}; where it writes is in {pointer}. That",
        "instruction works for every desk, and most of what it does is right.",
    )
    return place, pointer


def see_culprit(bank: Bank, pid: int, where: str, place: str, pointer: str) -> str:
    """Step 3: a core at the guilty write; the line."""
    explain(
        "Step 3. So: a probe at that instruction, on the condition that it is about to write to",
        "that account. It exits to `dump`; the core shows the process before the guilty write.",
    )
    said = bank.attach(pid, "guilty.rpn", WHERE=where, WRITER=place, POINTER=pointer)
    (core,) = found(r"^dprobe: core: (.+)$", said, "core")
    said = bank.gdb(core, "backtrace 2", "print desks", f"print *(struct account *){where}")
    (line,) = found(r"^#0 .*at (\S+:\d+)$", said, "line")
    (visits,) = found(r"^\$1 = (.*)$", said, "list of desks")
    pointers = re.findall(r"visit = (0x\w+)", visits)
    if where not in pointers:
        raise HuntError("no desk's visit is at that address")
    desk = pointers.index(where)
    explain(
        f"{line} notes when a visitor was seen, but desks[{desk}].visit is stale: what it points",
        "to was freed in close_early(), which then opened an account, which got that memory.",
    )
    return line


def repair(bank: Bank) -> None:
    """Step 4: the program comes to its right end."""
    explain(
        "Step 4. Until the bank has been mended, a probe at post() puts the mark back by",
        "`pop mem`, where it is missing.",
    )
    records = bank.folder / "records"
    bank.run("dprobe", "run", "-o", records, "repair.rpn", "--", bank.path, VISITORS)
    bank.run("tail", "-n", "6", records)


def hunt(bank: Bank) -> None:
    """All of it."""
    bank.run("gcc", "-g", "-O1", "-pthread", "-o", bank.path, "bank.c")
    explain("A bank loses money:")
    bank.run(bank.path, VISITORS, status=1)
    explain("It is open again, with more visitors, and nobody may stop it.")
    say(f"$ {bank.path} {MANY_VISITORS} &", "bold")
    say(f"$ export DPROBED_DUMPS={bank.cores}", "bold")
    running = subprocess.Popen([bank.path, MANY_VISITORS], stdout=subprocess.DEVNULL)
    try:
        core, where = see_damage(bank, running.pid)
        place, pointer = see_writer(bank, running.pid, core, where)
        line = see_culprit(bank, running.pid, where, place, pointer)
        if running.poll() is not None:
            raise HuntError(f"the bank has ended, with status {running.returncode}")
    finally:
        running.kill()
        running.wait()
    repair(bank)
    explain(
        f"All the money is in the books, and the bank ended with status 0. The line was {line}."
    )


def main() -> int:
    """The whole hunt, in a folder that is removed."""
    try:
        with tempfile.TemporaryDirectory(prefix="bank-") as folder:
            hunt(Bank(Path(folder)))
    except (HuntError, subprocess.TimeoutExpired, OSError) as error:
        print(f"hunt: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
