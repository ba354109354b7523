"""Scripts (``.bt``, bpftrace's language) that policies insert, compiled when a policy is read.

Nobody shows what they print, and the daemon decodes no file that processes map: a script here names
its modules (``uprobe:libc.so.6:malloc``), declares the types that it uses, and keeps maps.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from dprobed.program.bt.compiler import compile_script
from dprobed.program.bt.world import NoWorld
from dprobed.program.bytecode import decode
from dprobed.program.model import Diagnostic, Program, ProgramError

#: Bytes of a script, and of each file that it includes, at most.
_MOST_TEXT = 1 << 20

#: The bytes of a file, at most so many; raises OSError.
Read = Callable[[Path, int], bytes]


class _Beside(NoWorld):
    """A world of the files beside the script, and no other."""

    def __init__(self, read: Read) -> None:
        self._read = read

    def text(self, name: str, beside: str) -> tuple[str, str] | None:
        """The text of a file that a script includes or imports."""
        path = Path(beside).parent / name
        try:
            return self._read(path, _MOST_TEXT).decode(), str(path)
        except (OSError, UnicodeDecodeError):
            return None


def script_of_file(path: Path, read: Read) -> list[Program]:
    """The programs of a script's file, one for each module; raises ProgramError."""
    try:
        text = read(path, _MOST_TEXT).decode()
    except OSError as error:
        message = f"cannot read the script: {error.strerror}"
        raise ProgramError((Diagnostic(str(path), 0, 0, message),)) from error
    except UnicodeDecodeError as error:
        message = f"it is not UTF-8 text (byte {error.start})"
        raise ProgramError((Diagnostic(str(path), 0, 0, message),)) from error
    return script_programs(text, path, read)


def script_programs(text: str, path: Path, read: Read) -> list[Program]:
    """The programs of a script's text, which stands for a file; raises ProgramError."""
    name = str(path)
    bundle = compile_script(text, name, world=_Beside(read))
    if bundle.blocks or bundle.actions:
        message = "it prints, or has blocks, which nobody shows where a policy inserts it"
        raise ProgramError(
            (Diagnostic(name, 1, 1, message, "keep maps: `dprobe maps` shows them"),)
        )
    return [decode(each.code, name) for each in bundle.programs]
