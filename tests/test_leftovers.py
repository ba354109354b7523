"""The check that every test is under finds what one leaves."""

from __future__ import annotations

import os
import subprocess

import pytest

from tests.leftovers import leaving_nothing


def test_a_child_that_has_ended_is_found() -> None:
    with subprocess.Popen(["true"]) as process:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        with leaving_nothing():  # it was there before
            pass
    with pytest.raises(AssertionError, match="children were left"), leaving_nothing():
        child = subprocess.Popen(["true"])
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    child.wait()


def test_a_descriptor_is_found() -> None:
    opened = -1
    with (
        pytest.raises(AssertionError, match=r"descriptors were left.*/dev/null"),
        leaving_nothing(),
    ):
        opened = os.open("/dev/null", os.O_RDONLY)
    os.close(opened)
