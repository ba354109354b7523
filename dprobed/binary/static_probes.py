"""Static probes (USDT): the places that a program's authors marked with ``<sys/sdt.h>``.

Each is a note of type NT_STAPSDT in section .note.stapsdt: three addresses (the place, the address
of .stapsdt.base when the file was linked, the semaphore), then provider, name and arguments as
strings. Where .stapsdt.base lies elsewhere now, the file was prelinked, and the addresses move with
it. Format: SystemTap's "UserSpaceProbeImplementation".
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import NoteSection

from dprobed.binary.elf import ElfFile, text_of
from dprobed.binary.errors import LocationError

_SECTION: Final = ".note.stapsdt"
_BASE: Final = ".stapsdt.base"
_OWNER: Final = "stapsdt"
#: Type 3; pyelftools names the types of everybody's notes as if they were GNU's.
_NT_STAPSDT: Final = (3, "NT_GNU_BUILD_ID", "NT_STAPSDT")
_ADDRESSES: Final = struct.Struct("<QQQ")
_MASK: Final = (1 << 64) - 1


class StaticProbe(NamedTuple):
    """One place. Addresses are the file's; ``semaphore`` is 0 where it has none.

    ``base``: where .stapsdt.base was when the file was linked. ``arguments``: where they are, as
    the assembler wrote it (``-4@%edi 8@-16(%rbp)``).
    """

    provider: str
    name: str
    address: int
    base: int
    semaphore: int
    arguments: str


def static_probes(elf: ElfFile) -> list[StaticProbe]:
    """The static probes of a file, in its order; raises LocationError where they are damaged."""
    section = elf.section(_SECTION)
    if section is None or not section.size:
        return []
    if section.offset + section.size > elf.size:
        raise elf.damaged(f"section {_SECTION} reaches past its end")
    now = elf.section(_BASE)
    found = []
    try:
        with open(elf.descriptor(), "rb") as file:
            notes = ELFFile(file).get_section_by_name(_SECTION)
            for note in notes.iter_notes() if isinstance(notes, NoteSection) else ():
                if note["n_name"] == _OWNER and note["n_type"] in _NT_STAPSDT:
                    found.append(_probe(elf, note["n_descdata"], now.address if now else 0))
    except LocationError:
        raise
    except (ELFError, OSError) as error:
        raise elf.damaged(f"section {_SECTION}: {error}") from error
    except Exception as error:  # pyelftools says what is damaged in many ways
        raise elf.damaged(f"section {_SECTION}: {type(error).__name__}") from error
    return found


def _probe(elf: ElfFile, raw: bytes, now: int) -> StaticProbe:
    if len(raw) < _ADDRESSES.size:
        raise elf.damaged(f"a note in {_SECTION} of {len(raw)} bytes")
    address, base, semaphore = _ADDRESSES.unpack_from(raw)
    texts = raw[_ADDRESSES.size :].split(b"\0")
    if len(texts) < 4:  # the last string ends, too
        raise elf.damaged(f"a note in {_SECTION} without its names")
    moved = now - base if now else 0
    return StaticProbe(
        text_of(texts[0]),
        text_of(texts[1]),
        address + moved & _MASK,
        base,
        semaphore + moved & _MASK if semaphore else 0,
        text_of(texts[2]),
    )
