"""`log ustack`: the callers of the place that was hit, whatever the stack is made of."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from dprobe.lib.stacks import StackNames

from dprobed.record.log import decode_log
from tests.conftest import BuildTarget
from tests.integration.client_support import dprobe, parsed
from tests.integration.conftest import Start, Trace
from tests.integration.harness import Target, TracerProcess
from tests.integration.stack_support import compared, difference
from tests.integration.test_hazard_unwinding import every_instruction

#: From the place where commands are served on: the same for all.
BASE = ["serve", "main", "__libc_start_call_main", "__libc_start_main", "_start"]
SIGNAL = "<signal handler called>"
RAISED = ["marked", "on_signal", SIGNAL, "__pthread_kill_implementation", "raise", "interrupted"]
CORRUPT = "the stack is corrupt: "
NOT_FRAMED = "the code has neither unwinding information nor frame pointers"

#: How the target is built: as usual, with frame pointers, with .debug_frame alone, statically.
BUILDS = {
    "usual": ("-O2",),
    "framed": ("-O1", "-fno-omit-frame-pointer"),
    "debug_frame": (
        *("-O2", "-fomit-frame-pointer"),
        *("-fno-asynchronous-unwind-tables", "-fno-unwind-tables"),
    ),
    "static": ("-O2", "-static"),
}


def functions(item: dict[str, Any]) -> list[str]:
    """What the frames of a stack are called, without what compilers add."""
    found = []
    for frame in item["ustack"]:
        name = SIGNAL if frame.get("signal") else frame.get("function", "?")
        found.append(name.partition(".")[0].removesuffix("@@GLIBC_2"))
    return found


class Stacks:
    """The target, and the stack of each command that it is given."""

    def __init__(self, program: Path, target: Target, tracer: TracerProcess) -> None:
        self.target, self.tracer = target, tracer
        self.names = StackNames()
        source = f'name = "{program}"\nlogmax = 16384\noffset = marked\nlog ustack\nexit\n'
        self.number = tracer.put(source)

    def of(self, command: str) -> dict[str, Any]:
        """The stack at ``marked``."""
        before = len(self.tracer.records)
        process = self.target.process
        process.stdin.write(command.encode())
        process.stdin.flush()
        self.target.expect("done")
        self.tracer.query(self.number)  # records that came before are sent before
        while len(self.tracer.records) == before:
            self.tracer.receive()
        (record,) = self.tracer.records[before:]
        (item,) = decode_log(record.log, record.raw)
        return self.named(item)

    def named(self, item: dict[str, Any]) -> dict[str, Any]:
        """A stack with the names of its functions."""
        self.names.name_frames([item], self.target.pid)
        return item


@pytest.fixture(params=BUILDS)
def stacks(
    request: pytest.FixtureRequest, build_target: BuildTarget, start: Start, trace: Trace
) -> Iterator[Stacks]:
    program = build_target("stacks.c", *BUILDS[request.param])
    target = start(program)
    found = Stacks(program, target, trace(target))
    yield found
    found.names.close()


def whole(stacks: Stacks, command: str, *expected: str) -> None:
    item = stacks.of(command)
    assert functions(item) == [*expected, *BASE]
    assert "ended" not in item


def test_recursion(stacks: Stacks) -> None:
    whole(stacks, "r", "marked", *["recurse"] * 21)


def test_signals(stacks: Stacks) -> None:
    """The frame of a handler, on the thread's own stack and on another."""
    whole(stacks, "s", *RAISED)
    whole(stacks, "o", *RAISED)


def test_an_interrupted_instruction(stacks: Stacks) -> None:
    """The place that was interrupted is shown as it is, not as one that is returned to."""
    item = stacks.of("t")
    assert functions(item) == ["marked", "on_trap", SIGNAL, "trapped", "faults", *BASE]
    trapped = item["ustack"][3]
    assert (trapped["plus"], trapped["exact"]) == (1, True)
    assert [each.get("exact", False) for each in item["ustack"][1:3]] == [False, False]


def test_frames_of_any_size(stacks: Stacks) -> None:
    whole(stacks, "a", "marked", "allocates")
    whole(stacks, "g", "marked", "aligned")


