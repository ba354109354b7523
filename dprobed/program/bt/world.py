"""What a script needs of the outside: names and types of modules, and other files.

The compiler never touches a process or a file: it asks a ``World``, which the caller gives.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec

from dprobed.program.types import Type
from dprobed.program.variables import VariableLocation


class Typed(msgspec.Struct, frozen=True):
    """A type, by its index in a table."""

    table: tuple[Type, ...]
    index: int


class Parameter(msgspec.Struct, frozen=True):
    """A parameter of a function, and its type. ``language``: where it is not passed as C's are."""

    name: str
    type: Typed
    language: str = ""


class ProgramVariable(msgspec.Struct, frozen=True):
    """A variable of the program, as it is seen at a place: its type, and where it is there."""

    type: Typed
    location: VariableLocation


class UnreadableFile(Exception):
    """A file that is there cannot be read; the text says why."""


class SystemCallPlaces(msgspec.Struct, frozen=True):
    """Where a system call may be made: its ``number``, and of each module the addresses (as the
    file has them) of instructions that make it, or may do so."""

    number: int
    places: tuple[tuple[str, tuple[int, ...]], ...]


class World(Protocol):
    """Answers of whoever knows modules and files. What is not known is None, or empty."""

    def module(self, function: str) -> str | None:
        """The module of a place that was written without one: ``malloc``, ``server.c:120``,
        ``usdt:PROVIDER:NAME``, a variable; ``main``: of the program itself; None: not known."""
        ...

    def library(self, name: str) -> str | None:
        """The file of a library that a script calls by a short name (``libc``), or of a program
        that is looked for in $PATH; None: not known."""
        ...

    def modules(self, pattern: str) -> Sequence[str]:
        """Modules whose paths or names are like a pattern (``*``, ``?``, ``[…]``)."""
        ...

    def functions(self, module: str, pattern: str, demangled: bool) -> Sequence[str]:
        """Symbols of functions that are like a pattern. ``demangled``: the pattern is of demangled
        names (C++), possibly without their parameters; the symbols are as they are in the file."""
        ...

    def static_probes(self, module: str, pattern: str) -> Sequence[str]:
        """``PROVIDER:NAME`` of the static probes that are like a pattern of that form."""
        ...

    def system_call(self, name: str) -> SystemCallPlaces | None:
        """Where the system call of this name is made; None: there is none."""
        ...

    def parameters(self, module: str, function: str) -> Sequence[Parameter] | None:
        """Of a function, from debug information."""
        ...

    def result(self, module: str, function: str) -> Typed | None:
        """The type that a function returns, from debug information."""
        ...

    def named_type(self, module: str, name: str) -> Typed | None:
        """A type by its name (``struct request``, ``size_t``), from debug information."""
        ...

    def variable(self, module: str, place: str, name: str) -> ProgramVariable | None:
        """A local, static or global variable or a parameter that is seen at a place, as the
        program's definition writes it (``handle``, ``server.c:120``), from debug information."""
        ...

    def anchor(self, module: str) -> tuple[str, int] | None:
        """Any symbol of a module, and its address in the file: others are found from there."""
        ...

    def text(self, name: str, beside: str) -> tuple[str, str] | None:
        """The text of a file that a script includes or imports, and its full name; None: there is
        none. ``beside``: the file that says so. Raises UnreadableFile."""
        ...


class NoWorld:
    """A world in which nothing is known but what the script says."""

    def module(self, function: str) -> str | None:
        """Not known."""
        return None

    def library(self, name: str) -> str | None:
        """Not known."""
        return None

    def modules(self, pattern: str) -> Sequence[str]:
        """None."""
        return ()

    def functions(self, module: str, pattern: str, demangled: bool) -> Sequence[str]:
        """None."""
        return ()

    def static_probes(self, module: str, pattern: str) -> Sequence[str]:
        """None."""
        return ()

    def system_call(self, name: str) -> SystemCallPlaces | None:
        """None."""
        return None

    def parameters(self, module: str, function: str) -> Sequence[Parameter] | None:
        """Not known."""
        return None

    def result(self, module: str, function: str) -> Typed | None:
        """Not known."""
        return None

    def named_type(self, module: str, name: str) -> Typed | None:
        """Not known."""
        return None

    def variable(self, module: str, place: str, name: str) -> ProgramVariable | None:
        """Not known."""
        return None

    def anchor(self, module: str) -> tuple[str, int] | None:
        """Not known."""
        return None

    def text(self, name: str, beside: str) -> tuple[str, str] | None:
        """No file."""
        return None
