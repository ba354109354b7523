"""From a script's text to its bundle: the passes, one after the other."""

from __future__ import annotations

from typing import Final

import msgspec

from dprobed.program import bytecode
from dprobed.program.bt import (
    bundle,
    functions_maps,
    functions_ours,
    functions_output,
    functions_texts,
    functions_values,
    tree,
)
from dprobed.program.bt.bundle import Bundle
from dprobed.program.bt.code_statements import Body, ProbeCode
from dprobed.program.bt.config import settings
from dprobed.program.bt.emitter import Emitter
from dprobed.program.bt.firing import Places, Target
from dprobed.program.bt.infer import Inference
from dprobed.program.bt.kinds import Integer, Kind, String, value_of
from dprobed.program.bt.loading import loaded
from dprobed.program.bt.options import Options
from dprobed.program.bt.source import Problems, Source, Span
from dprobed.program.bt.state import MapState, State
from dprobed.program.bt.type_table import TypeTable
from dprobed.program.bt.world import NoWorld, Typed, World
from dprobed.program.builder import Builder
from dprobed.program.exceptions import DEFAULT_EX_MASK, ExCode
from dprobed.program.isa import MAX_CODE, MAX_VARIABLES
from dprobed.program.maps import MAX_KEY_ITEMS, MAX_MAPS, MAX_SIZE, MapDefinition
from dprobed.program.model import ProgramError
from dprobed.program.verifier import MAX_PROBES

__all__ = ["Options", "compile_script"]

#: Functions are registered where they are defined.
_REGISTERED: Final = (
    functions_maps,
    functions_ours,
    functions_output,
    functions_texts,
    functions_values,
)
#: Looks at all probes until nothing changes: what is known of maps grows each time.
_MOST_ROUNDS: Final = 20
#: Jumps of a hit at most; what ends a program before is the budget of instructions.
_JUMPS: Final = 1 << 24
_MOST_LOG: Final = 1 << 16
#: Bytes of code of a program: less than is possible, as the builder adds some.
_MOST_CODE: Final = MAX_CODE - 4096
#: What does not fit into the log ends the program: what came behind it could not be read.
_EX_MASK: Final = DEFAULT_EX_MASK | ExCode.LOG_OVERFLOW


def compile_script(
    text: str, file: str, options: Options | None = None, world: World | None = None
) -> Bundle:
    """The bundle of a script; raises ProgramError with everything that is wrong with it."""
    return _Compiler(text, file, options or Options(), world or NoWorld()).compiled()


class _Made(msgspec.Struct):
    """A probe that was compiled: its code, and where it is."""

    target: Target
    emitter: Emitter
    span: Span
    entry: Emitter | None = None


