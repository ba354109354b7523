"""Which file a process executes, by name.

The kernel marks the name of a file that is not there any more: `` (deleted)``. Files may be called
that, too, and rights hang on the name: the mark is taken off only where it is one. Who asks may be
the daemon's loop: no file system is asked that need not answer.
"""

from __future__ import annotations

import os
from typing import Final

from dprobed.proc import files

_DELETED: Final = " (deleted)"


def link(pid: int) -> str:
    """The path of what a process executes, also of a file that was replaced; raises OSError.

    As ``/proc/PID/exe`` has it: from the root of the process's mount namespace.
    """
    # For every new process of the machine: a Path would take ten times as long as the kernel.
    name = os.readlink(f"/proc/{pid}/exe")  # noqa: PTH115
    if name.endswith(_DELETED) and _is_mark(pid, name):
        return name.removesuffix(_DELETED)
    return name


def path(pid: int) -> str:
    """The same; empty when it cannot be read."""
    try:
        return link(pid)
    except OSError:
        return ""


def _is_mark(pid: int, name: str) -> bool:
    """Whether what a name ends with is the kernel's mark.

    Where that cannot be told it is taken for the name: no pattern that gives rights is for that.
    """
    try:
        descriptor = os.open(f"/proc/{pid}/exe", os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        if not files.links(descriptor):
            return True
        # It has another name besides, or this one: here, or where the process has its files.
        wanted = files.facts(descriptor)
        root = os.open(f"/proc/{pid}/root", os.O_PATH | os.O_CLOEXEC)
        try:
            return not any(_is_at(name, wanted, each) for each in (None, root))
        finally:
            os.close(root)
    except OSError:
        return False
    finally:
        os.close(descriptor)


def _is_at(name: str, wanted: files.FileIdentity, root: int | None) -> bool:
    found = files.told_at_once(name, root)
    return found is not None and found[:2] == wanted[:2]
