"""Names of C++ and Rust as their authors wrote them.

By pycxxfilt (LLVM's demanglers of the Itanium C++ ABI and of Rust's v0, 6 µs a name). The names of
older Rust look like C++ and are not; they are taken apart here.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

#: Names longer than this are shown as they are.
_LONGEST: Final = 4096
_OLD_RUST: Final = re.compile(r"_ZN(.*)17h[0-9a-f]{16}E(?:\..*)?", re.ASCII | re.DOTALL)
_ESCAPE: Final = re.compile(r"\$(\w+)\$|\.\.", re.ASCII)
_ESCAPES: Final = {"SP": "@", "BP": "*", "RF": "&", "LT": "<", "GT": ">", "LP": "(", "RP": ")",
                   "C": ","}  # fmt: skip


@lru_cache(maxsize=16384)
def demangled(name: str) -> str:
    """The name as in the source; a name that is not mangled as it is."""
    if not name.startswith(("_Z", "_R", "___Z")) or len(name) > _LONGEST:
        return name
    old = _OLD_RUST.fullmatch(name)
    found = _old_rust(old[1]) if old is not None else None
    if found is not None:
        return found
    # Imported where there is such a name: most programs have none.
    import pycxxfilt

    try:
        return pycxxfilt.demangle(name) or name
    except ValueError:
        return name


def _old_rust(path: str) -> str | None:
    """The parts of a path, each behind its length; None if it is none."""
    parts = []
    at = 0
    while at < len(path):
        number = re.compile(r"[0-9]{1,4}").match(path, at)
        if number is None:
            return None
        at = number.end() + int(number[0])
        if at > len(path):
            return None
        part = path[number.end() : at]
        parts.append(_ESCAPE.sub(_unescaped, part[part.startswith("_$") :]))
    return "::".join(parts)


def _unescaped(match: re.Match[str]) -> str:
    code = match[1]
    if code is None:
        return "::"
    if code[0] == "u":
        try:
            return chr(int(code[1:], 16))
        except (ValueError, OverflowError):
            return match[0]
    return _ESCAPES.get(code, match[0])
