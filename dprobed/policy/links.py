"""Where the names of executables lead: over symbolic links, and on PATH.

A process runs the file at the end of all links (``python3.11``, ``redis-check-rdb``), and that is
the path which the kernel shows for it; people write the name by which they start it. Links are
followed as they are when a pattern is read.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from dprobed.policy import trust

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
        if not path or (uid is not None and trust.distrusted_way(Path(path), uid)):
            return ""
        return os.path.realpath(path, strict=True)
    except OSError:
        return ""


def on_path(name: str) -> str:
    """The path of a command; empty: there is none of that name."""
    folders = [*os.environ.get("PATH", "").split(":"), *_COMMANDS]
    for folder in dict.fromkeys(folders):
        path = f"{folder}/{name}"
        if folder.startswith("/") and os.access(path, os.X_OK) and not Path(path).is_dir():
            return path
    return ""
