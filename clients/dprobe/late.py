"""Modules of others that are imported when something of theirs is first used, or never.

What we use imports much that only some of its users need: asyncio TLS, msgspec schemas and YAML,
hashlib OpenSSL, iced_x86 the names of all instructions. Without that, a command takes a tenth less
CPU to start.

``importlib.util.LazyLoader`` does not serve: before Python 3.12 it loads a module as soon as it is
imported a second time.
"""

from __future__ import annotations

import importlib
import os
import sys
import threading
import types
from collections.abc import Mapping, Sequence
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from typing import Final

#: The modules. Their import changes nothing besides, and those who import them use them later.
_LATE: Final = frozenset(
    (
        "asyncio.sslproto",
        "asyncio.staggered",
        "iced_x86.Code",
        "inspect",
        "msgspec.inspect",
        "msgspec.toml",
        "msgspec.yaml",
        "platform",
        "textwrap",
        "tokenize",
    )
)


def _cleandoc(doc: str) -> str:
    """As ``inspect.cleandoc``."""
    first, *others = doc.expandtabs().split("\n")
    margin = min((len(each) - len(each.lstrip()) for each in others if each.lstrip()), default=0)
    lines = [first.lstrip(), *(each[margin:] for each in others)]
    while lines and not lines[-1]:
        lines.pop()
    while lines and not lines[0]:
        del lines[0]
    return "\n".join(lines)


#: What is there before: uuid asks for the one when it is imported, which msgspec needs; click asks
#: for the other for each option.
_BEFORE: Final[Mapping[str, Mapping[str, object]]] = {
    "inspect": {"cleandoc": _cleandoc},
    "platform": {"system": lambda: os.uname().sysname},
}
#: Packages that are nothing but what is in this module of theirs and the other modules.
_GATHERED: Final = {"iced_x86": "_iced_x86_py"}
#: Modules that their importers can do without. ``typing`` has what msgspec takes from the first,
#: and hashlib has functions of its own in the place of OpenSSL's.
_NOT_FOR: Final = {"typing_extensions": "msgspec", "_hashlib": "hashlib", "ssl": "asyncio"}

_loading: Final = threading.RLock()


class _LateModule(types.ModuleType):
    """A module until something of it is used."""

    def __getattr__(self, name: str) -> object:
        with _loading:  # Whoever comes meanwhile waits; what is imported may ask for more of it.
            spec = self.__spec__
            if spec is not None and isinstance(spec.loader, _LateLoader):
                spec.loader = self.__loader__ = spec.loader.real
                spec.loader.exec_module(self)
                self.__class__ = types.ModuleType  # type: ignore[assignment]
        return types.ModuleType.__getattribute__(self, name)


class _Gathered(types.ModuleType):
    """A package of which a module is imported when it is asked for."""

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        found: object
        try:
            found = importlib.import_module(f"{self.__name__}.{name}")
        except ModuleNotFoundError:
            main = importlib.import_module(f"{self.__name__}.{_GATHERED[self.__name__]}")
            found = getattr(main, name)
        setattr(self, name, found)
        return found


class _LateLoader(SourceFileLoader):
    """Makes such a module of a new one; ``real`` loads it."""

    def __init__(self, real: SourceFileLoader) -> None:
        super().__init__(real.name, real.path)
        self.real: Final = real

    def exec_module(self, module: types.ModuleType) -> None:
        """Nothing is executed yet."""
        vars(module).update(_BEFORE.get(module.__name__, {}))
        module.__class__ = _Gathered if module.__name__ in _GATHERED else _LateModule


class _Finder:
    """Comes before all other finders."""

    def find_spec(
        self,
        name: str,
        path: Sequence[str] | None = None,
        target: types.ModuleType | None = None,
    ) -> ModuleSpec | None:
        if name in _NOT_FOR and _is_being_imported(_NOT_FOR[name]):
            raise ModuleNotFoundError(f"not needed here: {name}", name=name)
        if name not in _LATE and name not in _GATHERED:
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _LateLoader(spec.loader)
        return spec


def _is_being_imported(name: str) -> bool:
    spec = getattr(sys.modules.get(name), "__spec__", None)
    return bool(getattr(spec, "_initializing", False))


def install() -> None:
    """Have these modules imported late from now on, in this process and those forked from it."""
    sys.meta_path.insert(0, _Finder())
