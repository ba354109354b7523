"""The probe language: from source text to a verified program, and from a program to a result.

Everything outside of this package imports from here only. Names are loaded when they are first
used, so that a client that only asks for a version does not pay for the assembler. (No module is
named as a function is: importing it would put it in the function's place.)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dprobed.program.assembler import assemble, load_file
    from dprobed.program.bytecode import decode, encode
    from dprobed.program.context import Context, MemoryFault
    from dprobed.program.disassembler import disassemble
    from dprobed.program.interpreter import Executor
    from dprobed.program.log import decode_log
    from dprobed.program.model import (
        Diagnostic,
        Header,
        NothingSelectedError,
        ProbeDefinition,
        Program,
        ProgramError,
        select,
    )
    from dprobed.program.outcome import ABORT, BUDGET, EXCEPTION, REM, Outcome
    from dprobed.program.verifier import verify

_HOME = {
    "ABORT": "outcome",
    "BUDGET": "outcome",
    "Context": "context",
    "Diagnostic": "model",
    "EXCEPTION": "outcome",
    "Executor": "interpreter",
    "Header": "model",
    "MemoryFault": "context",
    "NothingSelectedError": "model",
    "Outcome": "outcome",
    "ProbeDefinition": "model",
    "Program": "model",
    "ProgramError": "model",
    "REM": "outcome",
    "assemble": "assembler",
    "decode": "bytecode",
    "decode_log": "log",
    "disassemble": "disassembler",
    "encode": "bytecode",
    "load_file": "assembler",
    "select": "model",
    "verify": "verifier",
}

__all__ = [
    "ABORT",
    "BUDGET",
    "EXCEPTION",
    "REM",
    "Context",
    "Diagnostic",
    "Executor",
    "Header",
    "MemoryFault",
    "NothingSelectedError",
    "Outcome",
    "ProbeDefinition",
    "Program",
    "ProgramError",
    "assemble",
    "decode",
    "decode_log",
    "disassemble",
    "encode",
    "load_file",
    "select",
    "verify",
]


def __getattr__(name: str) -> object:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(importlib.import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value
