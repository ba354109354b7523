"""Probe programs from their files: assembled, verified and ready to be sent to a daemon."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, NamedTuple

from dprobe.lib.errors import UserError, os_error_text
from dprobed.printable import readable

if TYPE_CHECKING:
    from dprobed.program.model import Program
    from dprobed.wire import messages
    from dprobed.wire.limits import Limits


#: What standard input is called in messages.
STDIN: Final = "standard input"


class Choice(NamedTuple):
    """What is made of program files: the preprocessor's ``defines``, which probes (of these
    ``groups`` and ``types``; empty: all), the ``budget`` of each program, and by which ``engine``
    its probes fire; after how many ``seconds`` it is taken out, and after how many hits each probe
    is disabled (0: neither says so)."""

    defines: Mapping[str, str] = MappingProxyType({})
    groups: Sequence[int] = ()
    types: Sequence[int] = ()
    budget: Limits | None = None
    engine: str = "trap"
    seconds: float | None = None
    max_hits: int = 0


class Loaded(NamedTuple):
    """A program of the file ``path``, and what a daemon is sent of it."""

    path: str
    program: Program
    upload: messages.Upload


def parse_defines(pairs: Sequence[str]) -> dict[str, str]:
    """``NAME=VALUE`` (``NAME`` alone: 1) as a mapping; raises UserError."""
    defines = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not name.isidentifier():
            raise UserError(f"-D {pair}: write -D NAME=VALUE, with a name as in C")
        defines[name] = value if equals else "1"
    return defines


def load(path: str, defines: Mapping[str, str]) -> Program:
    """The verified program of a file, or of standard input (``-``): source, or compiled.

    Raises ProgramError.
    """
    from dprobe.lib.reading import read_source
    from dprobed.program.bytecode import MAGIC, MAX_FILE, decode
    from dprobed.program.model import Diagnostic, ProgramError
    from dprobed.program.rpn.parser import assemble, load_file

    if path != "-":
        return load_file(path, defines, read_source)
    data = sys.stdin.buffer.read(MAX_FILE + 1)
    if data.startswith(MAGIC):
        return decode(data, STDIN)
    try:
        return assemble(data.decode(), STDIN, defines)
    except UnicodeDecodeError as error:
        reason = f"cannot read the program: it is not UTF-8 text (byte {error.start})"
        raise ProgramError((Diagnostic(STDIN, 0, 0, reason),)) from error


def _label(path: str) -> str:
    """What a program is called: its file's name, which is never a number: that means another."""
    if path == "-":
        return "stdin"
    file = Path(path)
    label = readable(file.stem)
    if label.isdecimal():
        # /dev/fd/63 is what a shell makes of `<(…)`.
        of_shell = not file.suffix and file.parent.name == "fd"
        label = f"fd{label}" if of_shell else f"{label}{file.suffix or '.rpn'}"
    return label[:255]


def load_programs(paths: Sequence[str], choice: Choice) -> list[Loaded]:
    """The programs, assembled and verified here; raises UserError with all that is wrong."""
    # Imported late: a private daemon starts in the meantime.
    from dprobe.lib.reading import real
    from dprobed.program.bytecode import encode
    from dprobed.program.model import NothingSelectedError, ProgramError, limited, select
    from dprobed.wire import messages

    loaded = []
    errors = []
    seen: set[str] = set()
    for path in paths:
        file = real(path)
        if file in seen:
            errors.append(f"{path} is named twice; name each program once")
            continue
        seen.add(file)
        try:
            program = load(path, choice.defines)
            if choice.groups or choice.types:
                program = select(program, frozenset(choice.groups), frozenset(choice.types))
            program = limited(program, choice.max_hits)
            upload = messages.Upload(
                label=_label(path),
                bytecode=encode(program),
                budget=choice.budget,
                engine=choice.engine,
                seconds=choice.seconds,
            )
            loaded.append(Loaded(path, program, upload))
        except ProgramError as error:
            errors.append(str(error))
        except NothingSelectedError as error:
            errors.append(f"{path}: {error}")
        except OSError as error:
            errors.append(f"{path}: {os_error_text(error)}")
    if errors:
        raise UserError("\n".join(errors))
    return loaded
