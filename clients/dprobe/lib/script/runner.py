"""Runs a script: does what its records and its blocks say, until it ends.

Records come whenever the connection is read, also while a request waits for its answer; so they are
queued, and done one after the other (``drain``). Whoever drives this waits for the connection, for
signals and until ``next_time``, when a block is due.
"""

from __future__ import annotations

import heapq
import struct
import time
from collections import deque
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Final, Protocol

import msgspec

from dprobe.lib.script.decode import Act, Decoder, Hit, Names, moment
from dprobe.lib.script.maps import ScriptMaps
from dprobe.lib.script.values import (
    Address,
    Average,
    BucketCounts,
    MapEntry,
    NamedNumber,
    Series,
    Shown,
    ShownMap,
    StackText,
)
from dprobe.lib.script.watched import WatchedAddresses
from dprobe.lib.told_maps import MapChange
from dprobed.program.bt import bundle as bt
from dprobed.wire import messages

if TYPE_CHECKING:
    from dprobe.lib.script.blocks import Blocks

#: Ends of records that are told of: what was logged before is shown.
_FAILED: Final = {"exception": "raised an exception", "budget": "did more than one hit may do"}


class ScriptPrinter(Protocol):
    """Writes what a script prints."""

    def printf(self, act: bt.Printf, values: Sequence[Shown]) -> None:
        """``printf``, ``errorf`` or ``warnf``."""

    def log(self, act: bt.Log, values: Sequence[Shown], hit: Hit | None) -> None:
        """A line of ``log``, and the hit it is of; None: of a block."""

    def value(self, value: Shown) -> None:
        """A value and the end of a line."""

    def map(self, shown: ShownMap, top: int, divisor: int) -> None:
        """A map."""

    def entry(self, shown: ShownMap) -> None:
        """One entry of a map."""

    def text(self, kind: str, text: str) -> None:
        """Text as it is: ``join``, ``time``, ``cat``."""

    def cat(self, act: bt.Cat, values: Sequence[Shown]) -> None:
        """The contents of a file."""

    def system(self, act: bt.System, values: Sequence[Shown]) -> None:
        """What a command prints."""

    def lost(self, events: int) -> None:
        """So many records were lost."""

    def final(self) -> None:
        """Before what is printed at the end."""


class ScriptProcesses(Protocol):
    """The processes that the script's programs are in."""

    def settle(self) -> Sequence[int]:
        """Before what has come is shown: see to processes that came; which to learn about."""

    def maps(self, names: Sequence[str], reset: str = "") -> list[messages.MapInfo]:
        """Maps of the programs, those of ended processes too; then reset as asked."""

    def put(self, changes: Sequence[MapChange]) -> None:
        """Change maps of values in each process, and in what ended ones had."""

    def watch(self, pid: int, program: int, address: int) -> None:
        """Put one of the bundle's watchpoints into a process, at an address."""

    def unwatch(self, pid: int, address: int) -> None:
        """Take out what watches an address of a process."""


class Nowhere:
    """No processes: of a script that has only blocks."""

    def settle(self) -> Sequence[int]:
        """None."""
        return ()

    def maps(self, names: Sequence[str], reset: str = "") -> list[messages.MapInfo]:
        """None."""
        return []

    def put(self, changes: Sequence[MapChange]) -> None:
        """Nowhere."""

    def watch(self, pid: int, program: int, address: int) -> None:
        """Nowhere."""

    def unwatch(self, pid: int, address: int) -> None:
        """Nowhere."""


