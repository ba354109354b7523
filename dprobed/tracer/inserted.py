"""A program that is in a target."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from dprobed.engine.budget import Account
from dprobed.engine.probe import Probe
from dprobed.program.exec.interface import Executor
from dprobed.program.exec.variables import ListVariables
from dprobed.program.model import Program
from dprobed.wire.limits import Limits


class RequestError(Exception):
    """A request that is refused; one line."""


class Inserted(msgspec.Struct):
    """A program that is in."""

    number: int
    program: Program
    executor: Executor[ListVariables]
    check_opcode: bool
    label: str = ""
    budget: Limits | None = None
    #: Children get it, too.
    follow_forks: bool = False
    #: What hits of this program are charged to, besides that of all.
    account: Account | None = None
    probes: list[Probe] = msgspec.field(default_factory=list)


class Variables(NamedTuple):
    """``locals`` by the number of the program."""

    globals: list[int]
    locals: dict[int, list[int]]
