"""An argument of a static probe (USDT): where the compiler left it, and its value.

A note of <sys/sdt.h> gives them as the assembler wrote them, ``size@operand`` each (a negative size
is signed; ``f`` behind it: a floating-point number), with operands in AT&T syntax:

    -4@%edi   8@$17   2@-16(%rbp)   8@(%rax,%rcx,8)   4@counter(%rip)   8@table+16(,%rdx,8)

Of <sys/sdt.h> of SystemTap; GDB's ``gdb/stap-probe.c`` names the same forms.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final, Literal, NamedTuple

from dprobed.arch.x86_64.paging import WORD

#: More than <sys/sdt.h> can make.
MOST: Final = 12
_SSE: Final = tuple(f"xmm{number}" for number in range(16))

#: Kinds that need no register.
_WITHOUT: Final = ("constant", "memory")

# Patterns, compiled when the first argument is met: most who import this never meet one.
_SIZE: Final = r"(?s)(-?)([1248])(f?)@(.+)"
_NUMBER: Final = r"[-+]?(?:0[xX][0-9a-fA-F]+|[0-9]+)"
_CONSTANT: Final = rf"\$({_NUMBER})"
_REGISTER: Final = r"%([a-z0-9]+)"
_MEMORY: Final = (
    rf"(?P<symbol>[A-Za-z_.$][\w.$@]*)?(?P<more>{_NUMBER})?"
    r"(?:\((?:%(?P<base>[a-z0-9]+))?(?:,%(?P<index>[a-z0-9]+)(?:,(?P<scale>[1248]))?)?\))?"
)


class ArgumentError(ValueError):
    """An argument is written in a form that is not known."""


class Argument(NamedTuple):
    """Where an argument is. ``size``: bytes.

    ``value``: of a constant; of a general register by how many bits it is shifted (``%ah``: 8); of
    memory what is added. ``base``, ``scaled``: the names of registers; empty: none. ``relative``:
    what is added is an address of the file.
    """

    size: int
    signed: bool
    kind: Literal["constant", "register", "sse", "memory"]
    value: int = 0
    base: str = ""
    scaled: str = ""
    scale: int = 1
    relative: bool = False


def _parts() -> dict[str, tuple[str, int]]:
    """Of each name of a general register or a part of it: the whole, and how far it is shifted."""
    found = {"rip": ("rip", 0)}
    for letter in "abcd":
        whole = f"r{letter}x"
        found |= dict.fromkeys((whole, f"e{letter}x", f"{letter}x", f"{letter}l"), (whole, 0))
        found[f"{letter}h"] = whole, 8
    for name in ("si", "di", "bp", "sp"):
        whole = f"r{name}"
        found |= dict.fromkeys((whole, f"e{name}", name, f"{name}l"), (whole, 0))
    for whole in (f"r{number}" for number in range(8, 16)):
        found |= dict.fromkeys((whole, f"{whole}d", f"{whole}w", f"{whole}b"), (whole, 0))
    return found


_PARTS: Final = _parts()
_WHOLE: Final = frozenset(whole for whole, _ in _PARTS.values())


def parse(text: str, symbol: Callable[[str], int]) -> Argument:
    """The argument that is written so; ``symbol``: the address of a symbol in the file.

    Raises ArgumentError, and what ``symbol`` does.
    """
    sized = re.fullmatch(_SIZE, text)
    if sized is None:
        raise ArgumentError(f"{text!r}: its size is not given")
    size, signed, operand = int(sized[2]), bool(sized[1]), sized[4]
    constant = re.fullmatch(_CONSTANT, operand)
    if constant:
        return Argument(size, signed, "constant", int(constant[1], 0))
    register = re.fullmatch(_REGISTER, operand)
    if register:
        name = register[1]
        if name in _SSE:
            return Argument(size, signed, "sse", base=name)
        whole, shift = _whole(text, name)
        return Argument(size, signed, "register", shift, whole)
    memory = re.fullmatch(_MEMORY, operand)
    if memory is None or not operand:
        raise ArgumentError(f"{text!r}: its place is of no form that is known")
    return _memory(text, size, signed, memory, symbol)


def _memory(
    text: str, size: int, signed: bool, found: re.Match[str], symbol: Callable[[str], int]
) -> Argument:
    more = int(found["more"] or "0", 0)
    base = _whole(text, found["base"])[0] if found["base"] else ""
    index = _whole(text, found["index"])[0] if found["index"] else ""
    if base == "rip":
        if not found["symbol"] or index:
            raise ArgumentError(f"{text!r}: what it is relative to is not told")
        base = ""
    relative = found["symbol"] is not None
    if relative:
        more += symbol(found["symbol"])
    return Argument(size, signed, "memory", more, base, index, int(found["scale"] or "1"), relative)


def _whole(text: str, name: str) -> tuple[str, int]:
    try:
        return _PARTS[name]
    except KeyError:
        raise ArgumentError(f"{text!r}: no register {name}") from None


def is_plausible(argument: Argument) -> bool:
    """Whether such an argument can be: who tells of it may lie."""
    registers = _SSE if argument.kind == "sse" else _WHOLE
    return (
        argument.size in (1, 2, 4, 8)
        and argument.scale in (1, 2, 4, 8)
        and (argument.base in registers or (not argument.base and argument.kind in _WITHOUT))
        and (argument.scaled in _WHOLE or not argument.scaled)
        and (argument.kind != "register" or argument.value in (0, 8))
        and abs(argument.value) <= WORD
    )
