"""What a test leaves in the process of the tests: children, ended or not, and descriptors."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator
from pathlib import Path

from dprobed.proc import mounts
from dprobed.proc.helper import HELPER
from tests.unit import location_files


def _children() -> set[int]:
    """Children of this process, those that have ended and were not waited for, too."""
    found: set[int] = set()
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(FileNotFoundError):  # a thread that just ended
            found |= {int(child) for child in (task / "children").read_text().split()}
    return found


def _descriptors() -> set[tuple[str, str]]:
    """Open descriptors, by number and by what they are of."""
    found = set()
    for each in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # that of the list itself
            found.add((each.name, str(each.readlink())))
    return found


@contextlib.contextmanager
def leaving_nothing() -> Iterator[None]:
    """Raise AssertionError for a child or a descriptor that is left in the end.

    What dprobed keeps in any process as long as that lives is made before (the table of mounts), or
    taken down after (the helper, files that were read). What is there before, as from fixtures for
    several tests, may stay.
    """
    mounts.is_local(0)
    children, descriptors = _children(), _descriptors()
    yield
    HELPER.close()
    location_files.forget()
    left = _descriptors() - descriptors
    if left:
        gc.collect()  # what an exception's traceback still held
        left = _descriptors() - descriptors
    forgotten = _children() - children
    assert not forgotten, f"children were left: {sorted(forgotten)}"
    assert not left, f"descriptors were left: {sorted(left)}"
