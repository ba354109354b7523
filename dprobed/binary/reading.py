"""One regular file that is read piece by piece, whatever happens to it meanwhile."""

from __future__ import annotations

import os
import stat

from dprobed.binary.errors import LocationError
from dprobed.binary.opening import identity_of


class ReadableFile:
    """An opened file: the descriptor is its own from here on, and is closed with it.

    ``path`` is what to call it in messages. Raises LocationError if it is not a regular file.
    """

    def __init__(self, fd: int, path: str) -> None:
        self._fd = fd
        self.path = path
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise LocationError(f"{path}: not a regular file")
        self.size = status.st_size
        self.identity = identity_of(status)

    def __del__(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def descriptor(self) -> int:
        """A further descriptor of the file, to read it by other means; raises OSError."""
        return os.open(f"/proc/self/fd/{self._fd}", os.O_RDONLY | os.O_CLOEXEC)

    def damaged(self, what: str) -> LocationError:
        """The error that says that this file is not sound."""
        return LocationError(
            f"{self.path}: damaged ELF file: {what}", "install the package that owns it again"
        )

    def read(self, offset: int, size: int) -> bytes:
        """Exactly ``size`` bytes of the file; raises LocationError where it has fewer."""
        if offset < 0 or size < 0 or offset + size > self.size:
            raise self.damaged(f"{size:#x} bytes at {offset:#x} reach past its end")
        parts = []
        while size:
            try:
                part = os.pread(self._fd, size, offset)
            except OSError as error:
                raise LocationError(f"{self.path}: cannot read: {error.strerror}") from error
            if not part:
                raise self.damaged("it became shorter while it was read")
            parts.append(part)
            offset += len(part)
            size -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)
