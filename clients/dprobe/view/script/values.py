"""Values of scripts as text and as JSON."""

from __future__ import annotations

import json
import math
from typing import Final

from dprobe.lib.script.values import STACK_INDENT, Address, Buffer, NamedNumber, Shown, StackText

#: What a stack's lines begin with within the key of a map.
_KEY_INDENT: Final = " " * 4


def text(value: Shown, *, key: bool = False) -> str:
    """As it is printed; ``key``: within the key of a map."""
    if isinstance(value, str):  # most are
        return value
    match value:
        case bool():
            return "true" if value else "false"
        case Address():
            return f"{value.value:#x}"
        case NamedNumber():
            return value.name
        case Buffer():
            return escaped(value.data)
        case StackText():
            return value.text(_KEY_INDENT if key else STACK_INDENT)
        case tuple():
            return f"({', '.join(text(each, key=key) for each in value)})"
        case list():
            return f"[{','.join(text(each, key=key) for each in value)}]"
        case dict():
            members = (f".{name} = {text(each, key=key)}" for name, each in value.items())
            return f"{{ {', '.join(members)} }}"
        case None:
            return ""
    return str(value)


def as_json(value: Shown) -> str:
    """As JSON: names of numbers are left out, so that what reads it has numbers; ``"nan"`` and
    ``"inf"`` are none."""
    match value:
        case bool():
            return "true" if value else "false"
        case Address() | NamedNumber():
            return str(value.value)
        case int():
            return str(value)
        case float() if math.isfinite(value):
            return json.dumps(value)
        case tuple() | list():
            return f"[{','.join(map(as_json, value))}]"
        case dict():
            members = (f"{quoted(name)}: {as_json(each)}" for name, each in value.items())
            return f"{{{', '.join(members)}}}"
        case None:
            return "null"
    return quoted(text(value))


def quoted(string: str) -> str:
    """A string of JSON; text that is not ASCII stays, and what was not UTF-8 is escaped."""
    plain = string.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return json.dumps(plain, ensure_ascii=False)


def escaped(data: bytes) -> str:
    """Printable ASCII as it is, and every other byte in hexadecimal."""
    return "".join(chr(byte) if 32 <= byte <= 126 else f"\\x{byte:02x}" for byte in data)


def hexadecimal(data: bytes) -> str:
    """Every byte escaped."""
    return "".join(f"\\x{byte:02x}" for byte in data)


def spaced(data: bytes) -> str:
    """Every byte, with blanks between them."""
    return data.hex(" ")
