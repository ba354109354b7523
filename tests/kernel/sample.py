"""The module ``sample/dpsample.c`` in a virtual machine: loaded, called, removed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from tests.kernel.device import (
    CLOSE,
    O_RDWR,
    check,
    insert_module,
    path,
    remove_module,
    text_of,
)
from tests.kernel.machine import AREA, Machine, called, result_of, written

NAME: Final = "dpsample"
STEP: Final = "/sys/module/dpsample/parameters/step"
PWRITE = 18


def load(machine: Machine, options: str = "") -> None:
    """Load it: its init calls ``dpsample_begin``, and that ``dpsample_step`` with 1."""
    insert_module(machine, options, NAME)


def unload(machine: Machine) -> None:
    """Remove it: its exit calls ``dpsample_step`` with -1."""
    check(remove_module(machine, NAME))


@contextmanager
def loaded(machine: Machine) -> Iterator[None]:
    """It is there."""
    load(machine)
    try:
        yield
    finally:
        unload(machine)


@contextmanager
def opened(machine: Machine) -> Iterator[int]:
    """The file whose writing calls ``dpsample_step``; at ``AREA + 4096`` is what to write."""
    fd = check(path(machine, STEP, O_RDWR))
    machine.write(AREA + 4096, b"1")
    try:
        yield fd
    finally:
        check(machine.call(CLOSE, fd))


def step(machine: Machine, by: int = 1, count: int = 1) -> None:
    """Have it call ``dpsample_step`` so often."""
    data = str(by).encode()
    with opened(machine) as fd:
        writing = called(PWRITE, fd, AREA, len(data), 0, count=count)
        check(result_of(machine.exchange(written(AREA, data), writing)))


def total(machine: Machine) -> int:
    """Read ``dpsample_total``."""
    return int(text_of(machine, STEP))
