"""Where the names of executables lead: over symbolic links, and on PATH.

A process runs the file at the end of all links (``python3.11``, ``redis-check-rdb``), and that is
the path which the kernel shows for it; people write the name by which they start it. Links are
followed as they are when a pattern is read. Where a file system does not answer nobody knows them.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Final

from dprobed.policy import trust
from dprobed.proc import files, helper

#: Where commands are, besides on our own PATH (which may be any user's).
_COMMANDS: Final = (
    "/usr/local/sbin",
    "/usr/local/bin",
    "/usr/sbin",
    "/usr/bin",
    "/sbin",
    "/bin",
)


def real(name: str, uid: int | None = None, about: Hashable = None) -> str:
    """The file (or folder) that a path or, without a slash in it, a command's name leads to.

    Empty: there is none. ``uid``: only over links that nobody but root and this user can change;
    ``about``: what it is to the helper (``files.locate``). Raises SilentError.
    """
    if "\0" in name:
        return ""
    path = name if name.startswith("/") else on_path(name, about)
    try:
        descriptor = files.locate(path, about) if path else -1
    except helper.SilentError:
        raise
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


def on_path(name: str, about: Hashable = None) -> str:
    """The path of a command; empty: there is none of that name. Raises SilentError."""
    folders = [*os.environ.get("PATH", "").split(":"), *_COMMANDS]
    for folder in dict.fromkeys(folders):
        path = f"{folder}/{name}"
        if folder.startswith("/") and _is_command(path, about):
            return path
    return ""


def _is_command(path: str, about: Hashable) -> bool:
    try:
        descriptor = files.locate(path, about)
        try:
            (found,) = files.asked(descriptor, _executable)
        finally:
            os.close(descriptor)
    except helper.SilentError:
        raise
    except OSError:
        return False
    return bool(found)


@helper.job
def _executable(
    _values: Sequence[helper.Value], descriptors: Sequence[int]
) -> tuple[list[helper.Value], int]:
    is_folder = stat.S_ISDIR(os.fstat(descriptors[0]).st_mode)
    return [not is_folder and os.access(f"/proc/self/fd/{descriptors[0]}", os.X_OK)], -1
