"""What the executor takes: an entry of three instructions, and simple instructions in loops.

The loops run the same instructions with the stack in variables and in memory. Beside them: how long
it takes to make programs ready, which is part of putting probes in.
"""

from __future__ import annotations

import time
from statistics import median

from dprobed.program.exec.python import PythonExecutor
from dprobed.program.exec.variables import ListVariables
from dprobed.program.rpn.parser import assemble
from tests.benchmarks.figures import Figure, show
from tests.programs.cases import Case

ENTRY = """
name = x
offset = 0x1000
    push r,rdi
    log 1
    exit
"""

#: Ten simple instructions a round.
LOOP = """
name = x
jmpmax = 1000000
vars = 1
offset = 0x1000
    push 40000
again:
    push r,rdi
    push 3
    add
    push lv,0
    xor
    shl 1
    pop lv,0
    inc lv,0
    nop
    loop again
    exit
"""
ROUNDS = 40_000
INSTRUCTIONS_A_ROUND = 10


def _seconds(executor: PythonExecutor, hits: int) -> float:
    """One hit, by the average of so many."""
    entry = executor.entry(0)
    context = Case("", "").context()
    start = time.perf_counter()
    for _ in range(hits):
        entry(context)
    return (time.perf_counter() - start) / hits


def _bare(hits: int) -> float:
    """The same number of calls of a Python function that does nothing."""

    def entry(context: object) -> None:
        pass

    start = time.perf_counter()
    for _ in range(hits):
        entry(None)
    return (time.perf_counter() - start) / hits


def _ready(probes: int) -> float:
    """Seconds to make a program of so many probes ready to run."""
    more = "".join(
        f"offset = {0x2000 + n:#x}\nminor = {n + 2}\npush r,rdi\nlog 1\n" for n in range(probes - 1)
    )
    program = assemble(ENTRY + more, "many.rpn")
    start = time.perf_counter()
    PythonExecutor(program, ListVariables(), {})
    return time.perf_counter() - start


def measure(smoke: bool) -> tuple[list[Figure], list[str]]:
    """The figures, and what explains them."""
    rounds, hits = (1, 100) if smoke else (7, 100_000)
    entry = PythonExecutor(assemble(ENTRY, "entry.rpn"), ListVariables(), {})
    loop = assemble(LOOP, "loop.rpn")
    fast, slow = (
        PythonExecutor(loop, ListVariables(), {}),
        PythonExecutor(loop, ListVariables(), {}, static=False),
    )
    times: dict[str, list[float]] = {"entry": [], "bare": [], "fast": [], "slow": []}
    for _ in range(rounds):
        times["entry"].append(_seconds(entry, hits))
        times["bare"].append(_bare(hits))
        times["fast"].append(_seconds(fast, 1))
        times["slow"].append(_seconds(slow, 1))
    instructions = ROUNDS * INSTRUCTIONS_A_ROUND
    medians = {name: median(values) for name, values in times.items()}
    figures = [
        Figure(
            "push r,rdi / log 1 / exit, with its outcome",
            medians["entry"] * 1e6,
            "µs",
            "an empty Python function",
            medians["bare"] * 1e6,
            at_most=1.0,
        ),
        Figure(
            "simple instructions, stack in variables",
            instructions / medians["fast"] / 1e6,
            "million/s",
            at_least=1.0,
        ),
        Figure(
            "simple instructions, stack in memory",
            instructions / medians["slow"] / 1e6,
            "million/s",
            at_least=1.0,
        ),
        Figure("a program of 1,000 probes made ready", _ready(10 if smoke else 1000) * 1e3, "ms"),
    ]
    return figures, ["each figure is the median of rounds that alternate with the others"]


def main() -> None:
    """Print the table."""
    show((__doc__ or "").splitlines()[0], *measure(smoke=False))


if __name__ == "__main__":
    main()
