"""Stacks as `log ustack` logs them, and as gdb finds them in a core of the same moment."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dprobe.lib.stacks import StackNames

from tests.integration.client_support import dprobe

#: Prints the frames that are not inlined: the address in its page, and the function's name.
_FRAMES = """python
frame = gdb.newest_frame()
while frame is not None:
    if frame.type() == gdb.SIGTRAMP_FRAME:
        print("frame", "-", "<signal handler called>")
    elif frame.type() != gdb.INLINE_FRAME:
        print("frame", frame.pc() & 0xfff, frame.name() or "?")
    frame = frame.older()
"""


class Frame(NamedTuple):
    """``at``: the address in its page, which is where the loader cannot move it."""

    at: int
    name: str


class Pair(NamedTuple):
    """One stack, as we have it and as gdb has it; ``ended``: why ours has no more frames."""

    ours: list[Frame]
    gdb: list[Frame]
    ended: str


def frames_of(item: dict[str, Any]) -> list[Frame]:
    """The frames of a stack, inlined functions left out."""
    return [
        Frame(-1, "<signal handler called>")
        if each.get("signal")
        else Frame(each.get("offset", each.get("address", 0)) & 0xFFF, each.get("function", "?"))
        for each in item["ustack"]
    ]


def gdb_frames(program: str, core: Path) -> list[Frame]:
    """The frames that gdb finds in a core."""
    settings = (
        "width 0",
        "backtrace past-main on",
        "backtrace past-entry on",
        "python print-stack full",
    )
    script = core.with_suffix(".gdb")
    script.write_text(_FRAMES)
    command = ["gdb", "-nx", "-batch", *(f"--eval-command=set {each}" for each in settings)]
    done = subprocess.run(
        [*command, "-x", script, program, core], capture_output=True, text=True, check=False
    )
    found = []
    for line in done.stdout.splitlines():
        words = line.split(" ", 2)
        if words[0] == "frame":
            found.append(Frame(-1 if words[1] == "-" else int(words[1]), words[2]))
    assert found, done.stdout + done.stderr
    return found


def compared(
    folder: Path, module: str, places: Sequence[str], command: Sequence[str], passed: int = 0
) -> list[Pair]:
    """Stacks at places of a command, each after ``passed`` hits."""
    source = [f"name = {module}\nlogmax = 16384"]
    source += [
        f"offset = {place}\npass_count = {passed}\nmax_hits = {passed + 1}\nminor = {number}\n"
        "log ustack\nexit dump"
        for number, place in enumerate(places, 1)
    ]
    program = folder / "stacks.rpn"
    program.write_text("\n".join(source) + "\n")
    cores = folder / "cores"
    env = {**os.environ, "DPROBED_DUMPS": str(cores), "DPROBED_JOURNAL_SOCKET": str(folder / "no")}
    done = dprobe("run", "-o", folder / "out", program, "--", *command, env=env, cwd=folder)
    names = StackNames()
    found = []
    for about in sorted(cores.glob("*.json")):
        hit = json.loads(about.read_text())["record"]
        names.name_frames(hit["log"], 0)
        (item,) = hit["log"]
        gdb = gdb_frames(command[0], about.with_suffix(".core"))
        found.append(Pair(frames_of(item), gdb, item.get("ended", "")))
    assert found, done.stderr
    return found