class Runner:
    """One script, as it runs. ``say`` is told what the user should know besides; ``comm_of`` says
    what a process is called now."""

    def __init__(
        self,
        bundle: bt.Bundle,
        printer: ScriptPrinter,
        names: Names,
        say: Callable[[str], None],
        comm_of: Callable[[int], str] = lambda pid: "",
    ) -> None:
        self._bundle: Final = bundle
        self._comm_of: Final = comm_of
        self._printer: Final = printer
        self._say: Final = say
        self._names: Final = names
        self._names_addresses: Final = _has_symbols(bundle)
        self._decoder: Final = Decoder(bundle, names)
        self._blocks: Final = self._blocks_of(bundle)
        held = self._blocks.maps if self._blocks is not None else {}
        self._maps: Final = ScriptMaps(bundle, self._decoder, held)
        self._processes: ScriptProcesses = Nowhere()
        self._queue: deque[bytes] = deque()
        self._decode: Final = msgspec.json.Decoder(Hit).decode
        #: When which block is due (monotonic nanoseconds).
        self._due: list[tuple[int, int]] = []
        #: The exit status that the script asked for; None: it has not ended itself.
        self.status: int | None = None
        #: The programs are out: what is done now is done to the end.
        self._over = False
        self._told: set[str] = set()
        self._watched: Final = WatchedAddresses()
        #: By map: updates that were lost before it was emptied.
        self._lost: dict[int, int] = {}

    # -- its life -------------------------------------------------------------------------------

    @property
    def probes(self) -> int:
        """How many probes it has, as bpftrace counts them."""
        blocks = sum(block.kind != "body" for block in self._bundle.blocks)
        return blocks + sum(len(program.probes) for program in self._bundle.programs)

    def begin(self) -> None:
        """Run the blocks that come first: before any process has the programs."""
        self._run_all("begin")

    def start(self) -> None:
        """The programs are in: hand over what blocks have set, and let time begin."""
        self._hand_over()
        now = time.monotonic_ns()
        for number, block in enumerate(self._bundle.blocks):
            if block.kind in ("interval", "profile") and block.period > 0:
                heapq.heappush(self._due, (now + block.period, number))

    def work_in(self, processes: ScriptProcesses) -> None:
        """The programs are in these processes."""
        self._processes = processes

    def record(self, line: bytes) -> None:
        """A record came."""
        self._queue.append(line)

    @property
    def next_time(self) -> float | None:
        """When the next block is due, in seconds of the monotonic clock."""
        return self._due[0][0] / 1e9 if self._due else None

    def drain(self) -> None:
        """Do what has come, and run what is due; no more once the script has ended itself."""
        self._learn(self._processes.settle())
        while self._queue and self.status is None:
            self._show(self._decode(self._queue.popleft()))
        now = time.monotonic_ns()
        while self._due and self._due[0][0] <= now and self.status is None:
            due, number = heapq.heappop(self._due)
            block = self._bundle.blocks[number]
            # What was missed is not made up for.
            missed = (now - due) // block.period
            heapq.heappush(self._due, (due + (missed + 1) * block.period, number))
            self._run(block)

    def signalled(self, name: str) -> None:
        """This process got a signal: run the blocks for it."""
        for block in self._bundle.blocks:
            if block.kind == "signal" and block.signal == name and self.status is None:
                self._run(block)

    def signals(self) -> list[str]:
        """The signals that it has blocks for."""
        return list(
            dict.fromkeys(each.signal for each in self._bundle.blocks if each.kind == "signal")
        )

    def end(self, lost: int = 0) -> None:
        """The programs are out: show what is left, run the last blocks, print the maps."""
        while self._queue and self.status is None:
            self._show(self._decode(self._queue.popleft()))
        if lost:
            self._printer.lost(lost)
        self._over = True
        self._run_all("end")
        self._printer.final()
        prints = self._bundle.config.get("print_maps_on_exit", 1) not in (0, "false", "0")
        for index in sorted(
            range(len(self._bundle.maps)), key=lambda each: self._bundle.maps[each].name
        ):
            if prints and self._bundle.maps[index].shown:
                self._print_map(index, 0, 1)
            self._tell_lost(index)

    # -- blocks ---------------------------------------------------------------------------------

    def _blocks_of(self, bundle: bt.Bundle) -> Blocks | None:
        """What runs its blocks; None where it has none."""
        if not bundle.code:
            return None
        # Here: most scripts have none, and the executor takes a tenth of their start to import.
        from dprobe.lib.script.blocks import Blocks

        return Blocks(
            bundle,
            self._decoder,
            perform=self._perform,
            resolve=self._resolve,
            entries=self._loop_entries,
            say=self._say,
        )

    def _run_all(self, kind: str) -> None:
        for block in self._bundle.blocks:
            if block.kind == kind and (self._over or self.status is None):
                self._run(block)

    def _run(self, block: bt.Block) -> None:
        assert self._blocks is not None
        self._take_over(self._blocks.maps)
        self._blocks.run(block)
        self._hand_over()

    def _take_over(self, held: Container[str]) -> None:
        """Give the blocks the values that processes have by now, for maps that they hold."""
        names = [
            part.name
            for each in self._bundle.maps
            if each.kind == "value" and each.hits
            for part in each.parts
            if part.name in held
        ]
        if names:
            self._maps.load(self._processes.maps(names))

    def _hand_over(self) -> None:
        """Give the processes what blocks have set, key by key: what hits set meanwhile stays."""
        if isinstance(self._processes, Nowhere):
            return
        changes = self._maps.changes()
        if changes:
            self._processes.put(changes)

    # -- actions --------------------------------------------------------------------------------

    def _learn(self, pids: Sequence[int]) -> None:
        """The programs are in these processes: addresses are named while they are there."""
        if not self._names_addresses:
            return
        known = self._decoder.comm_of
        for pid in pids:
            comm = self._comm_of(pid)
            if comm and known.get(pid) != comm:
                known[pid] = comm
                self._names.learn(pid, comm)
        self._maps.whose = next(iter(known)) if len(known) == 1 else 0

    def _show(self, hit: Hit) -> None:
        for act in self._decoder.acts(hit.log, hit.pid, hit.comm):
            self._perform(act, hit)
        if hit.exit in _FAILED and hit.place not in self._told:
            self._told.add(hit.place)
            raised = (hit.exception or {}).get("name", "")
            why = f" ({raised})" if raised else ""
            self._say(
                f"{hit.program} at {hit.place}: a hit {_FAILED[hit.exit]}{why}; what it had "
                "shown before is shown, and further such hits are not told of"
            )

    def _perform(self, act: Act, hit: Hit | None = None) -> None:
        if self.status is not None and not self._over:
            return
        match act.action:
            case bt.Printf():
                self._printer.printf(act.action, act.values)
            case bt.Log():
                self._printer.log(act.action, act.values, hit)
            case bt.Print():
                self._printer.value(act.values[0])
            case bt.PrintMap():
                self._print_map(act.action.map, act.action.top, act.action.divisor)
            case bt.PrintEntry():
                self._print_entry(act)
            case bt.Join():
                words = act.values[0]
                assert isinstance(words, list)
                self._printer.text("join", f"{act.action.delimiter.join(map(str, words))}\n")
            case bt.PrintTime():
                self._printer.text("time", moment(act.action.format, time.time_ns()))
            case bt.Cat():
                self._printer.cat(act.action, act.values)
            case bt.System():
                self._printer.system(act.action, act.values)
            case bt.Clear() | bt.Zero():
                self._forget(act.action)
            case bt.Delete():
                index = act.action.map
                changes = self._maps.delete(index, act.values, self._infos(index))
                if changes:
                    self._processes.put(changes)
            case bt.Watch():
                self._watched.watch(act, act.action, self._processes)
            case bt.Unwatch():
                self._watched.unwatch(act, self._processes)
            case bt.Exit():
                word = act.values[0]
                self.status = word & 0xFF if isinstance(word, int) else 0
            case _:
                self._say_once(f"{type(act.action).__name__}: only blocks can ask for this")

    def _say_once(self, text: str) -> None:
        if text not in self._told:
            self._told.add(text)
            self._say(text)

    def _infos(self, index: int, reset: str = "") -> list[messages.MapInfo]:
        if not self._bundle.maps[index].hits:
            return []
        self._hand_over()
        infos = self._processes.maps(self._maps.names(index), reset)
        if reset:
            # It is forgotten there with all else.
            before = self._lost.get(index, 0)
            self._lost[index] = before + sum(each.lost + each.left_out for each in infos)
        return infos

    def _tell_lost(self, index: int) -> None:
        """At the end: what was not counted or set in a map, for which there was no room."""
        infos = self._infos(index)
        lost = self._lost.get(index, 0) + sum(each.lost + each.left_out for each in infos)
        lost += self._maps.lost(index)
        if lost:
            name = self._bundle.maps[index].name
            self._say(
                f"{name}: {lost} update{'s were' if lost > 1 else ' was'} lost, as there was no "
                "room for more keys; write "
                f"`let {name} = hash(N);` or set max_map_keys for more, or keep shorter texts"
            )

    def _print_map(self, index: int, top: int, divisor: int) -> None:
        self._printer.map(self._maps.shown(index, self._infos(index)), top, divisor)

    def _print_entry(self, act: Act) -> None:
        assert isinstance(act.action, bt.PrintEntry)
        shown = self._maps.shown(act.action.map, self._infos(act.action.map))
        entries = [each for each in shown.entries if each.key == act.values]
        self._printer.entry(msgspec.structs.replace(shown, entries=entries))

    def _forget(self, action: bt.Clear | bt.Zero) -> None:
        zero = isinstance(action, bt.Zero)
        self._infos(action.map, "zero" if zero else "clear")
        self._lost[action.map] = self._lost.get(action.map, 0) + self._maps.lost(action.map)
        self._maps.forget(action.map, keep_keys=zero)

    # -- what blocks ask for --------------------------------------------------------------------

    def _resolve(self, act: Act) -> int:
        assert isinstance(act.action, bt.Fetch | bt.Measure)
        shown = self._maps.shown(act.action.map, self._infos(act.action.map))
        if isinstance(act.action, bt.Measure):
            return len(shown.entries)
        found = next((each for each in shown.entries if each.key == act.values), None)
        if act.action.has:
            return int(found is not None)
        return self._maps.number(found) if found is not None else 0

    def _loop_entries(self, action: bt.ForEach) -> Iterable[Sequence[int | bytes]]:
        return list(self._arguments(action))

    def _arguments(self, action: bt.ForEach) -> Iterator[Sequence[int | bytes]]:
        """What a body gets for each entry: the key's values, then the value."""
        types = self._bundle.blocks[action.body].arguments
        infos = self._infos(action.map)
        for entry in self._maps.shown(action.map, infos).entries:
            found = [each for one in (*entry.key, self._plain(entry)) for each in _leaves(one)]
            yield [_argument(one, of) for one, of in zip(found, types, strict=False)]

    def _plain(self, entry: MapEntry) -> Shown:
        """The value of an entry as a block gets it."""
        if isinstance(entry.value, Average | BucketCounts | Series):
            return self._maps.number(entry)
        return entry.value


