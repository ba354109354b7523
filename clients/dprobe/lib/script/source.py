"""Scripts from their text to what a daemon is sent."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from dprobe.lib.errors import UserError, os_error_text
from dprobe.lib.programs import Choice, Loaded
from dprobe.lib.reading import read_source
from dprobe.lib.script.world import MOST_TEXT, module_path
from dprobed.printable import readable
from dprobed.program.bt.bundle import Bundle, BundleError
from dprobed.program.bt.bundle import decode as decode_bundle
from dprobed.program.bt.compiler import Options, compile_script
from dprobed.program.bt.world import World
from dprobed.program.bytecode import decode, encode
from dprobed.program.model import ProgramError, limited
from dprobed.program.rpn.preprocessor import SourceError
from dprobed.wire import messages

#: What a script of the command line is called in messages.
COMMAND_LINE: Final = "stdin"
#: The ending of a script's file.
SUFFIX: Final = ".bt"


#: That of a compiled one.
COMPILED: Final = ".btb"


class Script(msgspec.Struct, frozen=True):
    """A script's text. ``file``: where it is from; ``arguments``: what it is given. ``bundle``: it
    is compiled already, with the arguments that it was given then. ``includes``, ``folders``: as
    ``Options`` has them, and ``redacted``. ``label``: what its programs are called, if not as the
    file."""

    text: str
    file: str
    arguments: tuple[str, ...] = ()
    bundle: Bundle | None = None
    includes: tuple[str, ...] = ()
    folders: tuple[str, ...] = ()
    redacted: tuple[str, ...] = ()
    label: str = ""


def read(path: str, arguments: Sequence[str] = ()) -> Script:
    """A script's file (``-``: standard input); raises UserError."""
    try:
        data = (
            sys.stdin.buffer.read(MOST_TEXT + 1)
            if path == "-"
            else read_source(Path(path), MOST_TEXT + 1)
        )
        if path.endswith(COMPILED):
            return _decoded(path, data, arguments)
        text = data.decode()
    except OSError as error:
        raise UserError(f"{path}: {os_error_text(error)}") from None
    except SourceError as error:
        raise UserError(f"{path}: {error}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: it is not UTF-8 text (byte {error.start})") from None
    if len(data) > MOST_TEXT:
        raise UserError(f"{path}: a script has at most {MOST_TEXT >> 10} KiB")
    return Script(text, COMMAND_LINE if path == "-" else path, tuple(arguments))


def _decoded(path: str, data: bytes, arguments: Sequence[str]) -> Script:
    if arguments:
        raise UserError(f"{path}: it was compiled with its arguments, and takes no others")
    try:
        return Script("", path, (), decode_bundle(data))
    except BundleError as error:
        raise UserError(f"{path}: {error}") from None


def compiled(script: Script, world: World, *, child: int = 0, unsafe: bool = False) -> Bundle:
    """The bundle of a script; raises UserError with all that is wrong with it."""
    if script.bundle is not None and script.bundle.unsafe and not unsafe:
        raise UserError(f"{script.file}: it runs commands; say --unsafe if you mean it")
    try:
        return bundle_of(script, world, child=child, unsafe=unsafe)
    except ProgramError as error:
        raise UserError(str(error)) from None


def bundle_of(script: Script, world: World, *, child: int = 0, unsafe: bool = True) -> Bundle:
    """As ``compiled``; raises ProgramError."""
    if script.bundle is not None:
        return script.bundle
    options = Options(
        arguments=script.arguments,
        started=time.monotonic_ns(),
        child=child,
        cpus=os.cpu_count() or 1,
        unsafe=unsafe,
        config=_settings(),
        includes=script.includes,
        folders=script.folders,
        redacted=script.redacted,
    )
    return compile_script(script.text, script.file, options, world)


def _settings() -> dict[str, str]:
    """What the environment sets of a script's configuration (``BPFTRACE_MAX_STRLEN``)."""
    begins = "BPFTRACE_"
    return {
        name.removeprefix(begins).lower(): value
        for name, value in os.environ.items()
        if name.startswith(begins)
    }


def watching(
    bundle: Bundle, script: Script, choice: Choice, executable: str, number: int, address: int
) -> messages.Upload:
    """One of the bundle's watchpoints, at an address of a process; raises UserError."""
    (one,) = loaded(
        msgspec.structs.replace(bundle, programs=(bundle.watches[number],)),
        script,
        choice,
        executable,
    )
    (probe,) = one.program.probes
    length = (probe.address or "").partition(":")[2]
    placed = msgspec.structs.replace(probe, address=f"{address:#x}:{length}")
    program = msgspec.structs.replace(one.program, probes=(placed,))
    return msgspec.structs.replace(one.upload, bytecode=encode(program))


def loaded(bundle: Bundle, script: Script, choice: Choice, executable: str = "") -> list[Loaded]:
    """Its programs, ready to be sent. ``executable``: the file that a place without a module is
    in, where the targets execute one."""
    found = []
    for each in bundle.programs:
        program = limited(decode(each.code, script.file), choice.max_hits)
        name = program.header.name
        if not program.header.kernel:
            name = module_path(name) if name else executable
        if not name:
            raise UserError(
                f"{script.file}: no module is known for {', '.join(each.probes)}; "
                "write it (uprobe:MODULE:FUNCTION)"
            )
        header = msgspec.structs.replace(program.header, name=name)
        program = msgspec.structs.replace(program, header=header)
        upload = messages.Upload(
            label=label(script),
            bytecode=encode(program),
            budget=choice.budget,
            engine=choice.engine,
            seconds=choice.seconds,
        )
        found.append(Loaded(script.file, program, upload))
    return found


def label(script: Script) -> str:
    """What its programs are called."""
    if script.label:
        return readable(script.label)[:255]
    if script.file == COMMAND_LINE:
        return "script"
    name = script.file.rpartition("/")[2].removesuffix(COMPILED).removesuffix(SUFFIX)
    return readable(name)[:255] or "script"
