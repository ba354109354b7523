"""Who is given which rights, as a table of a policy or of the configuration says it."""

from __future__ import annotations

import grp
import pwd
from collections.abc import Callable
from typing import Any, Final

from dprobed.policy.locate import KeyPath
from dprobed.policy.match import user_number
from dprobed.policy.model import Rights
from dprobed.policy.rights import ALL, Right
from dprobed.policy.source import PolicyFile, suggestion

_SETS: Final = {"all": ALL, "deny": frozenset[Right]()}
_RIGHT_WORDS: Final = (*Right, *_SETS)


def read_rights(source: PolicyFile, path: KeyPath, value: Any, *, own: bool) -> Rights:
    """The rights that a table gives; ``own``: it may name the process's own user, too."""
    table = source.table(path, value, (*["self"] * own, "user", "group"))
    return Rights(
        own=_set(source, (*path, "self"), table["self"]) if "self" in table else None,
        users=_who(source, (*path, "user"), table.get("user", {}), uid_of),
        groups=_who(source, (*path, "group"), table.get("group", {}), gid_of),
    )


def _who(
    source: PolicyFile, path: KeyPath, value: Any, find: Callable[[str], int | str]
) -> dict[int, frozenset[Right]]:
    found: dict[int, frozenset[Right]] = {}
    names = value if isinstance(value, dict) else ()
    for name, each in source.table(path, value, names).items():
        rights = _set(source, (*path, name), each)
        result = find(name)
        if isinstance(result, int) and result in found:
            source.report_key(
                (*path, name), f"{path[-1]} {result} is named twice here", "keep one of them"
            )
        elif isinstance(result, int):
            found[result] = rights
        else:
            source.report_key((*path, name), f"there is no {path[-1]} `{name}`", result)
    return found


def _set(source: PolicyFile, path: KeyPath, value: Any) -> frozenset[Right]:
    words = [
        (at, source.choice(at, word, _RIGHT_WORDS, "right"))
        for at, word in source.strings(path, value)
    ]
    rights: frozenset[Right] = frozenset()
    for at, word in words:
        if word in _SETS and len(words) > 1:
            source.report(
                at,
                f"`{word}` cannot be combined with other rights",
                f'write "{word}" and nothing else',
            )
        elif word is not None:
            rights |= _SETS[word] if word in _SETS else {Right(word)}
    return rights


def uid_of(name: str) -> int | str:
    """A user's number, or a hint."""
    if (number := user_number(name)) is not None:
        return number
    try:
        return pwd.getpwnam(name).pw_uid
    except (KeyError, ValueError):  # ValueError: a name with a zero byte.
        return suggestion(name, (each.pw_name for each in pwd.getpwall()))


def gid_of(name: str) -> int | str:
    """A group's number, or a hint."""
    if (number := user_number(name)) is not None:
        return number
    try:
        return grp.getgrnam(name).gr_gid
    except (KeyError, ValueError):
        return suggestion(name, (each.gr_name for each in grp.getgrall()))
