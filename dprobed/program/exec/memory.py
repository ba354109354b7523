"""Addresses of the target as programs give them: any word, not all fit to ask a ``Context``."""

from __future__ import annotations

from typing import Final

from dprobed.program.exec.interface import Context

#: Addresses from here on are never a user's (the highest bit of 57-bit addresses is the kernel's).
ADDRESS_END: Final = 1 << 56


def read_some(context: Context, address: int, length: int) -> bytes:
    """As many of ``length`` bytes from any ``address`` on as can be read."""
    length = min(length, ADDRESS_END - address)
    return context.read_partial(address, length) if length > 0 else b""


def readable(context: Context, address: int) -> bool:
    """Whether the byte at any ``address`` can be read."""
    return len(read_some(context, address, 1)) == 1