def test_code_without_unwinding_information(stacks: Stacks) -> None:
    whole(stacks, "f", "marked", "bare_frames", "by_frames")


def test_a_frame_pointer_that_leads_nowhere(stacks: Stacks) -> None:
    item = stacks.of("l")
    assert functions(item) == ["marked", "bare_looped", "bare_looped"]
    assert item["ended"] == NOT_FRAMED
    item = stacks.of("b")
    assert functions(item) == ["marked", "bare_lost"]
    assert item["ended"] == NOT_FRAMED


def test_a_corrupt_stack(stacks: Stacks) -> None:
    item = stacks.of("w")
    assert functions(item) == ["marked", "overwritten"]
    assert item["ended"] == CORRUPT + "the return address is not code"
    item = stacks.of("x")
    assert functions(item) == ["marked", "astray"]
    assert item["ended"] == CORRUPT + "the caller's frame is not above"


def test_a_child_that_shares_the_memory(stacks: Stacks) -> None:
    whole(stacks, "v", "marked", "in_child")


def test_code_that_was_made_at_run_time(stacks: Stacks) -> None:
    """Walked by its frame pointers, and named by the map that its maker keeps."""
    item = stacks.of("j")
    assert functions(item) == ["marked", "?", "calls_made", *BASE]
    made = stacks.target.number("made")
    assert item["ustack"][1] == {"address": made + 6}
    names = Path(f"/tmp/perf-{stacks.target.pid}.map")
    try:
        names.write_text(f"{made - 64:x} 10 before\n{made:x} 8 made code, at {made:x}\nrubbish\n")
        stacks.names.close()
        stacks.names = StackNames()  # which looks at a map again after a moment only
        item = stacks.of("j")
    finally:
        names.unlink()
    assert item["ustack"][1]["function"] == f"made code, at {made:x}"
    assert item["ustack"][1]["plus"] == 6


def test_the_target_comes_to_no_harm(stacks: Stacks) -> None:
    for command in "rsotagflbwxvj" * 2:
        stacks.of(command)
    stacks.tracer.detach()
    stacks.target.finish()


def test_from_each_instruction(build_target: BuildTarget, start: Start, trace: Trace) -> None:
    """The callers are the same wherever in a function the thread is."""
    program = build_target("stacks.c", "-O2")
    target = start(program)
    stacks = Stacks(program, target, trace(target))
    places = {"allocates": "a", "aligned": "g", "faults": "t", "by_frames": "f"}
    for function, command in places.items():
        before = functions(stacks.of(command))
        callers = before[len(before) - before[::-1].index(function) :]
        source = f'name = "{program}"\nlogmax = 16384\n'
        offsets = instructions(program, function)
        source += "".join(
            f"offset = {function}+{at}\nminor = {at + 1}\nmax_hits = 1\nlog ustack\nexit\n"
            for at in offsets
        )
        # Where a call does not return, as behind a trap, nothing tells whether there is code.
        number, probes = stacks.tracer.insert(source)
        assert sum(each.state == "active" for each in probes) > len(probes) - 3
        command_only(stacks, command)
        stacks.tracer.remove(number)
        found = {
            record.minor - 1: decode_log(record.log, record.raw)[0]
            for record in stacks.tracer.records
            if record.program == number
        }
        assert len(found) > 3
        for at, item in found.items():
            named = functions(stacks.named(item))
            assert named[0] == function, at
            assert named[1:] == callers, (function, at)
    stacks.names.close()


def test_from_the_kernels_own_code(build_target: BuildTarget, start: Start, trace: Trace) -> None:
    """A watchpoint that fires in the vDSO, which is in no file."""
    program = build_target("stacks.c", "-O2")
    target = start(program)
    stacks = Stacks(program, target, trace(target))
    source = f'name = "{program}"\nlogmax = 16384\naddress = when\nwatchpoint = w\n'
    number = stacks.tracer.put(source + "max_hits = 1\nlog ustack\nexit\n")
    command_only(stacks, "c")
    stacks.tracer.remove(number)
    (record,) = [each for each in stacks.tracer.records if each.program == number]
    (item,) = decode_log(record.log, record.raw)
    frames = stacks.named(item)["ustack"]
    stacks.names.close()
    assert frames[0]["module"] == "[vdso]" and frames[0]["function"]
    assert functions(item)[-6:] == ["asks_time", *BASE]
    assert "ended" not in item


