"""The parts of probes, and what each may do: where arguments are there, and what a return keeps.

An ordinary probe is one part. A return probe may have two: the *entry part* runs when the function
is entered, keeps words for the return and reports nothing; the *return part* runs when that call is
left, where the arguments are gone. What a part calls belongs to it as well.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from dprobed.program.decoded import Decoded, FlowFinding, decoded_code
from dprobed.program.isa import Instruction, Operand
from dprobed.program.keywords import no_entry
from dprobed.program.model import ProbeDefinition, Program

_ARGUMENTS = (Operand.ARGUMENT, Operand.FLOAT)


def part_findings(program: Program, code: Sequence[Decoded]) -> list[FlowFinding]:
    """Instructions that are reached from a part of a probe which cannot have them."""
    at = {decoded.offset: decoded for decoded in code}
    found: dict[int, FlowFinding] = {}
    for probe in program.probes:
        for start in sorted({probe.entry, probe.start}):
            entry_part = start < probe.split
            for decoded in _reached(at, start):
                wrong = None if decoded.broken else _wrong(decoded.instruction, probe, entry_part)
                if wrong is not None:
                    found.setdefault(decoded.offset, FlowFinding(decoded.offset, *wrong))
    return [found[offset] for offset in sorted(found)]


class Needs(NamedTuple):
    """What a probe needs of its place.

    ``entry``: that a function begins there: the probe waits for the return, or it asks for
    arguments, which are where they are only there. ``arguments``: so many of a static probe.
    """

    entry: bool = False
    arguments: int = 0


def needs_of(program: Program, probe: ProbeDefinition) -> Needs:
    """What a probe needs of its place."""
    if probe.is_static:
        at = {decoded.offset: decoded for decoded in decoded_code(program.code)}
        asked = (
            decoded.operands[0] + 1
            for decoded in _reached(at, probe.entry)
            if decoded.instruction.operands[:1] == (Operand.ARGUMENT,)
        )
        return Needs(arguments=max(asked, default=0))
    return Needs(probe.returns or _takes_arguments(program, probe))


def _takes_arguments(program: Program, probe: ProbeDefinition) -> bool:
    return any(
        instruction.operands[:1] and instruction.operands[0] in _ARGUMENTS
        for _, instruction, _ in program.instructions(probe)
    )


def _reached(at: Mapping[int, Decoded], start: int) -> Iterator[Decoded]:
    """The instructions that can run from a code offset on, those that are called included."""
    seen = set()
    waiting = [start]
    while waiting:
        offset = waiting.pop()
        decoded = at.get(offset)
        if decoded is None or offset in seen:
            continue
        seen.add(offset)
        yield decoded
        waiting.extend(decoded.next_in_frame())
        if decoded.called is not None:
            waiting.append(decoded.called)


def _wrong(
    instruction: Instruction, probe: ProbeDefinition, entry_part: bool
) -> tuple[str, str] | None:
    """Message and hint where an instruction cannot be in this part of a probe."""
    written = f"`{instruction.spelling}`"
    kind = instruction.operands[0] if instruction.operands else None
    if kind in _ARGUMENTS:
        if probe.returns and not entry_part:
            hint = "keep it in the entry part by `pop e,0`, and `push e,0` here"
            return f"{written} at the return: the arguments are gone", hint
        if probe.is_static:
            hint = "`push a` gives each of a static probe's arguments"
            return None if kind is Operand.ARGUMENT else (f"{written} at a static probe", hint)
        if probe.watchpoint is not None:
            return f"{written} at a watchpoint, which is no function's entry", "push a register"
        place = probe.offset or probe.address or ""
        if no_entry(place):
            hint = "push a register, or place the probe at the function"
            return f"{written} at `{place}`, which is no function's entry", hint
    elif kind is Operand.KEPT:
        if not probe.returns:
            return f"{written} in a probe that keeps nothing for a return", "write at = return"
        if instruction.pops and not entry_part:
            hint = "what stands between `entry:` and `return:` runs at the entry"
            return f"{written} at the return, when nothing is kept any more", hint
    elif entry_part and _reports(instruction):
        hint = "keep it by `pop e,0`, and report it at the return"
        return f"{written} in an entry part, which reports nothing", hint
    return None


def _reports(instruction: Instruction) -> bool:
    """Whether an instruction is about the record, or about what becomes of the probe or thread."""
    return (
        instruction.group == "log"
        or instruction.holds
        or instruction.name in ("rem", "log st")
        or Operand.FACILITY in instruction.operands
    )
