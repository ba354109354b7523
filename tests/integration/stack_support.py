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

#: Prints the frames of each core: the address in its page, and the function's name. Those of tail
#: calls have no frame; gdb infers them from what debug information says of calls.
_FRAMES = """python
for core in {cores}:
    gdb.execute("core-file " + core, to_string=True)
    print("core", core)
    frame = gdb.newest_frame()
    while frame is not None:
        if frame.type() == gdb.SIGTRAMP_FRAME:
            print("frame", "-", "<signal handler called>")
        elif frame.type() == gdb.INLINE_FRAME:
            print("frame", "inlined", frame.name())
        elif frame.type() != gdb.TAILCALL_FRAME:
            print("frame", frame.pc() & 0xfff, frame.name() or "?")
        frame = frame.older()
"""


#: Instead of an address: a signal's frame, and a function that is inlined in the next frame.
_SIGNAL = -1
_INLINED = -2


class Frame(NamedTuple):
    """``at``: the address in its page, which is where the loader cannot move it."""

    at: int
    name: str

    @property
    def is_inlined(self) -> bool:
        """Whether the function has no frame of its own."""
        return self.at == _INLINED


class Pair(NamedTuple):
    """One stack, as we have it and as gdb has it; ``ended``: why ours has no more frames."""

    ours: list[Frame]
    gdb: list[Frame]
    ended: str


def frames_of(item: dict[str, Any]) -> list[Frame]:
    """The frames of a stack, inlined functions before those in which they are."""
    found = []
    for each in item["ustack"]:
        if each.get("signal"):
            found.append(Frame(_SIGNAL, "<signal handler called>"))
            continue
        found += [Frame(_INLINED, inlined["function"]) for inlined in each.get("inlined", ())]
        at = each.get("offset", each.get("address", 0)) & 0xFFF
        found.append(Frame(at, each.get("function", "?")))
    return found


def gdb_frames(program: str, cores: Sequence[Path]) -> list[list[Frame]]:
    """The frames that gdb finds in each core."""
    settings = (
        "width 0",
        "backtrace past-main on",
        "backtrace past-entry on",
        "python print-stack full",
    )
    script = cores[0].with_suffix(".gdb")
    script.write_text(_FRAMES.format(cores=[str(each) for each in cores]))
    command = ["gdb", "-nx", "-batch", *(f"--eval-command=set {each}" for each in settings)]
    done = subprocess.run(
        [*command, "-x", script, program], capture_output=True, text=True, check=False
    )
    found: list[list[Frame]] = []
    for line in done.stdout.splitlines():
        words = line.split(" ", 2)
        if words[0] == "core":
            found.append([])
        elif words[0] == "frame":
            kinds = {"-": _SIGNAL, "inlined": _INLINED}
            at = kinds[words[1]] if words[1] in kinds else int(words[1])
            found[-1].append(Frame(at, words[2]))
    assert len(found) == len(cores) and all(found), done.stdout + done.stderr
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
    done = dprobe(
        "run", "-o", folder / "out", program, "--", *command, env=env, cwd=folder, errors="replace"
    )
    names = StackNames()
    files = sorted(cores.glob("*.json"))
    assert done.returncode == 0, done.stderr
    if not files:
        return []
    found = []
    theirs = gdb_frames(command[0], [each.with_suffix(".core") for each in files])
    for about, gdb in zip(files, theirs, strict=True):
        hit = json.loads(about.read_text())["record"]
        names.name_frames(hit["log"], 0)
        (item,) = hit["log"]
        found.append(Pair(frames_of(item), gdb, item.get("ended", "")))
    names.close()
    return found


def difference(pair: Pair) -> str:
    """What differs between the two; nothing: they are the same."""
    ours = [each.name if each.is_inlined else each.at for each in pair.ours]
    theirs = [each.name if each.is_inlined else each.at for each in pair.gdb]
    if ours == theirs and not pair.ended:
        return ""
    return f"  ours: {pair.ours} {pair.ended}\n  gdb:  {pair.gdb}"
