"""What a test leaves in the process of the tests: children, ended or not, and descriptors."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
from collections.abc import Iterator
from pathlib import Path

from dprobed.compiler import COMPILER
from dprobed.daemon.resolver_process import Resolvers
from dprobed.proc import mounts
from dprobed.proc.helper import HELPER
from tests.unit import location_files


def _children() -> set[int]:
    """Children of this process, those that have ended and were not waited for, too."""
    found: set[int] = set()
    for task in os.scandir("/proc/self/task"):
        # A thread may end meanwhile.
        with (
            contextlib.suppress(FileNotFoundError, ProcessLookupError),
            open(f"{task.path}/children") as children,
        ):
            found |= {int(child) for child in children.read().split()}
    return found


def _descriptors() -> set[str]:
    """Numbers of open descriptors."""
    own = os.dup(0)  # the lowest that is free: the list's own will be that
    os.close(own)
    return {each.name for each in os.scandir("/proc/self/fd")} - {str(own)}


def _named(descriptors: set[str]) -> list[str]:
    """What descriptors are of, as a message says it."""
    found = []
    for number in sorted(descriptors):
        with contextlib.suppress(FileNotFoundError):
            found.append(f"{number}: {Path('/proc/self/fd', number).readlink()}")
    return found


@contextlib.contextmanager
def leaving_nothing() -> Iterator[None]:
    """Raise AssertionError for a child or a descriptor that is left in the end.

    What dprobed keeps in any process as long as that lives is made before (the table of mounts), or
    taken down after (the helpers, files that were read). What is there before, as from fixtures for
    several tests, may stay.
    """
    mounts.is_local(0)
    children, descriptors = _children(), _descriptors()
    yield
    HELPER.close()
    COMPILER.close()
    location_files.forget()
    left = _descriptors() - descriptors
    if left:
        gc.collect()  # what an exception's traceback still held
        left = _descriptors() - descriptors
    forgotten = _children() - children
    assert not forgotten, f"children were left: {sorted(forgotten)}"
    assert not left, f"descriptors were left: {_named(left)}"


async def ended(resolvers: Resolvers) -> None:
    """Wait for the processes of resolvers that were stopped."""
    async with asyncio.timeout(20):
        while resolvers.processes:
            await asyncio.sleep(0.001)
