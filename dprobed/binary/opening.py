"""Opens files and identifies them; reads nothing of them."""

from __future__ import annotations

import os

from dprobed.binary.errors import LocationError


def identity_of(status: os.stat_result) -> tuple[int, int, int, int, int]:
    """Identifies an unchanged file: device, inode, size and times."""
    return (
        status.st_dev,
        status.st_ino,
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
    )


def descriptor_of(path: str) -> int:
    """Open a file for reading; raises LocationError."""
    try:
        # O_NONBLOCK: a FIFO must not hold us.
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except (OSError, ValueError) as error:
        raise not_opened(path, error) from error


def not_opened(path: str, error: OSError | ValueError) -> LocationError:
    """The error for a file that cannot be opened."""
    reason = error.strerror if isinstance(error, OSError) else str(error)
    return LocationError(f"{path}: {reason}", "name a file that exists and can be read")
