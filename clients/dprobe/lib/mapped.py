"""The files that processes map, as a program's ``name`` means them.

How ELF files and lists of mappings are read is for ``dprobed.binary``; only this module asks it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from dprobe.lib.errors import UserError
from dprobed.binary.elf import ElfFile, open_path
from dprobed.binary.errors import LocationError
from dprobed.binary.maps import Module, matches, modules, open_module


@dataclass(frozen=True)
class File:
    """One file that is, or will be, mapped.

    ``elf``: None where it cannot be read, which says nothing of the places in it.
    """

    module: Module
    elf: ElfFile | None

    def named(self, name: str) -> bool:
        """Whether a program's ``name`` means this file."""
        return matches(self.module, self.elf, name)


def open_file(path: str) -> ElfFile:
    """An ELF file under the name that the kernel shows for it; raises LocationError."""
    return open_path(os.path.realpath(path))


def to_be_mapped(elf: ElfFile) -> File:
    """A file that this process's next command will map."""
    return File(Module(os.getpid(), None, elf.path, ("", 0), ()), elf)


def files_of_process(pid: int) -> list[File]:
    """The files of which a process maps code; raises UserError."""
    try:
        return [File(module, _opened(pid, module)) for module in modules(pid)]
    except LocationError as error:
        raise UserError(str(error)) from None


def _opened(pid: int, module: Module) -> ElfFile | None:
    try:
        return open_module(pid, module)
    except LocationError:
        return None
