"""The files that processes map, as a program's ``name`` means them.

How ELF files and lists of mappings are read is for ``dprobed``; only this module asks it. Files are
read in this process, which is the user's own: no other target waits for it, and none is harmed.
"""

from __future__ import annotations

import os

import msgspec

from dprobe.lib.errors import UserError
from dprobed.binary.errors import LocationError
from dprobed.binary.file import Binary
from dprobed.binary.opening import descriptor_of
from dprobed.proc.maps import MapsError, Module, modules
from dprobed.resolver.cache import packed
from dprobed.resolver.image import build_id_of_image
from dprobed.resolver.modules import disproof, matches, open_module


class File(msgspec.Struct, frozen=True):
    """One file that is, or will be, mapped.

    ``elf``: None where it cannot be read, which says nothing of the places in it.
    """

    module: Module
    elf: Binary | None

    def named(self, name: str) -> bool:
        """Whether a program's ``name`` means this file."""
        return matches(self.module, self.elf, name)


def open_file(path: str) -> Binary:
    """An ELF file under the name that the kernel shows for it; raises LocationError."""
    path = os.path.realpath(path)
    return Binary(descriptor_of(path), path, packer=packed)


def to_be_mapped(elf: Binary) -> File:
    """A file that this process's next command will map."""
    return File(Module(os.getpid(), None, elf.path, ("", 0), ()), elf)


def files_of_process(pid: int) -> list[File]:
    """The files of which a process maps code; raises UserError."""
    try:
        return [File(module, _opened(module)) for module in modules(pid)]
    except MapsError as error:
        raise UserError(str(error)) from None


def _opened(module: Module) -> Binary | None:
    """The mapped file; None where it cannot be read, or may be another."""
    try:
        opened = open_module(module)
        elf = Binary(opened.descriptor, module.path, opened.root, packer=packed)
        if not opened.sure and disproof(module, opened.identity, elf.build_id, _inside(module)):
            return None
    except (LocationError, OSError, OverflowError):
        return None
    return elf


def _inside(module: Module) -> str | None:
    """The build-id in the memory of the process; raises OSError, OverflowError."""
    first = next((each for each in module.mappings if each.offset == 0), None)
    if first is None:
        return None
    with open(f"/proc/{module.pid}/mem", "rb", buffering=0) as memory:
        return build_id_of_image(
            lambda address, size: os.pread(memory.fileno(), size, address), first.start
        )
