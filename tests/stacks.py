"""The stack campaign: stacks as we log them, beside gdb's `bt` in a core of the same moment.

For each program its calls of libc's functions are counted first; then it is run again, and at so
many of its hits, drawn among all, logs its stack and has a core written. gdb must find the same
frames in the core, in the same order, inlined functions included.

``python -m tests.stacks [PLACES [PROGRAM…]]``; ``make stacks``.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from dprobed.binary.file import Binary
from dprobed.binary.opening import descriptor_of
from tests.integration.client_support import dprobe
from tests.integration.stack_support import Pair, compared, difference

_LIBC: Final = "libc.so.6"
#: Functions of libc that are tried, of those it exports, and those that most programs call.
_TRIED: Final = 300
_USUAL: Final = ("malloc", "free", "calloc", "realloc", "write", "read", "close", "mmap", "exit")
_TEXT: Final = "/usr/share/common-licenses/GPL-2"

#: Commands, by the program's name: what they do is done in a folder of their own.
PROGRAMS: Final[dict[str, Sequence[str]]] = {
    "sort": ("sort", _TEXT),
    "gzip": ("gzip", "-c", _TEXT),
    "xz": ("xz", "-0", "-T1", "-c", _TEXT),
    "bzip2": ("bzip2", "-c", _TEXT),
    "ls": ("ls", "-l", "/usr"),
    "find": ("find", "/etc/dpkg", "-name", "*s*"),
    "grep": ("grep", "-c", "the [a-z]*", _TEXT),
    "sed": ("sed", "-n", "s/[Tt]he/x/gp", _TEXT),
    "mawk": ("mawk", "{ n[$1]++ } END { for (w in n) print w, n[w] }", _TEXT),
    "bash": ("bash", "-c", "f() { x=$(echo $1); }; for n in 1 2 3; do f $n; done"),
    "dash": ("dash", "-c", "f() { x=$1; }; for n in 1 2 3; do f $n; echo $x; done"),
    "python3": ("/usr/bin/python3", "-Sc", "import json; print(json.dumps([1, {'a': 2}]))"),
    "perl": ("perl", "-e", "my %n; $n{$_}++ for map { length } qw(a bc d); print sort %n"),
    "sqlite3": (
        "sqlite3",
        ":memory:",
        "create table t(a); insert into t values(1); select * from t",
    ),
    "tar": ("tar", "-cf", "-", _TEXT),
    "diff": ("diff", _TEXT, "/usr/share/common-licenses/GPL-3"),
    "git": ("git", "hash-object", "-t", "blob", _TEXT),
    "openssl": ("openssl", "dgst", "-sha256", _TEXT),
    "as": ("as", "-o", "/dev/null", "/dev/null"),
    "objdump": ("objdump", "-p", "/usr/bin/sort"),
    "make": ("make", "-f", "/dev/null", "--eval", "all: ; @:"),
    "file": ("file", "/usr/bin/sort", _TEXT),
    "m4": ("m4", "-D", "x=y", "/etc/hostname"),
}


class Result(NamedTuple):
    """Of one program: how many stacks were compared, and what differs."""

    stacks: int
    frames: int
    differences: list[str]


def campaign(
    names: Sequence[str], places: int, seed: int, tell: Callable[[str], None]
) -> dict[str, Result]:
    """Compare so many stacks of each program."""
    found = {}
    for name in names:
        with tempfile.TemporaryDirectory(prefix="dprobed-stacks-") as folder:
            command = PROGRAMS[name]
            found[name] = of_program(Path(folder), command, places, random.Random(f"{seed} {name}"))
        stacks, frames, differences = found[name]
        tell(f"{name}: {stacks} stacks, {frames} frames, {len(differences)} differ")
        for each in differences:
            tell(each)
    return found


def of_program(folder: Path, command: Sequence[str], places: int, chance: random.Random) -> Result:
    """Compare stacks of one program at so many hits."""
    which = subprocess.run(["which", command[0]], capture_output=True, text=True, check=True)
    program = os.path.realpath(which.stdout.strip())
    whole = (program, *command[1:])
    drawn = _drawn(_hits(folder, whole, chance), places, chance)
    pairs: list[Pair] = []
    for number, (function, passed) in enumerate(drawn):
        # A run for each: while one core is written no other is.
        run = folder / str(number)
        run.mkdir()
        pairs += compared(run, _LIBC, [function], whole, passed)
    differences = [text for pair in pairs if (text := difference(pair))]
    return Result(len(pairs), sum(len(pair.gdb) for pair in pairs), differences)


def _hits(folder: Path, command: Sequence[str], chance: random.Random) -> dict[str, int]:
    """How often a program calls functions of libc."""
    real = os.path.realpath("/lib/x86_64-linux-gnu/libc.so.6")
    libc = Binary(descriptor_of(real), real)
    names = sorted({each.name for each in libc.symbols.code() if each.name.isidentifier()})
    tried = dict.fromkeys([*_USUAL, *chance.sample(names, min(_TRIED, len(names)))])
    source = folder / "counts.rpn"
    probes = "".join(
        f"offset = {name}\nminor = {number}\nabort\n" for number, name in enumerate(tried, 1)
    )
    source.write_text(f"name = {_LIBC}\n{probes}")
    report = folder / "report"
    done = dprobe(
        *("run", "--missing", "warn", "--json", "-o", report, source, "--", *command),
        cwd=folder,
        errors="replace",  # what the command writes may be anything
    )
    assert report.exists(), done.stderr
    summary = json.loads(report.read_text().splitlines()[-1])
    by_number = dict(enumerate(tried, 1))
    return {by_number[each["minor"]]: each["hits"] for each in summary["probes"] if each["hits"]}


def _drawn(hits: dict[str, int], places: int, chance: random.Random) -> list[tuple[str, int]]:
    """So many of the hits, each as a function and how many hits to pass over."""
    found = {(name, 0) for name in hits}
    for share in (2, 3, 5, 10):
        if len(found) < places:
            found |= {(name, count // share) for name, count in hits.items()}
    return chance.sample(sorted(found), min(places, len(found)))


def main(arguments: list[str]) -> int:
    """The command."""
    places = int(arguments[0]) if arguments else 50
    seed = random.randrange(1 << 30)
    found = campaign(
        arguments[1:] or list(PROGRAMS), places, seed, lambda text: print(text, flush=True)
    )
    bad = sum(len(each.differences) for each in found.values())
    stacks = sum(each.stacks for each in found.values())
    print(f"{len(found)} programs, {stacks} stacks, seed {seed}: {bad} differ")
    return bool(bad)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
