"""The wall clock may jump: nothing decides by it. It only dates what people and tools read."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parent.parent / "dprobed"

#: Who may read it, and why.
READS: Final = {
    "corefile/ledger.py": "keeps it beside the time since boot, which it goes by within one boot",
    "corefile/store.py": "the name of a core",
    "daemon/history.py": "until when a program is in, in the journal's entry",
    "trace/ctf.py": "the offset of a trace's clock, which readers add",
    "tracer/dump/dumper.py": "the journal's entry of a core",
    "tracer/dump/snapshot.py": "the time in the file beside a core",
}
_CALLS: Final = {"time", "time_ns", "localtime", "gmtime", "now", "today", "utcnow"}
_MODULES: Final = {"time", "datetime", "date"}


def wall_clocks(tree: ast.AST) -> Iterator[int]:
    """Lines that read it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            of = node.value.id if isinstance(node.value, ast.Name) else ""
            if (of in _MODULES and node.attr in _CALLS) or node.attr == "CLOCK_REALTIME":
                yield node.lineno


def test_it_decides_nothing() -> None:
    found = {
        str(path.relative_to(ROOT))
        for path in ROOT.rglob("*.py")
        if any(wall_clocks(ast.parse(path.read_text())))
    }
    assert found == set(READS)


def test_what_reads_it_is_seen() -> None:
    text = "import time\nx = time.time()\ny = time.monotonic()\nz = time.CLOCK_REALTIME\n"
    assert sorted(wall_clocks(ast.parse(text))) == [2, 4]
