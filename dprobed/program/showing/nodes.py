"""What is shown of a value: a tree, and from that text and JSON. No memory is read here."""

from __future__ import annotations

from typing import Any, TypeAlias

import msgspec


class ShownNumber(msgspec.Struct, frozen=True, tag="number"):
    """A number, or what has one word: ``text`` where it is not just the number."""

    value: int | float
    text: str = ""


class ShownText(msgspec.Struct, frozen=True, tag="text"):
    """Characters; ``cut``: there were more. ``letter``: a single one."""

    text: str
    cut: bool = False
    letter: bool = False


class ShownPointer(msgspec.Struct, frozen=True, tag="pointer"):
    """An address, and what is there if that was looked at; ``name``: how many share it."""

    address: int
    to: Shown | None = None
    name: str = ""


class ShownStruct(msgspec.Struct, frozen=True, tag="struct"):
    """Members by name; ``name``: of a variant of an enum, else empty. ``more``: members that were
    left out. ``tuple``: the members have no names."""

    members: tuple[tuple[str, Shown], ...]
    name: str = ""
    more: int = 0
    tuple: bool = False


class ShownList(msgspec.Struct, frozen=True, tag="list"):
    """Elements; ``more``: how many were left out, -1: nobody knows."""

    elements: tuple[Shown, ...]
    more: int = 0


class ShownMap(msgspec.Struct, frozen=True, tag="map"):
    """Keys and values; ``more``: how many were left out."""

    pairs: tuple[tuple[Shown, Shown], ...]
    more: int = 0


class ShownNothing(msgspec.Struct, frozen=True, tag="nothing"):
    """No value: ``reason`` in a few words."""

    reason: str


Shown: TypeAlias = (
    ShownNumber | ShownText | ShownPointer | ShownStruct | ShownList | ShownMap | ShownNothing
)

_ESCAPES = {"\n": "\\n", "\t": "\\t", "\r": "\\r", '"': '\\"', "\\": "\\\\", "\0": "\\0"}


def quoted(text: str) -> str:
    """Text between quotation marks, with nothing in it that a terminal obeys."""
    return '"' + "".join(_letter(each) for each in text) + '"'


def _letter(letter: str) -> str:
    if letter in _ESCAPES:
        return _ESCAPES[letter]
    if letter.isprintable():
        return letter
    number = ord(letter)
    if 0xDC80 <= number <= 0xDCFF:  # a byte that is not UTF-8
        return f"\\x{number - 0xDC00:02x}"
    return letter.encode("unicode_escape", "surrogatepass").decode()


def text_of_shown(shown: Shown) -> str:
    """A value as one line of text."""
    match shown:
        case ShownNumber(value=value, text=text):
            return text or (f"{value}" if isinstance(value, int) else _float(value))
        case ShownText(text=text, cut=cut, letter=letter):
            if letter:
                inner = "\\'" if text == "'" else '"' if text == '"' else quoted(text)[1:-1]
                return f"'{inner}'"
            return quoted(text) + ("..." if cut else "")
        case ShownPointer(address=address, to=to, name=name):
            shared = f" ({name})" if name else ""
            inside = f" {text_of_shown(to)}" if to is not None else ""
            return (f"{address:#x}" if address else "NULL") + shared + inside
        case ShownStruct():
            return _struct(shown)
        case ShownList(elements=elements, more=more):
            return f"[{', '.join([*map(text_of_shown, elements), *_more(more)])}]"
        case ShownMap(pairs=pairs, more=more):
            shown_pairs = [f"{text_of_shown(key)}: {text_of_shown(each)}" for key, each in pairs]
            return f"{{{', '.join([*shown_pairs, *_more(more)])}}}"
        case ShownNothing(reason=reason):
            return f"<{reason}>"


def _struct(shown: ShownStruct) -> str:
    if shown.tuple:
        inner = ", ".join([text_of_shown(each) for _, each in shown.members] + _more(shown.more))
        return f"{shown.name}({inner})" if inner or not shown.name else shown.name
    if not shown.members and not shown.more:
        return shown.name or "{ }"
    parts = [
        f".{name} = {text_of_shown(each)}" if name else text_of_shown(each)
        for name, each in shown.members
    ]
    name = f"{shown.name} " if shown.name else ""
    return f"{name}{{ {', '.join([*parts, *_more(shown.more)])} }}"


def _more(count: int) -> list[str]:
    if not count:
        return []
    return ["..."] if count < 0 else [f"... {count} more"]


def _float(value: float) -> str:
    return f"{value:.9g}" if abs(value) < 1e16 else f"{value:g}"


def json_of_shown(shown: Shown) -> Any:
    """A value as JSON has it: what has no value is an object with the reason."""
    match shown:
        case ShownNumber(value=value, text=text):
            if isinstance(value, float) and value - value != 0:
                return str(value)  # JSON has no infinity
            return text if text and not text[0].isdigit() and text[0] != "-" else value
        case ShownText(text=text):
            return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
        case ShownPointer(address=address, to=to):
            inside = {"value": json_of_shown(to)} if to is not None else {}
            return {"address": f"{address:#x}", **inside} if inside else f"{address:#x}"
        case ShownStruct(members=members, name=name, more=more, tuple=is_tuple):
            inner: Any = {member or f"_{number}": json_of_shown(each)
                          for number, (member, each) in enumerate(members)}  # fmt: skip
            if is_tuple:
                inner = [json_of_shown(each) for _, each in members]
            elif more:
                inner["..."] = more
            if not name:
                return inner
            return {name: inner} if inner else name
        case ShownList(elements=elements, more=more):
            return [json_of_shown(each) for each in elements] + ([{"...": more}] if more else [])
        case ShownMap(pairs=pairs, more=more):
            found: dict[str, Any] = {}
            for key, each in pairs:
                named = json_of_shown(key)
                found[named if isinstance(named, str) else text_of_shown(key)] = json_of_shown(each)
            return {**found, **({"...": more} if more else {})}
        case ShownNothing(reason=reason):
            return {"unknown": reason}
