"""Memory that is shared with a target, which may be hostile."""

from __future__ import annotations

import fcntl
import os

import pytest

from dprobed.engine.errors import SpaceError
from dprobed.engine.inline import shared


def test_nobody_can_cut_it_any_more() -> None:
    """Who reads a page behind the end of a file dies of SIGBUS, and that would be the tracer."""
    descriptor = os.memfd_create("x", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        view = shared._mapped(os.getpid(), descriptor, 8192)
        assert len(view) == 8192
        for size in (0, 1 << 20):
            with pytest.raises(PermissionError):
                os.ftruncate(descriptor, size)
        with pytest.raises(PermissionError):
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)
    finally:
        os.close(descriptor)


def test_another_file_in_its_place_is_refused() -> None:
    reading, writing = os.pipe()
    try:
        with pytest.raises(SpaceError, match="the target's memfd cannot be used"):
            shared._mapped(os.getpid(), writing, 4096)
    finally:
        os.close(reading)
        os.close(writing)
