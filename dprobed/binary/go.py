"""Go's functions in a file: where their calls have begun for good."""

from __future__ import annotations

from typing import Final

from dprobed.binary.elf import ElfFile

#: Bytes that the longest look at the stack takes, and more.
_LONGEST: Final = 64


def is_go(file: ElfFile) -> bool:
    """Whether Go's linker made it (since Go 1.13)."""
    return file.section(".go.buildinfo") is not None


def stack_check(file: ElfFile, vaddr: int, size: int) -> int:
    """Bytes of the look at its stack with which a function at this address begins; 0: it has none.

    Right behind it registers and stack are what they are at its first instruction, but r12; and no
    call comes there twice, as it does to the first instruction when its stack was too small.
    """
    # Here: it disassembles, which is not done before a place in such a file is asked for.
    from dprobed.arch.x86_64.go_code import behind_stack_check

    length = behind_stack_check(file.read_vaddr(vaddr, min(size, _LONGEST)))
    return length if length < size else 0
