"""Abbreviations: what an entry has, and how long it is (DWARF 5, sections 7.5.3 and 7.5.6)."""

from __future__ import annotations

from typing import Final

from dprobed.binary.dwarf import constants as dw
from dprobed.binary.leb128 import sleb, uleb

#: Bytes of forms that are always so long.
FIXED: Final = {
    dw.ADDR: 8, dw.DATA1: 1, dw.DATA2: 2, dw.DATA4: 4, dw.DATA8: 8, dw.DATA16: 16, dw.FLAG: 1,
    dw.REF1: 1, dw.REF2: 2, dw.REF4: 4, dw.REF8: 8, dw.FLAG_PRESENT: 0, dw.IMPLICIT_CONST: 0,
    dw.REF_SIG8: 8, dw.STRX1: 1, dw.STRX2: 2, dw.STRX3: 3, dw.STRX4: 4, dw.ADDRX1: 1,
    dw.ADDRX2: 2, dw.ADDRX3: 3, dw.ADDRX4: 4, dw.REF_SUP4: 4, dw.REF_SUP8: 8,
}  # fmt: skip
#: Forms that are as long as offsets are in the unit: 4 bytes, or 8 in 64-bit DWARF.
OFFSETS: Final = frozenset((dw.STRP, dw.LINE_STRP, dw.SEC_OFFSET, dw.STRP_SUP, dw.GNU_REF_ALT,
                            dw.GNU_STRP_ALT, dw.REF_ADDR))  # fmt: skip
NUMBERS: Final = frozenset((dw.UDATA, dw.SDATA, dw.REF_UDATA, dw.STRX, dw.ADDRX, dw.LOCLISTX,
                            dw.RNGLISTX, dw.GNU_ADDR_INDEX, dw.GNU_STR_INDEX))  # fmt: skip
#: Forms of blocks: how many bytes their length has (0: it is a number of variable length).
BLOCKS: Final = {dw.EXPRLOC: 0, dw.BLOCK: 0, dw.BLOCK1: 1, dw.BLOCK2: 2, dw.BLOCK4: 4}

#: Steps over what is not always as long; others are so many bytes.
LEB, TEXT, INDIRECT, BLOCK = -1, -2, -3, -4

#: An abbreviation with more attributes is damage.
_MOST_ATTRIBUTES: Final = 256
_MOST_ABBREVIATIONS: Final = 1 << 17


class UnknownForm(Exception):
    """A form that is not known: nothing behind it can be read."""


class Abbreviation:
    """What entries of one kind have. ``size``: their bytes, -1 where these vary; ``steps``: how to
    go over them then."""

    __slots__ = ("attributes", "children", "size", "steps", "tag", "width")

    def __init__(
        self, tag: int, children: bool, attributes: tuple[tuple[int, int, int], ...], width: int
    ) -> None:
        self.tag = tag
        self.children = children
        self.attributes = attributes
        self.width = width
        self.steps = _steps([form for _, form, _ in attributes], width)
        fixed = all(step >= 0 for step in self.steps)
        self.size = sum(self.steps) if fixed else -1

    def before(self, name: int) -> int | None:
        """How many bytes of an entry are before an attribute; None where these vary, or it has no
        such attribute."""
        size = 0
        for attribute, form, _ in self.attributes:
            if attribute == name:
                return size
            one = self.width if form in OFFSETS else FIXED.get(form)
            if one is None:
                return None
            size += one
        return None

    def has(self, name: int) -> bool:
        """Whether it has an attribute."""
        return any(attribute == name for attribute, _, _ in self.attributes)


def _steps(forms: list[int], width: int) -> list[int]:
    """How to go over an entry: what is always as long is taken together."""
    steps: list[int] = []
    for form in forms:
        size = width if form in OFFSETS else FIXED.get(form)
        if size is not None:
            if steps and steps[-1] >= 0:
                steps[-1] += size
            else:
                steps.append(size)
        elif form in NUMBERS:
            steps.append(LEB)
        elif form == dw.STRING:
            steps.append(TEXT)
        elif form in BLOCKS:
            steps.append(BLOCK - BLOCKS[form])
        elif form == dw.INDIRECT:
            steps.append(INDIRECT)
        else:
            raise UnknownForm(f"form {form:#x}")
    return steps


#: Abbreviations by what they say: units have the same ones again and again.
_Known = dict[tuple[int, int, tuple[tuple[int, int, int], ...], int], Abbreviation]


def abbreviations(data: bytes, at: int, width: int, known: _Known) -> dict[int, Abbreviation]:
    """The table at an offset of .debug_abbrev; raises IndexError, UnknownForm."""
    found: dict[int, Abbreviation] = {}
    while True:
        code, at = uleb(data, at)
        if not code:
            return found
        tag, at = uleb(data, at)
        children = data[at]
        at += 1
        attributes: list[tuple[int, int, int]] = []
        while True:
            name, form = data[at], data[at + 1]
            if name < 0x80 and form < 0x80:
                at += 2
            else:
                name, at = uleb(data, at)
                form, at = uleb(data, at)
            constant = 0
            if form == dw.IMPLICIT_CONST:
                constant, at = sleb(data, at)
            if not name and not form:
                break
            attributes.append((name, form, constant))
            if len(attributes) > _MOST_ATTRIBUTES:
                raise IndexError
        key = tag, children, tuple(attributes), width
        kind = known.get(key)
        if kind is None:
            kind = known[key] = Abbreviation(tag, bool(children), key[2], width)
        found.setdefault(code, kind)
        if len(found) > _MOST_ABBREVIATIONS:
            raise IndexError
