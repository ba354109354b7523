"""What the caller says about a script."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec


class Options(msgspec.Struct, frozen=True):
    """What the caller says about a script.

    ``arguments``: positional parameters ($1…), and named ones (``--NAME=VALUE``, ``--NAME``) among
    them; ``started``: monotonic nanoseconds, from which ``elapsed`` counts; ``child``: the pid of
    ``-c`` (``cpid``), 0: none; ``cpus``: how many there are (``ncpus``); ``unsafe``: it may run
    commands; ``config``: settings of the environment (``BPFTRACE_MAX_STRLEN``…), by their names in
    small letters without ``bpftrace_``: they go before those of the script. ``includes``: files
    that are included before all else; ``folders``: where included files are looked for besides.
    ``redacted``: patterns of names whose values ``log`` does not show.
    """

    arguments: Sequence[str] = ()
    started: int = 0
    child: int = 0
    cpus: int = 1
    unsafe: bool = False
    config: dict[str, str] = {}
    includes: Sequence[str] = ()
    folders: Sequence[str] = ()
    redacted: Sequence[str] = ()

    @property
    def positional(self) -> list[str]:
        """$1 and the others."""
        return [each for each in self.arguments if not each.startswith("--")]

    @property
    def named(self) -> dict[str, str | None]:
        """Named parameters; None: without a value."""
        found: dict[str, str | None] = {}
        for each in self.arguments:
            if each.startswith("--"):
                name, equals, value = each[2:].partition("=")
                found[name] = value if equals else None
        return found
