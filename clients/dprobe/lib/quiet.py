"""How much the user wants to be told (``dprobe -q``, ``-v``): for the whole command."""

from __future__ import annotations

from collections.abc import Callable

#: Set once, by the command line.
quiet: bool = False


def _nothing(text: str) -> None:
    pass


#: Tells what is being done, for who asked by ``-v``.
detail: Callable[[str], None] = _nothing
