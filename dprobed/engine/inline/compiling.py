"""Has units compiled to native code, in a process that ends with that.

LLVM takes 60 MB, and 0.1 s to import: nothing for a tracer, which is to have its targets' stops
served. What was compiled once is kept.
"""

from __future__ import annotations

import os
from functools import lru_cache
from typing import Final

import msgspec

from dprobed.program.exec.lowering import Unit
from dprobed.program.exec.native.abi import Blob
from dprobed.program.exec.native.refusals import why_not

_answer: Final = msgspec.msgpack.Decoder(Blob | str)


@lru_cache(maxsize=1024)
def compiled(unit: Unit) -> Blob | str:
    """The native code of a unit, or why there is none."""
    refused = why_not(unit)
    if refused is not None:
        return str(refused)
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        _answer_and_end(unit, writing)
    os.close(writing)
    with open(reading, "rb") as pipe:
        answer = pipe.read()
    os.waitpid(child, 0)
    if not answer:
        return "the compiler died of it"
    found: Blob | str = _answer.decode(answer)
    return found


def _answer_and_end(unit: Unit, writing: int) -> None:
    try:
        try:
            from dprobed.program.exec.native.compiler import compile_unit
        except ImportError:
            found: Blob | str = "llvmlite is not installed, which makes native code"
        else:
            try:
                found = compile_unit(unit)
            except Exception as error:
                found = f"it cannot be compiled: {error}"
        data = msgspec.msgpack.encode(found)
        while data:
            data = data[os.write(writing, data) :]
    finally:
        os._exit(0)
