"""From addresses and offsets in a file to addresses in a process: load biases."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from dprobed.arch.x86_64.paging import PAGE
from dprobed.proc.maps import Module


class Segment(Protocol):
    """A PT_LOAD program header."""

    @property
    def offset(self) -> int:
        """Where its bytes begin in the file."""

    @property
    def vaddr(self) -> int:
        """Its address in the file."""

    @property
    def file_size(self) -> int:
        """How many of its bytes the file has."""

    @property
    def executable(self) -> bool:
        """Whether it is code."""


class Loadable(Protocol):
    """The facts about a mapped file that give its load bias."""

    @property
    def relocated(self) -> bool:
        """Whether it can be mapped anywhere."""

    @property
    def segments(self) -> Sequence[Segment]:
        """What is mapped of it."""


def address_of(module: Module, file: Loadable, file_offset: int) -> list[int]:
    """The addresses at which the process has this byte of the file as code."""
    for segment in file.segments:
        if segment.executable and 0 <= file_offset - segment.offset < segment.file_size:
            vaddr = file_offset - segment.offset + segment.vaddr
            return [
                vaddr + bias
                for bias in biases(module, file)
                if _is_mapped(module, vaddr + bias, file_offset)
            ]
    return []


def data_address_of(module: Module, file: Loadable, vaddr: int) -> list[int]:
    """The addresses of what the file has at ``vaddr``; also .bss, which no file mapping covers."""
    return [vaddr + bias for bias in biases(module, file)]


def biases(module: Module, file: Loadable) -> list[int]:
    """The load biases: what to add to addresses in the file, once for each time it is loaded."""
    if not file.relocated:
        return [0]
    code = [segment for segment in file.segments if segment.executable]
    found: dict[int, int] = {}
    for mapping in module.mappings:
        if not mapping.executable:
            continue
        for segment in code:
            if segment.offset & -PAGE <= mapping.offset < segment.offset + segment.file_size:
                bias = mapping.start - (segment.vaddr + mapping.offset - segment.offset)
                if not bias % PAGE and bias not in found:
                    found[bias] = sum(
                        _is_mapped(module, each.vaddr + bias, each.offset) for each in code
                    )
    # Segments may share a page of the file, so that a mapping fits several of them: only what
    # explains most of the mappings is where the file was loaded.
    most = max(found.values(), default=0)
    return [bias for bias, fitting in found.items() if fitting == most]


def _is_mapped(module: Module, address: int, file_offset: int) -> bool:
    """Whether this byte of the file is mapped as code at this address."""
    return any(
        mapping.start <= address < mapping.end
        and mapping.executable
        and address - mapping.start == file_offset - mapping.offset
        for mapping in module.mappings
    )
