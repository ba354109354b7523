"""Puts the code of probes together: programs of modules, and that of the blocks."""

from __future__ import annotations

from typing import Final

import msgspec

from dprobed.program import bytecode
from dprobed.program.bt import bundle
from dprobed.program.bt.code_blocks import Body
from dprobed.program.bt.emitter import Emitter
from dprobed.program.bt.firing import FiredPlace
from dprobed.program.bt.kernel_places import header_of
from dprobed.program.bt.kinds import Integer, Kind, value_of, words
from dprobed.program.bt.source import Problems, TextSpan
from dprobed.program.bt.state import MapState, ScriptState
from dprobed.program.builder import Builder
from dprobed.program.exceptions import DEFAULT_EX_MASK, ExCode
from dprobed.program.isa import MAX_CODE, MAX_VARIABLES
from dprobed.program.maps import MAX_KEY_ITEMS, MAX_MAPS, MapDefinition
from dprobed.program.model import ProgramError
from dprobed.program.verifier import MAX_PROBES

#: Jumps of a hit at most; what ends a program before is the budget of instructions.
_JUMPS: Final = 1 << 24
_MOST_LOG: Final = 1 << 16
#: Bytes of code of a program: less than is possible, as the builder adds some.
_MOST_CODE: Final = MAX_CODE - 4096
#: What does not fit into the log ends the program: what came behind it could not be read.
_EX_MASK: Final = DEFAULT_EX_MASK | ExCode.LOG_OVERFLOW


class Made(msgspec.Struct):
    """A probe that was compiled: its code, and where it is."""

    target: FiredPlace
    emitter: Emitter
    span: TextSpan
    entry: Emitter | None = None


