"""What scripts ask of the outside: the modules that are there, their functions, and other files."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Final

from dprobe.lib import reading
from dprobe.lib.debug_types import DebugTypes
from dprobe.lib.errors import UserError, os_error_text
from dprobe.lib.loader import find_module, module_folders
from dprobe.lib.mapped import File, open_file
from dprobed.binary.demangle import demangled as plain
from dprobed.binary.errors import LocationError
from dprobed.binary.file import Binary
from dprobed.binary.places import resolve
from dprobed.proc import kernel_symbols
from dprobed.program.bt.kernel_places import KERNEL
from dprobed.program.bt.world import (
    NoWorld,
    Parameter,
    ProgramVariable,
    SystemCallPlaces,
    Typed,
    UnreadableFile,
)
from dprobed.program.rpn.preprocessor import SourceError
from dprobed.program.types import Types
from dprobed.program.variables import SourceFunction

if TYPE_CHECKING:
    from dprobed.binary.system_calls import SystemCalls

_WILD: Final = frozenset("*?[")
_LIBC: Final = "libc.so.6"
#: Bytes of a script, and of each file that it includes, at most.
MOST_TEXT: Final = 1 << 20


class FileWorld(NoWorld):
    """The world of who has the files: those that the targets map or will map (``files``, the
    executable first; looked for when they are needed), else those of this machine."""

    def __init__(self, files: Callable[[], Sequence[File]]) -> None:
        self._files_of: Final = files
        self._opened: dict[str, Binary | None] = {}
        self._debug: Final = DebugTypes()
        self._calls: dict[str, SystemCalls | None] = {}

    @cached_property
    def _files(self) -> Sequence[File]:
        return self._files_of()

    def module(self, function: str) -> str | None:
        """The first module of the targets that has a place of this name."""
        for file in sorted(self._files, key=lambda each: _is_loader(each.module.path)):
            if file.elf is not None and _has(file.elf, function):
                return file.elf.path
        if self._files:
            return None
        libc = self._binary(_LIBC)
        return libc.path if libc is not None and _has(libc, function) else None

    def modules(self, pattern: str) -> Sequence[str]:
        """Modules whose paths or names are like a pattern."""
        if not _WILD & set(pattern):
            return [module_path(pattern)]
        paths = [file.module.path for file in self._files]
        found = [path for path in paths if _is_like(path, pattern)]
        if found or self._files:
            return list(dict.fromkeys(found))
        places = [pattern] if "/" in pattern else [f"{at}/{pattern}" for at in module_folders()]
        matching = [os.path.realpath(path) for each in places for path in _matching(each)]
        return [path for path in dict.fromkeys(matching) if _is_elf(path)]

    def functions(self, module: str, pattern: str, demangled: bool) -> Sequence[str]:
        """Symbols of functions that are like a pattern."""
        return list(dict.fromkeys(self._functions(module, pattern, demangled=demangled)))

    def _functions(self, module: str, pattern: str, *, demangled: bool) -> Iterator[str]:
        if module.startswith("["):
            yield from _kernel_functions(module, pattern)
            return
        binary = self._binary(module)
        if binary is None:
            return
        matches = re.compile(_expression(pattern)).fullmatch
        try:
            for symbol in binary.symbols.code():
                name = plain(symbol.name) if demangled else symbol.name
                if matches(name) or (demangled and matches(name.partition("(")[0])):
                    yield symbol.name
        except LocationError:
            return

    def static_probes(self, module: str, pattern: str) -> Sequence[str]:
        """``PROVIDER:NAME`` of the static probes that are like a pattern of that form."""
        binary = self._binary(module)
        if binary is None:
            return ()
        try:
            names = [f"{probe.provider}:{probe.name}" for probe in binary.static_probes]
        except LocationError:
            return ()
        return [name for name in dict.fromkeys(names) if fnmatchcase(name, pattern)]

    def system_call(self, name: str) -> SystemCallPlaces | None:
        """Where the files of the targets make it, else libc."""
        # Here: few scripts come to need it.
        from dprobed.arch.x86_64.syscalls import system_call_number

        number = system_call_number(name)
        if number is None:
            return None
        libc = self._binary(_LIBC) if not self._files else None
        files = [file.elf for file in self._files] if self._files else [libc]
        places = []
        for elf in files:
            known = self._system_calls(elf) if elf is not None else None
            if elf is None or known is None:
                continue
            addresses = sorted((*known.by_number.get(number, ()), *known.unknown))
            if addresses:
                places.append((elf.path, tuple(addresses)))
        return SystemCallPlaces(number, tuple(places))

    def _system_calls(self, elf: Binary) -> SystemCalls | None:
        from dprobed.binary.system_calls import system_calls

        if elf.path not in self._calls:
            try:
                self._calls[elf.path] = system_calls(elf)
            except LocationError:
                self._calls[elf.path] = None
        return self._calls[elf.path]

    # -- from debug information -----------------------------------------------------------------

    def parameters(self, module: str, function: str) -> Sequence[Parameter] | None:
        """Of a function."""
        found = self._function(module, function)
        if found is None:
            return None
        one, types = found
        places = [place for place in one.places if not place.inlined] or list(one.places)
        language = "Go" if one.language == "go" else ""
        return [
            Parameter(each.name, Typed(types, each.type), language)
            for each in (places[0].parameters if places else ())
        ]

    def result(self, module: str, function: str) -> Typed | None:
        """The type that a function returns."""
        found = self._function(module, function)
        return None if found is None else Typed(found[1], found[0].result)

    def named_type(self, module: str, name: str) -> Typed | None:
        """A type by its name."""
        binary = self._binary(module)
        found = self._debug.named_type(binary, name) if binary is not None else None
        return None if found is None else Typed(found.types, found.index)

    def variable(self, module: str, place: str, name: str) -> ProgramVariable | None:
        """A variable that is seen at a place; of several places, where it is at all of them."""
        binary = self._binary(module)
        found = self._debug.variable(binary, place, name) if binary is not None else None
        if found is None:
            return None
        variable, types = found
        return ProgramVariable(Typed(types, variable.type), variable.location)

    def anchor(self, module: str) -> tuple[str, int] | None:
        """The first function of a module that no other has the name of."""
        binary = self._binary(module)
        if binary is None:
            return None
        symbols = binary.symbols
        for symbol in symbols.code():
            if symbol.size and len(symbols.find(symbol.name)) == 1:
                return symbol.name, symbol.value
        return None

    def _function(self, module: str, function: str) -> tuple[SourceFunction, Types] | None:
        binary = self._binary(module)
        return self._debug.function(binary, function) if binary is not None else None

    # -- files ----------------------------------------------------------------------------------

    def text(self, name: str, beside: str) -> tuple[str, str] | None:
        """The text of a file that a script includes or imports, beside it; raises
        UnreadableFile."""
        path = name if name.startswith("/") else f"{os.path.dirname(beside) or '.'}/{name}"  # noqa: PTH120
        try:
            return reading.read_source(Path(path), MOST_TEXT).decode(), path
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise UnreadableFile(os_error_text(error)) from None
        except SourceError as error:
            raise UnreadableFile(str(error)) from None
        except UnicodeDecodeError as error:
            raise UnreadableFile(f"it is not UTF-8 text (byte {error.start})") from None

    def _binary(self, module: str) -> Binary | None:
        if module not in self._opened:
            self._opened[module] = self._open(module)
        return self._opened[module]

    def _open(self, module: str) -> Binary | None:
        if module.startswith("["):
            return None  # It is in the kernel.
        for file in self._files if module else ():
            if file.elf is not None and file.named(module):
                return file.elf
        if not module:
            return self._files[0].elf if self._files else None
        try:
            return open_file(module_path(module))
        except (LocationError, OSError):
            return None


def _kernel_functions(module: str, pattern: str) -> Iterator[str]:
    """Functions of the kernel, or of a module of it, that are like a pattern."""
    owner = "" if module == KERNEL else module[1:-1]
    try:
        for symbol in kernel_symbols.symbols():
            mine = symbol.kind == "code" and symbol.module == owner
            if mine and "." not in symbol.name and fnmatchcase(symbol.name, pattern):
                yield symbol.name
    except OSError:
        return


def module_path(name: str) -> str:
    """The file that a module of a script is: a path, a command, or a library with or without its
    ``lib`` and ``.so``. A name that means nothing here stays."""
    if "/" in name:
        return os.path.abspath(name)  # noqa: PTH100
    for folder in module_folders():
        for stem in (name, f"lib{name}"):
            candidates = [f"{folder}/{stem}.so", *sorted(_matching(f"{folder}/{stem}.so.*"))]
            found = next((each for each in candidates if _is_elf(each)), None)
            if found is not None:
                return os.path.realpath(found)
    try:
        return os.path.realpath(find_module(name))
    except UserError:
        return name


def _matching(pattern: str) -> list[str]:
    """Paths that are like a pattern; a folder that is not there has none."""
    return glob.glob(pattern)  # noqa: PTH207  # Path.glob knows no pattern that begins with /


def _is_loader(path: str) -> bool:
    """Whether it is the dynamic loader, whose own functions come last."""
    return path.rpartition("/")[2].startswith("ld-linux")


def _is_elf(path: str) -> bool:
    try:
        return reading.is_regular(path) and reading.beginning(path).startswith(b"\x7fELF")
    except OSError:
        return False


def _has(binary: Binary, place: str) -> bool:
    """Whether a function, a variable, a static probe or a source line is there."""
    try:
        if ":" not in place:
            return bool(binary.symbols.find(place))
        return bool(resolve(binary, place))
    except LocationError:
        return False


def _is_like(path: str, pattern: str) -> bool:
    return fnmatchcase(path, pattern) or (
        "/" not in pattern and fnmatchcase(os.path.basename(path), pattern)  # noqa: PTH119
    )


def _expression(pattern: str) -> str:
    """A pattern with ``*`` and ``?`` as a regular expression; all else means itself."""
    return "".join(".*" if c == "*" else "." if c == "?" else re.escape(c) for c in pattern)
