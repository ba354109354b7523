"""Whether the code in a target's memory is that of the file which it maps there."""

from __future__ import annotations

from dprobed.arch.x86_64.breakpoint import INT3
from dprobed.arch.x86_64.relocation import RelocationError, instruction_length
from dprobed.engine.interface import Location


def code_difference(location: Location, found: bytes) -> str:
    """How what is ``found`` in memory differs from what is in the file; empty: it does not.

    Its instruction is what has to be the same: programs patch what is around (tracing sleds).
    """
    code = location.code
    if found.startswith(INT3):  # for which the engine has a reason of its own
        return ""
    try:
        length = instruction_length(found, location.address)
    except RelocationError:
        length = len(code)
    if found[:length] == code[:length] or len(location.opcode) >= length:
        return ""
    there = found[:length].hex(" ") or "nothing"
    return (
        f"the file has {code[:length].hex(' ')} there, memory {there}: the process, or another "
        "tool, changed its code; give the whole instruction that is there with 'opcode ='"
    )