class ProgramMaker:
    """Makes programs of what was compiled."""

    def __init__(self, state: ScriptState, problems: Problems) -> None:
        self.state = state
        self.problems = problems

    def parts(self, made: list[Made]) -> list[list[Made]]:
        """The probes of a module, in as many programs as their code needs; where they share a
        value, in one."""
        values = {
            part
            for known in self.state.maps.values()
            if known.is_value
            for part in known.parts.values()
        }
        parts: list[list[Made]] = [[]]
        room, maps = _MOST_CODE, set[str]()
        for one in made:
            size = one.emitter.size + (one.entry.size if one.entry else 0)
            maps |= one.emitter.maps
            full = size > room or len(parts[-1]) >= MAX_PROBES or len(maps) > MAX_MAPS
            if parts[-1] and full:
                parts.append([])
                room, maps = _MOST_CODE, one.emitter.maps
            parts[-1].append(one)
            room -= size
        shared = any(op.operand in values for one in made for op in one.emitter.ops)
        return [made] if shared else parts

    def _definitions(self, used: set[str]) -> tuple[MapDefinition, ...]:
        """The maps of a program."""
        found = []
        for known in self.state.maps.values():
            for form, name in known.parts.items():
                if name not in used:
                    continue
                if len(form) > MAX_KEY_ITEMS:
                    self.problems.add(
                        known.span, f"a key has {MAX_KEY_ITEMS} items at most, not {len(form)}"
                    )
                kind = known.kind or "value"
                signed = kind != "count" and (
                    known.signed
                    if kind != "value"
                    else isinstance(known.value_kind, Integer) and known.value_kind.signed
                )
                arguments = known.arguments
                if known.timed:
                    arguments = (words(known.value_kind) + 1, 1)
                elif known.is_value and words(known.value_kind) > 1:
                    arguments = (words(known.value_kind),)
                found.append(MapDefinition(name, kind, arguments, len(form), known.size, signed))
        return tuple(found)

    def _fits(self, used: set[str], span: TextSpan, what: str) -> bool:
        """Whether a program can have so many maps; said if not."""
        if len(used) <= MAX_MAPS:
            return True
        written = {
            known.name for known in self.state.maps.values() if used & set(known.parts.values())
        }
        more = "" if len(written) == len(used) else " (one for each way in which keys are written)"
        self.problems.add(
            span,
            f"{what} {len(used)} maps{more}; {MAX_MAPS} are possible",
            "use one map with a name as the first item of its key, or write a script for each part",
        )
        return False

    def program(self, module: str, made: list[Made]) -> bundle.ModuleProgram:
        """The program of a module's probes."""
        used = set[str]().union(*(one.emitter.maps for one in made))
        span = made[0].span
        what = "this uses" if len(made) == 1 else "these probes, which share values, use"
        if not self._fits(used, span, what):
            return bundle.ModuleProgram(b"", ())
        builder = Builder(
            **(header_of(module) or {"name": module}),
            map=self._definitions(used),
            jmpmax=_JUMPS,
            logmax=max(_log_bytes(one.emitter, self.state.max_string) for one in made),
            name_at=span.place,
        )
        for number, one in enumerate(made, 1):
            builder.probe(
                placed_at=one.span.place,
                minor=min(number, 0xFFFF),
                ex_mask=_EX_MASK,
                **one.target.keywords,
            )
            if one.entry is not None:
                one.entry.write(builder)
                builder.split_probe()
            one.emitter.write(builder)
        code = self._built(builder, span)
        return bundle.ModuleProgram(
            code,
            tuple(one.target.firing.name for one in made),
            any(one.target.firing.short for one in made),
        )

    def _built(self, builder: Builder, span: TextSpan) -> bytes:
        if self.problems.found:
            return b""
        program = builder.program()
        if len(program.code) > MAX_CODE:
            self.problems.add(
                span,
                f"the code of this module's probes has {len(program.code)} bytes; "
                f"{MAX_CODE} are possible",
                "write less, or probe fewer places",
            )
            return b""
        try:
            program = builder.build()
        except ProgramError as error:
            for one in error.diagnostics[:3]:
                self.problems.add(span, f"this cannot be compiled: {one.message}", one.hint)
            return b""
        return bytecode.encode(program)

    def blocks(
        self, blocks: list[Made], bodies: list[Body]
    ) -> tuple[bytes, tuple[bundle.Block, ...]]:
        """The program of the blocks; bodies come behind those that something fires."""
        if not blocks:
            return b"", ()
        emitters = [one.emitter for one in blocks] + [one.emitter for one in bodies]
        used = set[str]().union(*(each.maps for each in emitters))
        span = blocks[0].span
        if not self._fits(used, span, "the blocks use"):
            return b"", ()
        local = max(each.slots for each in emitters)
        if local > MAX_VARIABLES:
            self.problems.add(
                span, f"{local} words of variables in blocks; {MAX_VARIABLES} are possible"
            )
            return b"", ()
        builder = Builder(
            name="script",
            map=self._definitions(used),
            jmpmax=_JUMPS,
            logmax=_MOST_LOG,
            vars=local,
            name_at=span.place,
        )
        listed: list[bundle.Block] = []
        for one in blocks:
            builder.probe(
                offset=f"usdt:script:block{len(listed)}", placed_at=one.span.place, ex_mask=_EX_MASK
            )
            one.emitter.write(builder)
            firing = one.target.firing
            kind = "signal" if firing.kind == "self" else firing.kind
            listed.append(
                bundle.Block(kind, len(listed), one.target.period, one.target.signal, firing.name)
            )
        for body in bodies:
            builder.probe(
                offset=f"usdt:script:block{len(listed)}", placed_at=span.place, ex_mask=_EX_MASK
            )
            body.emitter.write(builder)
            listed.append(bundle.Block("body", len(listed), arguments=body.arguments))
        return self._built(builder, span), tuple(listed)

    def map(self, known: MapState) -> bundle.Map:
        """What is said of a map of the script."""
        types = self.state.types
        value: Kind = known.value_kind if known.is_value else Integer(8, known.signed)
        return bundle.Map(
            known.name,
            known.kind or "value",
            tuple(
                bundle.Part(name, tuple(item == "constant" for item in form))
                for form, name in known.parts.items()
            ),
            tuple(value_of(types, each) for each in known.keys or ()),
            value_of(types, value),
            known.arguments,
            bool(self.state.config.get("print_maps_on_exit", 1)),
            known.set_in_blocks,
            known.in_hits,
            known.timed,
        )


def _log_bytes(emitter: Emitter, most: int) -> int:
    """Bytes that a hit may log: all there is if it goes round."""
    total = 64
    placed = set()
    for op in emitter.ops:
        if not op.key:
            placed.add(id(op.operand))
        elif op.key == "jmp label" and id(op.operand) in placed and emitter.logs:
            return _MOST_LOG
        elif op.key in ("log str", "log mrf"):
            total += most + 16
        elif op.key.startswith(("log ustack", "log kstack")):
            total += 4096
        elif op.key == "log count" and isinstance(op.operand, int):
            total += 8 * op.operand
    return max(1024, min(total, _MOST_LOG))
