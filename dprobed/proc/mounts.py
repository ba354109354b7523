"""Which file systems answer by themselves: those on this machine's own disks, and in its memory.

Of any other one (FUSE, NFS, CIFS, 9p, an overlay of them) nobody knows whether it answers at all:
who opens a file there, or reads a page of it that is not in memory, may sleep without limit.
"""

from __future__ import annotations

import os
import select
from typing import Final

_LOCAL: Final = frozenset(
    b"bcachefs btrfs devtmpfs erofs exfat ext2 ext3 ext4 f2fs hugetlbfs iso9660 jfs msdos ntfs3"
    b" ramfs reiserfs rootfs squashfs sysfs tmpfs udf vfat xfs zfs".split()
)


class _Mounts:
    """The devices of mounted local file systems, read again when something was mounted."""

    def __init__(self) -> None:
        #: Of this process: the kernel tells of a change once for each open file.
        self.pid: Final = os.getpid()
        self._devices: frozenset[int] = frozenset()
        self._memory: Final = _memory_device()
        self._poll: Final = select.poll()
        try:
            self._fd = os.open("/proc/self/mountinfo", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:  # then no file system is known
            self._fd = -1
            return
        self._poll.register(self._fd, select.POLLPRI)
        self._read()

    def has(self, device: int) -> bool:
        """Whether a device is a local file system."""
        if self._fd >= 0 and self._poll.poll(0):
            self._read()
        return device in self._devices

    def _read(self) -> None:
        parts = []
        os.lseek(self._fd, 0, os.SEEK_SET)
        while part := os.read(self._fd, 1 << 16):
            parts.append(part)
        found = {self._memory}
        for line in b"".join(parts).splitlines():
            fields = line.split()
            if fields[fields.index(b"-") + 1] in _LOCAL:
                found.add(device_of(fields[2], 10))
        self._devices = frozenset(found)


def _memory_device() -> int:
    """The kernel's own mount of tmpfs: memfd, System V's and other shared memory."""
    try:
        descriptor = os.memfd_create("dprobed", os.MFD_CLOEXEC)
    except OSError:
        return -1
    try:
        return os.fstat(descriptor).st_dev
    finally:
        os.close(descriptor)


def device_of(text: bytes, base: int = 16) -> int:
    """A device's number from ``major:minor``, hexadecimal as in ``/proc/PID/maps``."""
    major, minor = text.split(b":")
    return os.makedev(int(major, base), int(minor, base))


_mounts: _Mounts | None = None


def watch() -> None:
    """Begin to watch what is mounted: whoever goes on for long has what it needs from its start."""
    is_local(0)


def is_local(device: int) -> bool:
    """Whether a device's file system is one that answers by itself."""
    global _mounts
    if _mounts is None or _mounts.pid != os.getpid():
        _mounts = _Mounts()
    return _mounts.has(device)
