"""``dprobe bpftrace -l``: which probes there are, of a pattern or of a script."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from typing import Final

from dprobe.lib import mapped
from dprobe.lib.errors import UserError
from dprobe.lib.script import source
from dprobe.lib.script.world import FileWorld
from dprobed.program.bt.bundle import Bundle

_UNITS: Final = ("hz", "us", "ms", "s")
_FUNCTIONS: Final = {"uprobe": "uprobe", "u": "uprobe", "uretprobe": "uretprobe", "ur": "uretprobe"}
_STATIC: Final = ("usdt", "U")


def list_probes(
    script: source.Script | None, words: Sequence[str], pid: int | None, *, verbose: bool
) -> int:
    """Print those of a script, or what matches; the exit status. Raises UserError."""
    world = FileWorld(lambda: () if pid is None else mapped.files_of_process(pid))
    if script is not None:
        lines = list(_of_script(source.compiled(script, world, unsafe=True)))
    else:
        if words and words[0].endswith(source.SUFFIX):
            print(
                f"WARNING: It appears that '{words[0]}' is a filename but the file does not "
                f"exist. Treating '{words[0]}' as a search pattern.",
                file=sys.stderr,
            )
        lines = [
            line
            for pattern in (words[0] if words else "*").split(",")
            for line in _matching(pattern, world, verbose=verbose)
        ]
    for line in dict.fromkeys(lines):
        print(line)
    return 0 if lines or not words else 1


def _of_script(bundle: Bundle) -> Iterator[str]:
    """What a script is attached to."""
    for block in bundle.blocks:
        if block.kind in ("interval", "profile"):
            yield block.name.rpartition(":")[0] + ":" if ":" in block.name else block.name
        elif block.kind != "body":
            yield block.name or block.kind
    for program in bundle.programs:
        yield from program.probes


def _matching(pattern: str, world: FileWorld, *, verbose: bool) -> Iterator[str]:
    kind, _, rest = pattern.partition(":")
    if fnmatchcase("interval", kind) or kind == "i":
        yield from _timed("interval", rest)
    if fnmatchcase("profile", kind) or kind == "p":
        yield from _timed("profile", rest)
    if kind in _FUNCTIONS:
        module, colon, function = rest.rpartition(":")
        if not colon:
            raise UserError(f"{kind} probe type requires 2 arguments: {kind}:MODULE:FUNCTION")
        yield from _functions(_FUNCTIONS[kind], module, function, world, verbose=verbose)
    elif kind in _STATIC:
        module, _, name = rest.partition(":")
        for path in world.modules(module or "*"):
            wanted = name if ":" in name else f"*:{name or '*'}"
            for static in world.static_probes(path, wanted):
                yield f"usdt:{path}:{static}"


def _timed(kind: str, rest: str) -> Iterator[str]:
    unit = rest.partition(":")[0] or "*"
    yield from (f"{kind}:{each}:" for each in _UNITS if fnmatchcase(each, unit))


def _functions(
    kind: str, module: str, function: str, world: FileWorld, *, verbose: bool
) -> Iterator[str]:
    for path in world.modules(module):
        for name in sorted(world.functions(path, function, demangled=False)):
            yield f"{kind}:{path}:{name}"
            for parameter in (world.parameters(path, name) or ()) if verbose else ():
                yield f"    {parameter.name}"
