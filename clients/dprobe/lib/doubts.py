"""Why probes in a command will perhaps never fire, as its files say before it runs.

What a daemon says of a process that runs already (``ProbeInfo.doubt``), from the list of modules
and the words through which they call each other, is not there yet. But the loader has said which
files it will map, in the order in which it will look for symbols (ld.so(8)).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from dprobe.lib.loader import Mapped
from dprobe.lib.mapped import File
from dprobe.lib.programs import Loaded
from dprobed.binary.errors import LocationError
from dprobed.binary.relocations import exports
from dprobed.binary.suggest import similar
from dprobed.program.model import no_pattern


def of_command(programs: Sequence[Loaded], mapped: Mapped) -> Iterator[str]:
    """A line for each program and reason."""
    if not mapped.files or not mapped.complete:
        return
    command, loader, *libraries = (*mapped.files, None)
    order = [command, *(each for each in (*libraries, loader) if each is not None)]
    for each in programs:
        header = each.program.header
        if header.kernel:
            continue
        meant = [file for file in order if file is not None and file.named(header.name)]
        if meant:
            yield from _interposed(each, [file for file in order if file is not None], meant[0])
        else:
            yield f"{each.upload.label}: {_unmapped(header.name, mapped.files)}"


def _unmapped(name: str, files: Sequence[File]) -> str:
    bases = [Path(file.module.path).name for file in files]
    if len(files) == 1:
        return (
            f"{bases[0]} is a static program, which maps no other module: no probe in `{name}` "
            f"fires in it; where the function is the program's own, write name = {bases[0]}"
        )
    near = similar(name.rpartition("/")[2], bases)[:3]
    if near:
        return (
            f"no module `{name}` is mapped at the start, but {' and '.join(near)}: write name = "
            f"{near[0]}"
        )
    fires = "its probes fire when one is"
    return f"no module `{name}` is mapped at the start; {fires}{no_pattern(name)}"


def _interposed(loaded: Loaded, order: Sequence[File], meant: File) -> Iterator[str]:
    """Functions that a module defines which comes before the one that is meant."""
    for probe in loaded.program.probes:
        symbol = probe.function
        if not symbol or not _defines(meant, symbol):
            continue
        first = next(file for file in order if file is meant or _defines(file, symbol))
        if first is not meant:
            base = Path(first.module.path).name
            yield (
                f"{loaded.upload.label}: `{symbol}` will be {base}'s, which comes before "
                f"{Path(meant.module.path).name}: its calls do not come by this probe; write "
                f"name = {base}"
            )


def _defines(file: File, symbol: str) -> bool:
    try:
        return file.elf is not None and exports(file.elf, symbol)
    except LocationError:
        return False
