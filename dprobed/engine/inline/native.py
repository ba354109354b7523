"""Native code of a probe's program."""

from __future__ import annotations

from typing import Final

from dprobed.program.exec import ir
from dprobed.program.exec.native.abi import Blob, Data
from dprobed.program.exits import ABORT, EXIT, REM

_MOST: Final = 1 << 12


def native_code(function: ir.Function) -> Blob | str:
    """The code of a function, or why there is none."""
    code = bytearray()
    if len(function.blocks) != 1:
        return "it has branches"
    (block,) = function.blocks
    for op in block.ops:
        if not isinstance(op, ir.AddToVariable) or not isinstance(op.index, int):
            return f"it has a {type(op).__name__}"
        if op.space is not ir.Space.LOCAL or op.index >= _MOST or op.number not in (1, -1):
            return "it has variables"
        code += bytes.fromhex("f048ff86" if op.number > 0 else "f048ff8e")  # lock inc, dec [rsi+]
        code += (Data.LOCALS + 8 * op.index).to_bytes(4, "little")
    end = block.end
    if not isinstance(end, ir.End) or end.exit not in (ABORT, EXIT, REM):
        return "it ends in another way"
    code += b"\x48\xc7\xc0" + end.exit.to_bytes(4, "little", signed=True) + b"\xc3"
    return Blob(bytes(code), 0, 0, 0, 0, 8, 0, 0, 0)
