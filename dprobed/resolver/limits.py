"""Limits of a resolver: enough for the largest files, an end for hostile ones."""

from __future__ import annotations

from typing import Final

#: Seconds for one question.
DEADLINE: Final = 5.0
#: Seconds of CPU for one question (RLIMIT_CPU, which counts whole ones).
CPU_SECONDS: Final = 4
#: Bytes of address space besides what it begins with (RLIMIT_AS). A symbol table of a million
#: symbols takes 0.6 GB while it is sorted.
ADDRESS_SPACE: Final = 2 << 30
#: Files that are kept open, and bytes that are kept of them: the oldest are forgotten first.
MOST_FILES: Final = 64
MOST_KEPT: Final = 64 << 20
#: Seconds until a resolver ends when nobody is connected.
LINGER: Final = 10.0
