"""Files that are written from the instruction table: written anew, or checked to be up to date."""

from __future__ import annotations

import sys
from pathlib import Path


def write_or_check(module: str, path: Path, text: str, arguments: list[str]) -> int:
    """Write ``text`` to a file; with ``--check`` only say whether it is there. An exit status.

    ``module``: by which the file is written, for messages.
    """
    if arguments not in ([], ["--check"]):
        print(f"usage: python -m {module} [--check]", file=sys.stderr)
        return 2
    if not arguments:
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        return 0
    if path.exists() and path.read_text() == text:
        return 0
    print(f"{path} is out of date: run `python -m {module}`", file=sys.stderr)
    return 1
