"""``dprobe snapshot``: the frames of a thread with their variables, when a place is passed."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from dprobe.commands import complete, options
from dprobe.commands import pids as processes
from dprobe.commands.logpoint import condition, default_budget, redact
from dprobe.lib.errors import UserError
from dprobed.durations import text

if TYPE_CHECKING:
    from dprobe.lib.snapshot.modules import MappedModules
    from dprobe.lib.snapshot.taken import Taker
    from dprobed.corefile.store import Core
    from dprobed.wire import messages
    from dprobed.wire.limits import Limits

_HOUR: Final = 3600.0
#: Cores that a probe can have in an hour, unless the daemon's environment says otherwise.
_MOST_HITS: Final = 5


@click.command(
    "snapshot",
    epilog="""\b
examples:
  dprobe snapshot 1234 server.c:120
  dprobe snapshot 1234 server.c:120 --if 'req->state == BAD' --depth 3
  dprobe snapshot nginx ngx_http_finalize_request --frames 3 --json
""",
)
@condition
@click.option(
    "--depth",
    type=click.IntRange(0, 16),
    default=3,
    show_default=True,
    help="How many pointers are followed, one after the other, and members within members.",
)
@click.option(
    "--width",
    type=click.IntRange(1, 1000),
    default=20,
    show_default=True,
    help="Elements of a list, and members, at most.",
)
@click.option(
    "--string",
    type=click.IntRange(1, 1 << 16),
    default=256,
    show_default=True,
    help="Characters of a text at most.",
)
@click.option(
    "--frames",
    type=click.IntRange(1, 255),
    default=8,
    show_default=True,
    help="Functions of the stack at most.",
)
@click.option(
    "--hits",
    type=click.IntRange(1, _MOST_HITS),
    default=1,
    show_default=True,
    metavar="N",
    help="End after N snapshots.",
)
@click.option(
    "--for",
    "seconds",
    type=options.Duration(),
    metavar="TIME",
    default=_HOUR,
    show_default="1h",
    help="End after this time (30s, 10m, 2h).",
)
@redact
@default_budget
@options.format_
@options.output("standard output")
@options.private
@click.argument("pids", metavar="TARGET", type=processes.Processes())
@click.argument("place", shell_complete=complete.functions)
@click.pass_obj
def snapshot_command(
    socket: Path | None,
    condition: str | None,
    depth: int,
    width: int,
    string: int,
    frames: int,
    hits: int,
    seconds: float,
    redacted: tuple[str, ...],
    budget: Limits | None,
    form: str,
    path: str | None,
    private: bool,
    pids: tuple[int, ...],
    place: str,
) -> int:
    """Show the stack of TARGET (a process, or the name of some) with its variables at PLACE.

    PLACE and --if are of the script language, as in `dprobe logpoint`. At a hit a core of the
    process is written, which goes on at once (docs/dump.md says what that is for it, and who may);
    what is shown is read from that core, which is removed then.

    Snapshots of a process are a second apart at least. It ends after --hits, after --for, at
    Ctrl-C, or with the processes. Status 1: it ended without a snapshot.
    """
    from dprobe.commands.budget import chosen
    from dprobe.commands.scripts import ScriptOptions, attach_script
    from dprobe.lib.programs import Choice
    from dprobe.lib.script.source import Script
    from dprobe.lib.snapshot.limits import configured
    from dprobe.lib.snapshot.taken import Taker
    from dprobed.program.showing.viewing import ShowLimits

    most = configured()
    limits = ShowLimits(min(depth, most.depth), min(width, most.width), min(string, most.string))
    taker = Taker(limits, min(frames, most.frames), (*most.redact, *redacted))
    cores = _Cores(taker, pids, hits, json=form == "json")
    script = Script(_text_of(place, condition), "snapshot", label=f"snapshot:{place}")
    how = ScriptOptions(
        Choice(budget=chosen(budget, None), seconds=seconds),
        form=form,
        path=path,
        private=private,
        what=f"snapshot at {place}",
        until=f"{text(seconds)} are over or {hits} snapshot{'s' * (hits > 1)} shown",
    )
    status = attach_script(socket, script, pids, how, cores=cores)
    return status or int(not cores.shown)


def _text_of(place: str, condition: str | None) -> str:
    """The script that a snapshot is: a core a second at most."""
    return "\n".join(
        (
            "config = { print_maps_on_exit=0 }",
            place,
            *([f"/{condition}/"] if condition else []),
            "{ if (nsecs - @last >= 1000000000) { @last = nsecs; dump(); } }",
        )
    )


class _Cores:
    """The cores that hits had written: shown, and removed."""

    def __init__(self, taker: Taker, pids: Sequence[int], hits: int, *, json: bool) -> None:
        self._taker: Final = taker
        self._pids: Final = pids
        self._hits: Final = hits
        self._json: Final = json
        self._modules: dict[int, MappedModules] = {}
        self._waiting: deque[str] = deque()
        self.shown = 0

    @property
    def enough(self) -> bool:
        """Whether all snapshots that were asked for are shown."""
        return self.shown >= self._hits

    def begin(self) -> None:
        """Look at what the processes map: they may end right after the hit."""
        for pid in self._pids:
            with contextlib.suppress(UserError):
                self._look(pid)

    def _look(self, pid: int) -> MappedModules:
        from dprobe.lib.mapped import files_of_process
        from dprobe.lib.snapshot.modules import MappedModules

        self._modules[pid] = MappedModules(files_of_process(pid))
        return self._modules[pid]

    def told(self, notice: messages.Notice) -> None:
        """A core was written, or was not."""
        if notice.core:
            self._waiting.append(notice.core)
        else:
            options.complain(notice.text)

    def texts(self) -> list[str]:
        """What is to be shown by now."""
        found = []
        while self._waiting:
            path = self._waiting.popleft()
            core = _core_of(path)
            try:
                if not self.enough:
                    found.append(self._shown(path, core))
                    self.shown += 1
            finally:
                _remove(core)
        return found

    def _shown(self, path: str, core: Core) -> str:
        from dprobe.lib.snapshot.modules import MappedModules
        from dprobe.view import snapshots

        about = core.about
        pid = int(about.get("pid", 0))
        try:
            modules = self._look(pid)  # it may have loaded a library
        except UserError:
            modules = self._modules.get(pid) or MappedModules(())
        probe = about.get("probe") or {}
        taken = snapshots.Taken(
            pid,
            str(about.get("command", "")),
            str(probe.get("place", "")),
            int(float(about.get("time", 0)) * 1e9),
            int(about.get("pause_ns", 0)),
        )
        snapshot = self._taker.of_core(path, modules)
        show = snapshots.as_json if self._json else snapshots.as_text
        return show(snapshot, taken)


def _core_of(path: str) -> Core:
    """The core at a path, with what its JSON file says; raises UserError."""
    from dprobed.corefile import asked, store

    folder = Path(path).parent
    try:
        found = next((each for each in asked.cores(folder) if str(each.path) == path), None)
    except store.StoreError as error:
        raise UserError(str(error)) from None
    if found is None:
        raise UserError(f"{path}: it is not there any more")
    if path.endswith(".zst"):
        raise UserError(
            f"{path}: it is compressed, and stays; set DPROBED_DUMPS_ZSTD=0 for dprobed"
        )
    return found


def _remove(core: Core) -> None:
    from dprobed.corefile import asked, store

    try:
        asked.remove(core.path.parent, [core])
    except store.StoreError as error:
        raise UserError(str(error)) from None
