"""Ctrl-C while the daemon does what it does wholly or not at all: it ends us once that is done.

A second one ends us at once.
"""

from __future__ import annotations

import signal
from typing import Final, Self

from dprobe.view.output import complain


class Waiting:
    """Holds Ctrl-C up; ``is_over``: it came. ``why``: what is said of it then."""

    def __init__(self, why: str) -> None:
        self.is_over = False
        self._why: Final = why
        self._before = signal.getsignal(signal.SIGINT)

    def __enter__(self) -> Self:
        if self._before != signal.SIG_IGN:
            signal.signal(signal.SIGINT, self._interrupted)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        signal.signal(signal.SIGINT, self._before)
        if self.is_over and kind is None:
            raise KeyboardInterrupt

    def _interrupted(self, *_: object) -> None:
        if self.is_over:
            raise KeyboardInterrupt
        self.is_over = True
        complain(self._why)
