"""Hooks and exits: of other modules, and of probe programs."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import pytest

from tests.kernel.device import (
    check,
    insert_module,
    remove_module,
    text_of,
    write_text,
)
from tests.kernel.machine import Machine

HOOKS: Final = "/proc/dprobes/hooks"
RUN: Final = "/sys/module/dpexits/parameters/run"
ORDER: Final = "/sys/module/dpexits/parameters/order"
POST: Final = "/sys/module/dprobes_ledger/parameters/post"
FIRST, LIFO, LAST, PROC = 1, 2, 4, 8
RETURN, CONTINUE, TERMINATE = -1, 0, 1


def hook(machine: Machine, name: str) -> tuple[str, list[str]]:
    """What /proc says of a hook, and of its exits."""
    lines = text_of(machine, HOOKS).splitlines()
    at = next(n for n, line in enumerate(lines) if line.split()[1] == name)
    exits = []
    for line in lines[at + 1 :]:
        if not line.startswith("  "):
            break
        exits.append(line.strip())
    return lines[at], exits


@contextmanager
def ledger(machine: Machine) -> Iterator[None]:
    """The two samples are there."""
    insert_module(machine, name="dprobes_ledger")
    insert_module(machine, name="dprobes_audit")
    try:
        yield
    finally:
        check(remove_module(machine, "dprobes_audit"))
        check(remove_module(machine, "dprobes_ledger"))


def test_an_exit_of_another_module(machine: Machine) -> None:
    with ledger(machine):
        write_text(machine, POST, "1 2 50")
        assert hook(machine, "ledger_posted")[0].split()[1:] == [
            "ledger_posted",
            "hits=0",
            "missed=0",
        ]
        # Its module stays while the exit of the other is there.
        assert remove_module(machine, "dprobes_ledger") == -errno.EAGAIN
        write_text(machine, HOOKS, "1 ledger_post/limit ledger_posted/volume\n")
        write_text(machine, POST, "1 2 50")
        with pytest.raises(OSError, match="EPERM"):
            write_text(machine, POST, "1 2 6000")
        write_text(machine, POST, "2 1 7")
        head, exits = hook(machine, "ledger_posted")
        assert " hits=2 missed=0" in head
        assert exits == ["1 volume armed=1 hits=2 proc"]
        assert text_of(machine, "/sys/module/dprobes_audit/parameters/volume") == "57\n"
        assert hook(machine, "ledger_post")[1] == ["1 limit armed=1 hits=3 first proc"]
        write_text(machine, HOOKS, "0 ledger_post/limit")
        write_text(machine, POST, "1 2 6000")
        assert hook(machine, "ledger_post")[1] == ["1 limit armed=0 hits=3 first proc"]
    assert text_of(machine, HOOKS) == ""
