"""The functions that native programs call: what is not worth writing out where it is used.

Each is made when the first program's code asks for it, in the same module: a blob has those that it
uses, and no others.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from dprobed.program.exec import ir
from dprobed.program.exec.native.code import CodeWriter, Value
from dprobed.program.exec.native.maps import layouts
from dprobed.program.exec.native.scratch import Scratch


class Library:
    """The functions of one module. ``function``: the one whose blob it becomes."""

    def __init__(self, module: Value, function: ir.Function) -> None:
        self.module: Final = module
        self.function: Final = function
        self.scratch: Final = Scratch(function)
        self.maps: Final = layouts(function.header.map)
        self._made: dict[str, Value] = {}

    def __call__(self, name: str) -> Value:
        """The function of this name."""
        if name not in self._made:
            self._made[name] = MAKERS[name](self)
        return self._made[name]


#: Begins a function with arguments of these types, and ``result``.
Begin = Callable[..., CodeWriter]
Write = Callable[[Library, Begin], CodeWriter]
Maker = Callable[[Library], Value]
#: How each function is made, by its name.
MAKERS: Final[dict[str, Maker]] = {}


def makes(name: str) -> Callable[[Write], Maker]:
    """Register a function that writes one: given the library and what begins it."""

    def register(write: Write) -> Maker:
        def make(library: Library) -> Value:
            def begin(*arguments: Value, result: Value | None = None) -> CodeWriter:
                more = {} if result is None else {"result": result}
                return CodeWriter(library.module, name, arguments, **more)

            code = write(library, begin)
            code.close()
            return code.function

        assert name not in MAKERS, name
        MAKERS[name] = make
        return make

    return register
