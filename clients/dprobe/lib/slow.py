"""What a command waits for, said only where it takes long."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

#: Seconds after which people wonder.
SECONDS: Final = 1.0


@contextmanager
def said_if_slow(text: str, say: Callable[[str], None], seconds: float = SECONDS) -> Iterator[None]:
    """Say what is being done within this context, once it has taken so long."""
    timer = threading.Timer(seconds, say, [text])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
