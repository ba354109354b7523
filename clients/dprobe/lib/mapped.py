"""The files that processes map, as a program's ``name`` means them.

How ELF files and lists of mappings are read is for ``dprobed``; only this module asks it. Files are
read in this process, which is the user's own: no other target waits for it, and none is harmed. One
of a file system that does not answer is found out before, by a helper that can be given up.
"""

from __future__ import annotations

import os
from typing import Final

import msgspec

from dprobe.lib.errors import UserError
from dprobed.binary.errors import LocationError
from dprobed.binary.file import Binary
from dprobed.binary.opening import not_opened
from dprobed.proc import files
from dprobed.proc.helper import SilentError
from dprobed.proc.maps import MapsError, Module, modules
from dprobed.resolver.cache import packed
from dprobed.resolver.image import build_id_of_image
from dprobed.resolver.modules import disproof, matches, open_module, silent

#: Bytes of a file that are read to see whether it answers.
_HEAD: Final = 64


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
    try:
        descriptor = files.open_file(path)
    except SilentError:
        raise silent(path) from None
    except (OSError, ValueError) as error:
        raise not_opened(path, error) from error
    path = os.readlink(f"/proc/self/fd/{descriptor}")  # noqa: PTH115
    _answers(descriptor, path)
    return Binary(descriptor, path, packer=packed)


def _answers(descriptor: int, path: str) -> None:
    """Raise LocationError where the file's first bytes do not come."""
    try:
        files.read(descriptor, _HEAD, 0)
    except SilentError:
        os.close(descriptor)
        raise silent(path) from None
    except OSError as error:
        os.close(descriptor)
        raise not_opened(path, error) from error


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
        _answers(opened.descriptor, module.path)
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