def command_only(stacks: Stacks, command: str) -> None:
    process = stacks.target.process
    process.stdin.write(command.encode())
    process.stdin.flush()
    stacks.target.expect("done")


def instructions(program: Path, function: str) -> list[int]:
    """Offsets of the instructions of a function."""
    return [int(each.rpartition("+")[2], 16) for each in every_instruction(program, function)]


@pytest.mark.parametrize(
    ("module", "places", "passed", "command"),
    [
        ("libc.so.6", ("malloc", "write"), 0, ("/usr/bin/sort", "/etc/passwd")),
        (
            "libc.so.6",
            ("malloc", "free"),
            200,
            ("/usr/bin/bash", "-c", "f() { x=$(echo $1); }; f 1"),
        ),
        ("libc.so.6", ("malloc",), 300, ("/usr/bin/python3", "-Sc", "print(sorted([2, 1]))")),
        ("libc.so.6", ("regcomp", "write"), 0, ("/usr/bin/sed", "s/root/x/p", "/etc/passwd")),
    ],
    ids=["sort", "bash", "python3", "sed"],
)
def test_as_gdb_has_them(
    tmp_path: Path, module: str, places: tuple[str, ...], passed: int, command: tuple[str, ...]
) -> None:
    """The same frames in the same order as gdb finds in a core of the same moment."""
    pairs = compared(tmp_path, module, places, (os.path.realpath(command[0]), *command[1:]), passed)
    assert pairs
    for pair in pairs:
        assert difference(pair) == ""
        assert len(pair.ours) > 3


def test_as_a_user_sees_them(tmp_path: Path, build_target: BuildTarget) -> None:
    """In text a line each frame; in JSON objects; the same from a trace, when nobody is there."""
    program = build_target("stacks.c", "-O2")
    source = tmp_path / "who.rpn"
    source.write_text(f'name = "{program}"\noffset = marked\nlog ustack,3\nexit\n')
    out = tmp_path / "out"
    done = dprobe("run", "-o", out, source, "--", program, stdin=None, input="r")
    assert done.returncode == 0, done.stderr
    head, *lines = out.read_text().splitlines()[:5]
    assert head.endswith("marked+0x0 #1:")
    where = Path(__file__).parents[1] / "targets" / "stacks.c"
    assert lines[0] == f"        marked+0x0 ({program.name}) at {where}:20"
    assert lines[1].startswith("        recurse+0x") and f"({program.name}) at {where}:" in lines[1]
    assert lines[3] == "        (more frames than were asked for)"
    done = dprobe(
        "run", "--format", "json", "-o", out, source, "--", program, input="r", stdin=None
    )
    record = parsed(out.read_text())[0]
    (item,) = record["log"]
    assert item["ended"] == "more frames than were asked for"
    first = item["ustack"][0]
    assert (first["function"], first["plus"], first["exact"]) == ("marked", 0, True)
    assert (first["module"], first["file"], first["line"]) == (str(program), str(where), 20)


def test_functions_of_a_just_in_time_compiler(tmp_path: Path) -> None:
    """Node's, by the map that it keeps; the stacks are shown when the process has ended."""
    program = tmp_path / "writes.js"
    program.write_text(
        "const fs = require('fs');\n"
        "function inner() { fs.writeSync(1, 'x'); }\n"
        "function outer() { for (let i = 0; i < 3; i++) inner(); }\n"
        "for (let i = 0; i < 500; i++) outer();\n"
    )
    script = "uprobe:libc:write /arg0 == 1/ { @[ustack] = count(); @pid = max(pid) }"
    node = ["node", "--perf-basic-prof", "--interpreted-frames-native-stack", program]
    done = dprobe("run", "-e", script, "--", *node, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    pid = re.search(r"@pid: (\d+)", done.stderr)
    assert pid is not None
    Path(f"/tmp/perf-{pid[1]}.map").unlink()
    found = re.findall(r"@\[\n(.*?)\]: (\d+)", done.stderr, re.DOTALL)
    assert sum(int(count) for _, count in found) == 1500
    assert all("write+0" in stack and "outer /" in stack for stack, _ in found), done.stderr
