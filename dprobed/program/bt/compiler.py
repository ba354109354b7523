"""From a script's text to its bundle: the passes, one after the other."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from dprobed.program.bt.bundle import Bundle
from dprobed.program.bt.world import NoWorld, World


class Options(msgspec.Struct, frozen=True):
    """What the caller says about a script.

    ``arguments``: positional parameters ($1…), and named ones (``--NAME=VALUE``, ``--NAME``) among
    them; ``started``: monotonic nanoseconds, from which ``elapsed`` counts; ``child``: the pid of
    ``-c`` (``cpid``); ``unsafe``: it may run commands.
    """

    arguments: Sequence[str] = ()
    started: int = 0
    child: int = 0
    unsafe: bool = False


def compile_script(
    text: str, file: str, options: Options | None = None, world: World | None = None
) -> Bundle:
    """The bundle of a script; raises ProgramError with everything that is wrong with it."""
    options = options or Options()
    world = world or NoWorld()
    raise NotImplementedError
