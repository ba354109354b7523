"""From a script's text to its bundle: the passes, one after the other."""

from __future__ import annotations

from typing import Final

from dprobed.program.bt import (
    bundle,
    functions_log,
    functions_maps,
    functions_ours,
    functions_output,
    functions_texts,
    functions_values,
    tree,
)
from dprobed.program.bt.bundle import Bundle
from dprobed.program.bt.code_blocks import Body
from dprobed.program.bt.code_statements import ProbeCode
from dprobed.program.bt.config import settings
from dprobed.program.bt.emitter import Emitter
from dprobed.program.bt.firing import FiredPlace, PlaceFinder
from dprobed.program.bt.functions import FUNCTIONS
from dprobed.program.bt.infer import Inference
from dprobed.program.bt.loading import loaded
from dprobed.program.bt.options import Options
from dprobed.program.bt.programs import Made, ProgramMaker
from dprobed.program.bt.source import Problems, SourceText, TextSpan, too_deep
from dprobed.program.bt.state import MapState, ScriptState
from dprobed.program.bt.type_table import TypeTable
from dprobed.program.bt.world import NoWorld, Typed, World
from dprobed.program.maps import MAX_SIZE
from dprobed.program.model import ProgramError

__all__ = ["FUNCTIONS", "Options", "compile_script"]

#: Functions are registered where they are defined.
REGISTERED: Final = (
    functions_log,
    functions_maps,
    functions_ours,
    functions_output,
    functions_texts,
    functions_values,
)
#: Looks at all probes until nothing changes: what is known of maps grows each time.
_MOST_ROUNDS: Final = 20


def compile_script(
    text: str, file: str, options: Options | None = None, world: World | None = None
) -> Bundle:
    """The bundle of a script; raises ProgramError with everything that is wrong with it."""
    try:
        return _Compiler(text, file, options or Options(), world or NoWorld()).compiled()
    except RecursionError:
        raise ProgramError((too_deep(file),)) from None


class _Compiler:
    """One script on its way."""

    def __init__(self, text: str, file: str, options: Options, world: World) -> None:
        self._problems = Problems()
        self._world = world
        self._module = ""
        #: How many watchpoints there are whose address a hit tells.
        self._watches = 0
        types = TypeTable(self._named_type)
        self._state = ScriptState(self._problems, types, options, world)
        self._source = SourceText(file, text)

    def _named_type(self, name: str) -> Typed | None:
        """A type of debug information: of the module whose probe is looked at."""
        return self._world.named_type(self._module, name) if self._module else None

    def compiled(self) -> Bundle:
        """All of it."""
        state, problems = self._state, self._problems
        script = loaded(self._source, problems, state.types, self._world, state.options)
        state.config = settings(script.settings, problems, state.options.config)
        for declared in script.maps:
            known = state.map(declared.name, declared.span)
            known.size = max(1, min(declared.size, MAX_SIZE))
            known.declared = True
        if not script.probes and not problems.found:
            span = TextSpan(self._source, 0, 0)
            problems.add(span, "the script has no probe", "write PLACE { … }")
        places = PlaceFinder(state)
        fired: list[tuple[tree.Probe, FiredPlace]] = []
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

    def _infer(self, fired: list[tuple[tree.Probe, FiredPlace]]) -> None:
        """What all maps are."""
        seen: dict[int, FiredPlace] = {}
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
        if known.kind == "value" and known.steps and known.in_hits and not known.other:
            known.kind, known.signed = "count", True
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
        self, fired: list[tuple[tree.Probe, FiredPlace]]
    ) -> tuple[list[Made], list[Body], list[Made]]:
        """The code of all probes: at places, of loops' bodies, of blocks."""
        state = self._state
        places: list[Made] = []
        bodies: list[Body] = []
        blocks: list[Made] = []
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
            made = Made(target, to, probe.span)
            if target.armed is not None:
                places.append(self._arming(*target.armed, probe.span))
            if firing.keeps:
                made.entry = self._entry(firing.keeps, probe.span)
            (places if firing.hit else blocks).append(made)
        return places, bodies, blocks

    def _arming(self, entered: FiredPlace, argument: int, span: TextSpan) -> Made:
        """The entry of a function that has the address to be watched in an argument."""
        to = Emitter()
        to.at = span.place
        number = self._state.action(bundle.Watch(self._watches))
        self._watches += 1
        to.add("push a,argument", argument)
        to.push(number)
        to.add("log count", 2)
        to.add("exit")
        return Made(entered, to, span)

    def _entry(self, keeps: list[object], span: TextSpan) -> Emitter:
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

    def _finished(self, made: list[Made], bodies: list[Body], blocks: list[Made]) -> Bundle:
        state = self._state
        maker = ProgramMaker(state, self._problems)
        for known in state.maps.values():
            if known.is_value and len(known.parts) > 1:
                self._problems.add(
                    known.span,
                    f"the keys of {known.name} are constant texts here and texts of the process "
                    "there, which it does not know to be the same",
                    "count or add up in it (count(), sum()…), or write its keys in one way",
                )
        modules: dict[str, list[Made]] = {}
        watches = [one for one in made if one.target.armed is not None]
        for one in made:
            if one.target.armed is None:
                modules.setdefault(one.target.firing.module, []).append(one)
        programs = tuple(
            maker.program(name, part)
            for name, each in modules.items()
            for part in maker.parts(each)
        )
        code, listed = maker.blocks(blocks, bodies)
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
            maps=tuple(maker.map(known) for known in state.maps.values()),
            actions=actions,
            strings=tuple(state.strings),
            types=tuple(state.types.entries),
            unsafe=state.unsafe,
            config=state.config,
            warnings=tuple(self._problems.warnings),
            watches=tuple(maker.program(one.target.firing.module, [one]) for one in watches),
        )
