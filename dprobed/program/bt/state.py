"""What the passes over one script share."""

from __future__ import annotations

from typing import Any

import msgspec

from dprobed.program.bt import bundle
from dprobed.program.bt.kinds import INT64, Form, Kind, String
from dprobed.program.bt.options import Options
from dprobed.program.bt.source import Problems, TextSpan
from dprobed.program.bt.text_bytes import decoded, encoded, up_to_nul
from dprobed.program.bt.type_table import TypeTable
from dprobed.program.bt.world import Parameter, ProgramVariable, Typed, World

#: Kinds of maps that add up what they are given, by the function that does it.
AGGREGATES = ("count", "sum", "min", "max", "avg", "stats", "hist", "lhist", "tseries")


class MapState(msgspec.Struct, eq=False):
    """What is known of a map.

    ``kind``: of ``program.maps``, None: not yet. ``steps``, ``other``: whether it is only ever
    counted up, or also read or set: what is only counted up is a ``count``. ``parts``: which of the
    keys are constants, for each way in which keys are written, and the name of its map.
    """

    name: str
    span: TextSpan
    kind: str | None = None
    arguments: tuple[int, ...] = ()
    keys: tuple[Kind, ...] | None = None
    value: Kind | None = None
    signed: bool = False
    size: int = 4096
    steps: bool = False
    other: bool = False
    in_blocks: bool = False
    set_in_blocks: bool = False
    in_hits: bool = False
    value_modules: dict[str, TextSpan] = msgspec.field(default_factory=dict)
    parts: dict[tuple[str, ...], str] = msgspec.field(default_factory=dict)
    number: int = 0
    #: Declared at the top, and maybe nowhere used.
    declared: bool = False

    @property
    def value_kind(self) -> Kind:
        """The kind of what a ``value`` map has."""
        return INT64 if self.value is None else self.value

    @property
    def timed(self) -> bool:
        """Whether its values come with the time at which they were set: of several processes' and
        the blocks', the latest is shown. In the kernel there is but one of each."""
        in_kernel = any(map(is_in_kernel, self.value_modules))
        return self.is_value and self.in_hits and not in_kernel

    @property
    def is_value(self) -> bool:
        """Whether it has a word at each key, which the script reads and sets."""
        return self.kind in (None, "value")


def is_in_kernel(module: str) -> bool:
    """Whether what is called so is in the kernel (``kernel_places``)."""
    return module.startswith("[")


class VariableState(msgspec.Struct, eq=False):
    """What is known of a variable: its kind, and the first of its words."""

    name: str
    kind: Kind | None = None
    slot: int | None = None
    #: Behind ``for ($kv : @map)``: no words at all, but arguments of the body.
    arguments: bool = False


class Firing(msgspec.Struct, eq=False):
    """What fires a probe: one of its places.

    ``hit``: a place in a process; else a block. ``entry``: a function's, whose arguments are there;
    ``returns``, ``static``, ``watch``: at its return, a static probe, a watchpoint. ``short``:
    written as bpftrace does not. ``keeps``: what the entry part of a return probe keeps, in order.
    """

    name: str
    kind: str
    hit: bool = True
    entry: bool = False
    returns: bool = False
    static: bool = False
    watch: bool = False
    short: bool = False
    module: str = ""
    function: str = ""
    keeps: list[object] = msgspec.field(default_factory=list)
    parameters: tuple[Parameter, ...] | None = None
    asked: bool = False
    #: Where the program's definition places it, and what variables of the program are there.
    place: str = ""
    variables: dict[str, ProgramVariable | None] = msgspec.field(default_factory=dict)
    result: Typed | None = None
    #: Of an instruction that makes system calls: which one is meant.
    system_call: int | None = None

    @property
    def kernel(self) -> bool:
        """Whether that is in the kernel (``kernel_places``)."""
        return is_in_kernel(self.module)


def stack_error(name: str, firing: Firing) -> tuple[str, str] | None:
    """What is wrong with a stack of that name (``ustack``, ``kstack``) there; None: nothing."""
    if not firing.hit:
        return f"`{name}` is of a process, and a block has none", ""
    if firing.kernel == (name == "kstack"):
        return None
    if firing.kernel:
        return "`ustack` at a place in the kernel is not there yet", "use kstack"
    return "`kstack` is the kernel's stack, which a probe in a process does not see", "use ustack"


class ScriptState:
    """Of one script."""

    def __init__(
        self, problems: Problems, types: TypeTable, options: Options, world: World
    ) -> None:
        self.problems = problems
        self.types = types
        self.options = options
        self.world = world
        self.maps: dict[str, MapState] = {}
        self.actions: list[bundle.Action] = []
        #: What has not been set is 0: no text.
        self.strings: list[str] = [""]
        #: What stands between braces in a `log`, as written, by its call.
        self.messages: dict[int, list[Any]] = {}
        self.unsafe = False
        self.config: dict[str, str | int] = {}
        self.changed = False
        self._string_numbers: dict[str, int] = {"": 0}
        self._action_numbers: dict[bundle.Action, int] = {}

    def string(self, text: str) -> int:
        """The number of a constant string, which ends at its first NUL, as in C."""
        text = decoded(up_to_nul(text))
        number = self._string_numbers.get(text)
        if number is None:
            number = self._string_numbers[text] = len(self.strings)
            self.strings.append(text)
        return number

    def action(self, one: bundle.Action) -> int:
        """The number of an action."""
        number = self._action_numbers.get(one)
        if number is None:
            number = self._action_numbers[one] = len(self.actions)
            self.actions.append(one)
        return number

    @property
    def max_string(self) -> int:
        """Bytes of a string, if its ``str()`` says nothing."""
        given = self.config.get("max_strlen", 1024)
        return given if isinstance(given, int) else 1024

    @property
    def stack_mode(self) -> str:
        """How stacks are shown, if ``ustack()`` says nothing."""
        return str(self.config.get("stack_mode", "bpftrace"))

    def map(self, name: str, span: TextSpan) -> MapState:
        """A map, known from here on."""
        known = self.maps.get(name)
        if known is None:
            size = self.config.get("max_map_keys", 4096)
            known = self.maps[name] = MapState(
                name, span, number=len(self.maps), size=size if isinstance(size, int) else 4096
            )
        return known

    def constant(self, text: str) -> String:
        """The kind of a constant string, which is known from here on: what compares texts by their
        numbers knows all of them."""
        return String(Form.CONSTANT, len(encoded(self.strings[self.string(text)])))