class _Compiler:
    """One script on its way."""

    def __init__(self, text: str, file: str, options: Options, world: World) -> None:
        self._problems = Problems()
        self._world = world
        self._module = ""
        types = TypeTable(self._named_type)
        self._state = State(self._problems, types, options, world)
        self._source = Source(file, text)
        self._asked: dict[tuple[str, str], Typed | None] = {}

    def _named_type(self, name: str) -> Typed | None:
        """A type of debug information: of the module whose probe is looked at."""
        return self._world.named_type(self._module, name) if self._module else None

    def compiled(self) -> Bundle:
        """All of it."""
        state, problems = self._state, self._problems
        script = loaded(self._source, problems, state.types, self._world)
        state.config = settings(script.settings, problems, state.options.config)
        for declared in script.maps:
            known = state.map(declared.name, declared.span)
            known.size = max(1, min(declared.size, MAX_SIZE))
            known.declared = True
        if not script.probes and not problems.found:
            span = Span(self._source, 0, 0)
            problems.add(span, "the script has no probe", "write PLACE { … }")
        places = Places(state)
        fired: list[tuple[tree.Probe, Target]] = []
        for probe in script.probes:
            for place in probe.places:
                if place.parts[0] == "test":
                    continue
                fired += ((probe, target) for target in places.targets(place))
        self._infer(fired)
        problems.check()
        made, bodies, blocks = self._code(fired)
        problems.check()
        found = self._finished(made, bodies, blocks)
        problems.check()
        return found

    # -- passes ---------------------------------------------------------------------------------

    def _infer(self, fired: list[tuple[tree.Probe, Target]]) -> None:
        """What all maps are."""
        seen: dict[int, Target] = {}
        some = []
        for probe, target in fired:
            # One place of a wildcard is like the others.
            key = hash((id(probe), target.firing.kind, target.firing.module))
            if key not in seen or target.firing.function in ("",):
                seen[key] = target
                some.append((probe, target))
        before = len(self._problems.found)
        for _ in range(_MOST_ROUNDS):
            self._state.changed = False
            # What was wrong may only have been not known yet.
            self._problems.forget(before)
            for probe, target in some:
                self._module = target.firing.module
                Inference(self._state, target.firing).probe(probe)
            if not self._state.changed:
                break
        for known in self._state.maps.values():
            self._settle(known)

    def _settle(self, known: MapState) -> None:
        """What is only counted up, in whatever module, is a count."""
        if known.kind == "value" and known.steps and not known.other:
            known.kind = "count"
        if known.kind is None:
            if known.in_hits or known.in_blocks or known.declared:
                known.kind = "value"
            else:
                self._problems.add(
                    known.span,
                    f"nothing is ever put into {known.name}",
                    f"write {known.name} = count() or {known.name}++",
                )
                return
        if known.is_value and len(known.value_modules) > 1:
            modules = list(known.value_modules)
            self._problems.add(
                known.value_modules[modules[1]],
                f"{known.name} is read or set in {modules[0]} and in {modules[1]}: what is read "
                "belongs to one module's program so far",
                "count or add up in it (count(), sum()…), or probe one module",
            )

    def _code(
        self, fired: list[tuple[tree.Probe, Target]]
    ) -> tuple[list[_Made], list[Body], list[_Made]]:
        """The code of all probes: at places, of loops' bodies, of blocks."""
        state = self._state
        places: list[_Made] = []
        bodies: list[Body] = []
        blocks: list[_Made] = []
        for probe, target in fired:
            firing = target.firing
            self._module = firing.module
            inference = Inference(state, firing)
            inference.probe(probe)
            if self._problems.found:
                continue
            to = Emitter() if firing.hit else Emitter(locals_from=0)
            code = ProbeCode(state, firing, inference, to, bodies)
            code.probe(probe)
            made = _Made(target, to, probe.span)
            if firing.keeps:
                made.entry = self._entry(firing.keeps, probe.span)
            (places if firing.hit else blocks).append(made)
        return places, bodies, blocks

    def _entry(self, keeps: list[object], span: Span) -> Emitter:
        """The entry part of a return probe."""
        to = Emitter()
        to.at = span.place
        for number, what in enumerate(keeps):
            if isinstance(what, int):
                to.add("push a,argument", what)
            else:
                to.add("push time")
            to.add("pop e,kept", number)
        return to

    # -- programs -------------------------------------------------------------------------------

    def _finished(self, made: list[_Made], bodies: list[Body], blocks: list[_Made]) -> Bundle:
        state = self._state
        for known in state.maps.values():
            if known.is_value and len(known.parts) > 1:
                self._problems.add(
                    known.span,
                    f"the keys of {known.name} are constant texts here and texts of the process "
                    "there, which it does not know to be the same",
                    "count or add up in it (count(), sum()…), or write its keys in one way",
                )
        modules: dict[str, list[_Made]] = {}
        for one in made:
            modules.setdefault(one.target.firing.module, []).append(one)
        programs = tuple(
            self._program(name, part)
            for name, each in modules.items()
            for part in self._parts(each)
        )
        code, listed = self._blocks(blocks, bodies)
        first_body = len(blocks)
        actions = tuple(
            bundle.ForEach(one.map, first_body - 1 - one.body)
            if isinstance(one, bundle.ForEach)
            else one
            for one in state.actions
        )
        return Bundle(
            programs=programs,
            code=code,
            blocks=listed,
            maps=tuple(self._map(known) for known in state.maps.values()),
            actions=actions,
            strings=tuple(state.strings),
            types=tuple(state.types.entries),
            unsafe=state.unsafe,
            alters=state.alters,
            config=state.config,
            warnings=tuple(self._problems.warnings),
        )

    def _parts(self, made: list[_Made]) -> list[list[_Made]]:
        """The probes of a module, in as many programs as their code needs; where they share a
        value, in one."""
        values = {
            part
            for known in self._state.maps.values()
            if known.is_value
            for part in known.parts.values()
        }
        parts: list[list[_Made]] = [[]]
        room = _MOST_CODE
        for one in made:
            size = one.emitter.size + (one.entry.size if one.entry else 0)
            if parts[-1] and (size > room or len(parts[-1]) >= MAX_PROBES):
                parts.append([])
                room = _MOST_CODE
            parts[-1].append(one)
            room -= size
        shared = any(op.operand in values for one in made for op in one.emitter.ops)
        return [made] if shared else parts

    def _definitions(self, used: set[str], span: Span) -> tuple[MapDefinition, ...]:
        """The maps of a program."""
        found = []
        for known in self._state.maps.values():
            for form, name in known.parts.items():
                if name not in used:
                    continue
                if len(form) > MAX_KEY_ITEMS:
                    self._problems.add(
                        known.span, f"a key has {MAX_KEY_ITEMS} items at most, not {len(form)}"
                    )
                kind = known.kind or "value"
                signed = kind != "count" and (
                    known.signed
                    if kind != "value"
                    else isinstance(known.value_kind, Integer) and known.value_kind.signed
                )
                found.append(
                    MapDefinition(name, kind, known.arguments, len(form), known.size, signed)
                )
        if len(found) > MAX_MAPS:
            self._problems.add(span, f"{len(found)} maps; {MAX_MAPS} are possible in a program")
            return ()
        return tuple(found)

    def _program(self, module: str, made: list[_Made]) -> bundle.ModuleProgram:
        used = {
            str(op.operand)
            for one in made
            for op in one.emitter.ops
            if op.key.endswith(" map") and op.key[0] == "m"
        }
        span = made[0].span
        builder = Builder(
            name=module,
            map=self._definitions(used, span),
            jmpmax=_JUMPS,
            logmax=max(_log_bytes(one.emitter, self._state.max_string) for one in made),
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

    def _built(self, builder: Builder, span: Span) -> bytes:
        if self._problems.found:
            return b""
        program = builder.program()
        if len(program.code) > MAX_CODE:
            self._problems.add(
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
                self._problems.add(span, f"this cannot be compiled: {one.message}", one.hint)
            return b""
        return bytecode.encode(program)

    def _blocks(
        self, blocks: list[_Made], bodies: list[Body]
    ) -> tuple[bytes, tuple[bundle.Block, ...]]:
        """The program of the blocks; bodies come behind those that something fires."""
        if not blocks:
            return b"", ()
        emitters = [one.emitter for one in blocks] + [one.emitter for one in bodies]
        used = {
            str(op.operand)
            for each in emitters
            for op in each.ops
            if op.key.endswith(" map") and op.key[0] == "m"
        }
        span = blocks[0].span
        local = max(each.slots for each in emitters)
        if local > MAX_VARIABLES:
            self._problems.add(
                span, f"{local} words of variables in blocks; {MAX_VARIABLES} are possible"
            )
            return b"", ()
        builder = Builder(
            name="script",
            map=self._definitions(used, span),
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

    def _map(self, known: MapState) -> bundle.Map:
        types = self._state.types
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
            isinstance(known.value_kind, String),
            bool(self._state.config.get("print_maps_on_exit", 1)),
            known.set_in_blocks,
            known.in_hits,
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
        elif op.key.startswith("log ustack"):
            total += 4096
        elif op.key == "log count" and isinstance(op.operand, int):
            total += 8 * op.operand
    return max(1024, min(total, _MOST_LOG))
