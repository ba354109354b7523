"""`--engine kernel` on a machine without the kernel's module: the daemon itself finds the places in
the real files, before anybody asks for the module."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.integration.client_support import Daemon, dprobe, program

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="only root's daemon has to do with the kernel"),
    pytest.mark.skipif(Path("/dev/dprobes").exists(), reason="the module is loaded"),
]


@pytest.mark.parametrize(
    ("place", "options", "said"),
    [
        ("connect", (), "programs for the kernel need the module dprobes, which is not loaded"),
        ("no_such_function", (), "libc.so.6: no symbol no_such_function"),
        # That the client lets it through does not help.
        ("no_such_function", ("--missing", "warn"), "libc.so.6: no symbol no_such_function"),
        ("memcpy", ("--missing", "warn"), "memcpy+0x0 is an IFUNC"),
        ("connect+1", ("--missing", "warn"), "p.rpn:2:10:"),
    ],
)
def test_where_it_would_go(
    tmp_path: Path, daemon: Daemon, place: str, options: tuple[str, ...], said: str
) -> None:
    path = program(tmp_path, f"name = libc.so.6\noffset = {place}\nexit\n", "p")
    done = dprobe(
        *("--socket", daemon.socket, "insert", path, "--engine", "kernel", "--all", *options)
    )
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr
