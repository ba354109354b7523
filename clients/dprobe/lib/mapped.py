"""The files that processes map, as a program's ``name`` means them.

Only this module knows how a mapped file is found and opened.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from dprobe.lib.errors import UserError
from dprobed.binary.errors import LocationError
from dprobed.binary.file import Binary, open_path
from dprobed.proc.maps import MapsError, Module, modules
from dprobed.resolver.image import build_id_of_image
from dprobed.resolver.modules import disproof, matches, open_module


@dataclass(frozen=True)
class File:
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
    return open_path(os.path.realpath(path))


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
    """The mapped file; None where it cannot be opened, or another may have its path now."""
    try:
        opened = open_module(module)
        file = Binary(opened.descriptor, module.path, opened.root)
        if opened.sure or disproof(module, opened.identity, file.build_id, _inside(module)) is None:
            return file
    except LocationError:
        pass
    return None


def _inside(module: Module) -> str | None:
    """The build-id that a process has in its memory; None where that cannot be read."""
    start = next((each.start for each in module.mappings if each.offset == 0), None)
    if start is None:
        return None
    try:
        with open(f"/proc/{module.pid}/mem", "rb", buffering=0) as memory:
            return build_id_of_image(
                lambda address, size: os.pread(memory.fileno(), size, address), start
            )
    except (OSError, OverflowError):
        return None
