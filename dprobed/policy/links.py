"""Where the names of executables lead: over symbolic links, and on PATH.

A process runs the file at the end of all links (``python3.11``, ``redis-check-rdb``), and that is
the path which the kernel shows for it; people write the name by which they start it. Links are
followed as they are when a pattern is read; one in a file system that does not answer is as good as
none. Whoever asks the daemon may name any: one such at a time is all that is waited for.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from dprobed.policy import trust
from dprobed.proc import files, helper

#: What all of these are to the helper.
_NAMED: Final = "names of executables"

#: Where commands are, besides on our own PATH (which may be any user's).
_COMMANDS: Final = (
    "/usr/local/sbin",
    "/usr/local/bin",
    "/usr/sbin",
    "/usr/bin",
    "/sbin",
    "/bin",
)


def real(name: str, uid: int | None = None) -> str:
    """The file (or folder) that a path or, without a slash in it, a command's name leads to.

    Empty: there is none. ``uid``: only over links that nobody but root and this user can change.
    """
    if "\0" in name:
        return ""
    path = name if name.startswith("/") else on_path(name)
    try:
        descriptor = files.locate(path, _NAMED) if path else -1
    except OSError:
        return ""
    if descriptor < 0:
        return ""
    try:
        if uid is not None and trust.distrusted_way(Path(path), uid):
            return ""
        return os.readlink(f"/proc/self/fd/{descriptor}")  # noqa: PTH115
    except OSError:
        return ""
    finally:
        os.close(descriptor)


def on_path(name: str) -> str:
    """The path of a command; empty: there is none of that name."""
    folders = [*os.environ.get("PATH", "").split(":"), *_COMMANDS]
    for folder in dict.fromkeys(folders):
        path = f"{folder}/{name}"
        if folder.startswith("/") and _is_command(path):
            return path
    return ""


def _is_command(path: str) -> bool:
    try:
        descriptor = files.locate(path, _NAMED)
    except OSError:
        return False
    try:
        (found,) = files.asked(descriptor, _executable)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return bool(found)


@helper.job
def _executable(
    _values: Sequence[helper.Value], descriptors: Sequence[int]
) -> tuple[list[helper.Value], int]:
    is_folder = stat.S_ISDIR(os.fstat(descriptors[0]).st_mode)
    return [not is_folder and os.access(f"/proc/self/fd/{descriptors[0]}", os.X_OK)], -1