def _has_symbols(bundle: bt.Bundle) -> bool:
    """Whether addresses, or stacks, are shown by name."""
    found = [value for each in bundle.maps for value in (*each.key, each.value)]
    for action in bundle.actions:
        if isinstance(action, bt.Printf | bt.Log):
            found += action.arguments
        elif isinstance(action, bt.Print):
            found.append(action.argument)
    while found:
        value = found.pop()
        if isinstance(value, bt.Symbol | bt.Stack):
            return True
        if isinstance(value, bt.Tuple):
            found += value.items
    return False


def _leaves(shown: Shown) -> Iterator[Shown]:
    """The values in a tuple, those of tuples in it too; or the value alone."""
    if isinstance(shown, tuple | dict):
        for each in shown.values() if isinstance(shown, dict) else shown:
            yield from _leaves(each)
    else:
        yield shown


def _argument(shown: Shown, of: bt.Value) -> int | bytes:
    """A value as an argument of a body: a word, or a text as bytes with a NUL behind them."""
    match shown:
        case str():
            return shown.encode("utf-8", "surrogateescape") + b"\0"
        case StackText():
            return shown.text().encode("utf-8", "surrogateescape") + b"\0"
        case int():
            return shown
        case float():
            form = "<f" if isinstance(of, bt.Float) and of.size == 4 else "<d"
            return int.from_bytes(struct.pack(form, shown), "little")
        case Address() | NamedNumber():
            return shown.value
    return b"\0"
