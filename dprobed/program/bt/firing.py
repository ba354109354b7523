"""Places as written: what fires there, and where it is in a program.

Both bpftrace's (``uprobe:libc:malloc``) and the short ones (``malloc``, ``server.c:120``,
``handle:return``, ``usdt:provider:name``, ``watch counter``). What has wildcards, names of C++ or
no module is asked of the ``World``.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator, Sequence
from typing import Any, Final

import msgspec

from dprobed.program.bt import kernel_places, tree
from dprobed.program.bt.facts import parameter_value
from dprobed.program.bt.kernel_places import KernelPlaceError, kernel_targets
from dprobed.program.bt.state import Firing, ScriptState
from dprobed.program.keywords import no_entry

_LONG: Final = {
    "u": "uprobe", "ur": "uretprobe", "U": "usdt", "w": "watchpoint", "i": "interval",
    "p": "profile", "k": "kprobe", "kr": "kretprobe", "t": "tracepoint", "rt": "rawtracepoint",
    "f": "fentry", "fr": "fexit", "h": "hardware", "s": "software", "it": "iter",
    "aw": "asyncwatchpoint", "BEGIN": "begin", "END": "end", "kfunc": "fentry", "kretfunc": "fexit",
}  # fmt: skip
_REFUSED: Final = {
    **dict.fromkeys(
        ("fentry", "fexit"),
        "needs types of the kernel, which are not there yet: use kprobe or kretprobe",
    ),
    **dict.fromkeys(
        ("hardware", "software"), "counts events of the processor and of the kernel"
    ),
    "iter": "walks tables of the kernel",
    "profile": "samples processors, which is not there yet",
    "bench": "measures scripts, which is not there",
}  # fmt: skip
_UNITS: Final = {"us": 10**3, "ms": 10**6, "s": 10**9, "ns": 1, "m": 60 * 10**9, "h": 3600 * 10**9}
_NUMBER: Final = re.compile(r"0[xX][0-9a-fA-F]+|[0-9]+")
_SOURCE: Final = re.compile(r"[^\s:]*\.[A-Za-z][\w+]*\Z", re.ASCII)


#: First words of places, for who shows or completes scripts.
KINDS: Final = (
    *("begin", "end", "BEGIN", "END", "interval", "self", "syscall", "uprobe", "uretprobe", "usdt"),
    *("asyncwatchpoint", "watch", "watchpoint"),
)


#: What is not covered.
_NOT_SEEN: Final = (
    "system calls are seen where files make them that are mapped at the start, not in libraries "
    "that are loaded later nor in code that is made at run time"
)
#: ``FUNCTION+argN``
_ARGUMENT: Final = re.compile(r"(?P<function>\w[\w.:$@]*)\+arg(?P<number>[0-9])")


class FiredPlace(msgspec.Struct):
    """A place in a module, or (no module) a block.

    ``keywords``: of the probe's definition. ``period``: of an interval; ``signal``: its name.
    ``armed``: of a watchpoint whose address is an argument: where a function is entered that has
    it, and which one it is.
    """

    firing: Firing
    keywords: dict[str, Any] = {}
    period: int = 0
    signal: str = ""
    armed: tuple[FiredPlace, int] | None = None


class PlaceFinder:
    """Finds what a place is."""

    def __init__(self, state: ScriptState) -> None:
        self._state = state
        self._world = state.world

    def targets(self, place: tree.Place) -> list[FiredPlace]:
        """All that a place stands for; what is wrong with it is said."""
        before = len(self._state.problems.found)
        try:
            found = list(self._targets(place))
        except _Refused:
            return []
        for one in found:
            one.firing.place = one.keywords.get("offset", "")
        if not found and len(self._state.problems.found) == before:
            self._wrong(place, f"`{place.text}` is nowhere")
        return found

    def _wrong(self, place: tree.Place, message: str, hint: str = "") -> None:
        self._state.problems.add(place.span, message, hint)

    def _refuse(self, place: tree.Place, message: str, hint: str = "") -> _Refused:
        self._wrong(place, message, hint)
        return _Refused()

    def _targets(self, place: tree.Place) -> Iterator[FiredPlace]:
        parts = [_with_parameters(each, self._state.options.positional) for each in place.parts]
        kind = _LONG.get(parts[0], parts[0])
        if place.quoted[0]:
            kind = ""
        if kind in ("begin", "end") and len(parts) == 1:
            yield FiredPlace(Firing(kind if parts[0].islower() else parts[0], kind, hit=False))
        elif kind in _REFUSED and len(parts) > 1:
            raise self._refuse(place, f"`{parts[0]}` {_REFUSED[kind]}")
        elif kind in kernel_places.KINDS and len(parts) > 1:
            yield from self._in_kernel(place, kind, parts[1:])
        elif kind == "interval" and len(parts) > 1:
            yield self._interval(place, parts)
        elif kind == "self" and parts[1:2] == ["signal"]:
            yield self._signal(place, parts)
        elif kind in ("uprobe", "uretprobe") and len(parts) > 1:
            yield from self._functions(place, kind, parts[1:])
        elif kind == "usdt" and len(parts) > 1:
            yield from self._static(place, parts[1:])
        elif kind in ("watchpoint", "asyncwatchpoint") and len(parts) > 1:
            yield self._watchpoint(place, parts[1:])
        elif kind == "syscall" and len(parts) > 1:
            yield from self._system_calls(place, parts[1:])
        elif kind == "watch" and len(parts) > 1:
            yield self._watch(place, parts[1:])
        else:
            yield from self._short(place, parts)

    # -- blocks ---------------------------------------------------------------------------------

    def _interval(self, place: tree.Place, parts: list[str]) -> FiredPlace:
        period = 0
        if len(parts) == 3:
            number = parameter_value(parts[2]) or 0
            if parts[1] == "hz" and number:
                period = 10**9 // number
            elif parts[1] in _UNITS:
                period = number * _UNITS[parts[1]]
        elif len(parts) == 2 and (found := re.fullmatch(r"([0-9]+)(ns|us|ms|s|m|h)?", parts[1])):
            period = (parameter_value(found[1]) or 0) * _UNITS[found[2] or "us"]
        if not 1000 <= period <= 1 << 62:
            raise self._refuse(place, f"`{place.text}` is no interval", "write interval:s:1")
        return FiredPlace(Firing(place.text, "interval", hit=False), period=period)

    def _signal(self, place: tree.Place, parts: list[str]) -> FiredPlace:
        name = parts[2] if len(parts) == 3 else ""
        if name not in signal.Signals.__members__ or name in ("SIGKILL", "SIGSTOP"):
            raise self._refuse(
                place, f"`{place.text}` is no signal of ours", "write self:signal:SIGUSR1"
            )
        return FiredPlace(Firing(place.text, "self", hit=False), signal=name)

    def _in_kernel(self, place: tree.Place, kind: str, parts: list[str]) -> Iterator[FiredPlace]:
        try:
            for firing, keywords in kernel_targets(self._world, kind, place.text, parts):
                yield FiredPlace(firing, keywords)
        except KernelPlaceError as error:
            raise self._refuse(place, str(error), error.hint) from None

    # -- functions ------------------------------------------------------------------------------

    def _modules(self, place: tree.Place, pattern: str) -> Sequence[str]:
        if not pattern:
            raise self._refuse(place, f"`{place.text}` has no module", "write uprobe:libc:malloc")
        if any(letter in pattern for letter in "*?["):
            found = self._world.modules(pattern)
            if not found:
                raise self._refuse(place, f"no module is like `{pattern}`")
            return found
        if "/" not in pattern:
            return [self._world.library(pattern) or _LIBRARIES.get(pattern, pattern)]
        return [pattern]

    def _functions(self, place: tree.Place, kind: str, parts: list[str]) -> Iterator[FiredPlace]:
        returns = kind == "uretprobe"
        demangled = len(parts) > 2 and parts[1] == "cpp"
        if demangled:
            del parts[1]
        if len(parts) < 2:
            raise self._refuse(
                place, f"`{place.text}` has no function", f"write {kind}:MODULE:FUNCTION"
            )
        for module in self._modules(place, parts[0]):
            if len(parts) > 2:
                if not _NUMBER.fullmatch(parts[2]) or returns:
                    raise self._refuse(
                        place,
                        f"`{place.text}` is no place of a function",
                        "write uprobe:MODULE:FILE.c:LINE",
                    )
                line = f"{parts[1]}:{parts[2]}"
                firing = Firing(f"{kind}:{module}:{line}", kind, module=module)
                yield FiredPlace(firing, {"offset": line})
                continue
            yield from self._named(place, kind, module, parts[1], demangled)

    def _named(
        self,
        place: tree.Place,
        kind: str,
        module: str,
        name: str,
        demangled: bool,
        short: bool = False,
    ) -> Iterator[FiredPlace]:
        returns = kind == "uretprobe"
        if not name:
            raise self._refuse(place, f"`{place.text}` has no function")
        names: Sequence[str] = [name]
        if any(letter in name for letter in "*?[") and not name.startswith("operator"):
            names = self._world.functions(module, name, demangled)
            if not names:
                raise self._refuse(place, f"no function of {module} is like `{name}`")
        elif demangled or "::" in name or "(" in name:
            names = self._world.functions(module, name, True)
            if not names:
                raise self._refuse(place, f"{module} has no function `{name}`")
        for each in names:
            plain = _NUMBER.fullmatch(each) is None and not no_entry(each) and "+" not in each
            if returns and not plain:
                raise self._refuse(
                    place, "only a function can be left", f"write {kind}:{module}:FUNCTION"
                )
            firing = Firing(
                f"{kind}:{module}:{each}",
                kind,
                entry=plain and not returns,
                returns=returns,
                module=module,
                function=each if plain else "",
                short=short,
            )
            keywords: dict[str, Any] = {"offset": each}
            if returns:
                keywords["at"] = "return"
            yield FiredPlace(firing, keywords)

    def _short(self, place: tree.Place, parts: list[str]) -> Iterator[FiredPlace]:
        """``malloc``, ``handle:return``, ``server.c:120``, ``module:function`` is bpftrace's."""
        name = parts[0]
        if len(parts) == 2 and _SOURCE.match(name) and _NUMBER.fullmatch(parts[1]):
            line = f"{name}:{parts[1]}"
            module = self._module(place, line)
            yield FiredPlace(
                Firing(f"uprobe:{module}:{line}", "uprobe", module=module, short=True),
                {"offset": line},
            )
            return
        kind = "uprobe"
        if len(parts) == 2 and parts[1] in ("return", "entry"):
            kind = "uretprobe" if parts[1] == "return" else "uprobe"
        elif len(parts) != 1:
            raise self._refuse(
                place,
                f"`{place.text}` is no place",
                "write uprobe:MODULE:FUNCTION, FUNCTION, "
                "FUNCTION:return, FILE.c:LINE or usdt:PROVIDER:NAME",
            )
        module = self._module(place, name)
        yield from self._named(place, kind, module, name, False, short=True)

    def _module(self, place: tree.Place, what: str) -> str:
        module = self._world.module(what)
        if module is None:
            raise self._refuse(
                place, f"which module has `{what}` is not known", f"write uprobe:MODULE:{what}"
            )
        return module

    # -- system calls, static probes, watchpoints -----------------------------------------------

    def _system_calls(self, place: tree.Place, parts: list[str]) -> Iterator[FiredPlace]:
        """``syscall:NAME``: the instructions that make it."""
        if len(parts) != 1:
            raise self._refuse(
                place,
                f"`{place.text}` is no system call: where one is left is not seen",
                "write syscall:NAME, or FUNCTION:return",
            )
        found = self._world.system_call(parts[0])
        if found is None:
            raise self._refuse(place, f"there is no system call `{parts[0]}`")
        if not found.places:
            raise self._refuse(place, f"nothing that is known makes the system call `{parts[0]}`")
        for module, addresses in found.places:
            for address in addresses:
                firing = Firing(
                    f"syscall:{parts[0]}",
                    "syscall",
                    module=module,
                    short=True,
                    system_call=found.number,
                )
                yield FiredPlace(firing, {"offset": f"{address:#x}"})
        # Said once for all of them.
        if not any(each.endswith(_NOT_SEEN) for each in self._state.problems.warnings):
            self._state.problems.warn(place.span, _NOT_SEEN)

    def _static(self, place: tree.Place, parts: list[str]) -> Iterator[FiredPlace]:
        if len(parts) == 3:
            pattern = f"{parts[1] or '*'}:{parts[2]}"
            yield from self._static_in(place, self._modules(place, parts[0]), pattern)
            return
        if len(parts) != 2:
            raise self._refuse(
                place, f"`{place.text}` is no static probe", "write usdt:MODULE:PROVIDER:NAME"
            )
        first, name = parts
        if "/" in first or ".so" in first or "*" in first:
            yield from self._static_in(place, self._modules(place, first), f"*:{name}")
            return
        modules = self._modules(place, first)
        if any(self._world.static_probes(module, f"*:{name}") for module in modules):
            yield from self._static_in(place, modules, f"*:{name}")
            return
        module = self._module(place, f"usdt:{first}:{name}")
        yield from self._static_in(place, [module], f"{first}:{name}")

    def _static_in(
        self, place: tree.Place, modules: Sequence[str], pattern: str
    ) -> Iterator[FiredPlace]:
        for module in modules:
            names: Sequence[str] = [pattern]
            if any(letter in pattern for letter in "*?["):
                names = self._world.static_probes(module, pattern)
                if not names and len(modules) == 1:
                    raise self._refuse(place, f"{module} has no static probe like `{pattern}`")
            for each in names:
                firing = Firing(f"usdt:{module}:{each}", "usdt", static=True, module=module)
                yield FiredPlace(firing, {"offset": f"usdt:{each}"})

    def _watchpoint(self, place: tree.Place, parts: list[str]) -> FiredPlace:
        argument = _ARGUMENT.fullmatch(parts[0])
        numbers = [0 if argument else parameter_value(parts[0]), *map(parameter_value, parts[1:2])]
        if len(parts) != 3 or any(each is None or each < 0 for each in numbers):
            hint = "write watchpoint:0xADDRESS:LENGTH:w, or watch NAME"
            raise self._refuse(place, f"`{place.text}` is no watchpoint that is possible", hint)
        address, length = (each or 0 for each in numbers)
        watch = _modes(parts[2])
        if watch is None or length not in (1, 2, 4, 8):
            raise self._refuse(
                place, f"`{place.text}` cannot be watched: a length of 1, 2, 4 or 8 and w, rw or x"
            )
        keywords = {"address": f"{address:#x}:{length}", "watchpoint": watch}
        if argument is None:
            module = self._any_module(place)
            return FiredPlace(Firing(place.text, "watchpoint", watch=True, module=module), keywords)
        module = self._module(place, argument["function"])
        return _of_argument(place.text, module, argument, keywords)

    def _any_module(self, place: tree.Place) -> str:
        """An absolute address is in no module: that of the process itself."""
        return self._world.module("main") or self._world.module("") or "*"

    def _watch(self, place: tree.Place, parts: list[str]) -> FiredPlace:
        """``watch NAME[:LENGTH][:MODE]``"""
        name, mode, length = parts[0], "w", ""
        for each in parts[1:]:
            if each.isdecimal():
                length = f":{each}"
            else:
                mode = each
        watch = _modes(mode)
        if watch is None:
            raise self._refuse(place, f"`{mode}` is no way to watch", "write w, rw or x")
        module = self._module(place, name)
        firing = Firing(f"watch {name}", "watchpoint", watch=True, short=True, module=module)
        return FiredPlace(firing, {"address": name + length, "watchpoint": watch})


def _with_parameters(part: str, positional: Sequence[str]) -> str:
    """``$1`` in a place is a text."""

    def given(found: re.Match[str]) -> str:
        number = int(found[1])
        return positional[number - 1] if 0 < number <= len(positional) else ""

    return re.sub(r"\$(\d{1,4})", given, part)


def _of_argument(
    name: str, module: str, argument: re.Match[str], keywords: dict[str, Any]
) -> FiredPlace:
    """A watchpoint whose address a function is given."""
    entered = Firing(name, "watchpoint", entry=True, module=module, short=True)
    armed = FiredPlace(entered, {"offset": argument["function"]}), int(argument["number"])
    watched = Firing(name, "watchpoint", watch=True, short=True, module=module)
    return FiredPlace(watched, keywords, armed=armed)


class _Refused(Exception):
    """What is wrong with a place was said."""


def _modes(mode: str) -> str | None:
    if not mode or set(mode) - set("rwx") or len(set(mode)) != len(mode):
        return None
    if mode == "x":
        return "x"
    return None if "x" in mode else ("w" if mode == "w" else "rw")


#: What scripts call libraries that each system has.
_LIBRARIES: Final = {
    "libc": "libc.so.6", "libm": "libm.so.6", "libpthread": "libpthread.so.0",
    "libdl": "libdl.so.2", "libstdc++": "libstdc++.so.6", "libssl": "libssl.so.3",
    "libcrypto": "libcrypto.so.3", "libz": "libz.so.1",
}  # fmt: skip
