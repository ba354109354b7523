"""What is inserted and kept, in files that outlive the daemon: a restarted one goes on with it.

They are beside the change journals: a file for each kept program in a process, and one for each
kept deployment, written before its client is answered and removed when it is out. What programs
counted is not in there, but for what deployments counted in processes that have ended: tracers note
it themselves (``last_counts``).

A daemon that ends well has taken everything out, and leaves none of them. Only the daemon writes
here, in a folder that nobody else can enter.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from dprobed.change_journal import boot
from dprobed.daemon.former import FormerCounts
from dprobed.daemon.insertion import Insertion, Term
from dprobed.daemon.target import InsertedProgram
from dprobed.proc import procfs
from dprobed.program.bytecode import decode
from dprobed.program.model import ProgramError
from dprobed.wire import messages

_PROGRAM: Final = "program-"
_DEPLOYMENT: Final = "deployment-"
_NEW: Final = "new-"
_TRIES: Final = "tries"
#: Restarts one after the other in which something may be gone on with: what makes daemons die is
#: given up then.
MOST_TRIES: Final = 3

_log = logging.getLogger("dprobed")


class KeptInsertion(msgspec.Struct, frozen=True):
    """A program, who inserted it, and until when."""

    number: int
    uid: int
    gid: int
    upload: messages.Upload
    check_opcode: bool
    follow_forks: bool
    term: Term

    def insertion(self, *, deployed: bool) -> Insertion:
        """As it is inserted again; raises ProgramError."""
        term, now = self.term, time.monotonic()
        if term.since > now and term.until is not None:
            # A clock of another boot: it has its whole time anew.
            term = Term(now, now + term.until - term.since, term.rule)
        return Insertion(
            self.number,
            self.upload,
            decode(self.upload.bytecode),
            check_opcode=self.check_opcode,
            follow_forks=self.follow_forks,
            deployed=deployed,
            term=term,
        )


class KeptProgram(msgspec.Struct, frozen=True):
    """A program in a process. ``start``: with ``pid`` it identifies that, within a ``boot`` of the
    machine."""

    inserted: KeptInsertion
    pid: int
    start: int
    boot: bytes

    def matches(self, select: messages.Select) -> bool:
        """Whether it is selected."""
        number, label = self.inserted.number, self.inserted.upload.label
        if select.number not in (None, number) or select.label not in (None, label):
            return False
        if select.pid not in (None, self.pid):
            return False
        insertion = insertion_of(self)
        if insertion is None:
            return True
        header = insertion.program.header
        return select.program_id in (None, header.id) and (
            select.module in (None, header.name, Path(header.name).name)
        )


class KeptDeployment(msgspec.Struct, frozen=True):
    """A deployment. ``sums`` and ``words``: of its ``processes`` that have ended; ``excluded``:
    processes out of which it was taken, with when they were started. ``by_policy``: the daemon's
    own, which a policy has it make."""

    inserted: KeptInsertion
    selection: messages.Selection
    limit: int | None
    by_policy: bool
    entered: int
    missed: int
    unseen: int
    sums: dict[str, int]
    words: list[int]
    processes: int
    excluded: dict[int, int]


K = TypeVar("K", KeptProgram, KeptDeployment)


class Kept:
    """The files; without ``folder`` nothing is kept for another daemon."""

    def __init__(self, folder: Path | None = None, former: FormerCounts | None = None) -> None:
        """``former``: what programs had counted under the daemon before this one."""
        self.former: Final = former or FormerCounts([])
        self._folder = folder
        self._boot: Final = boot()
        #: Programs that are about to be put in again, by number and process.
        self.waiting: Final[dict[tuple[int, int], KeptProgram]] = {}
        #: Those that could not be, because of a defect; they stay for the next start.
        self.failed: Final[dict[tuple[int, int], KeptProgram]] = {}
        self._complained = False

    # -- programs --------------------------------------------------------------------------------

    def keep(self, inserted: InsertedProgram) -> None:
        """A program is in a process; one that goes with its client is not kept."""
        if self._folder is None or inserted.owner is not None or inserted.insertion.deployed:
            return
        pid = inserted.target.pid
        insertion = kept_insertion(inserted.insertion, inserted.uid, inserted.gid)
        one = KeptProgram(insertion, pid, procfs.start_time(pid) or 0, self._boot)
        self._write(f"{_PROGRAM}{inserted.number}-{pid}", one)

    def drop(self, inserted: InsertedProgram) -> None:
        """It is out of its process, or that has ended."""
        if inserted.owner is None and not inserted.insertion.deployed:
            self.drop_program(inserted.number, inserted.target.pid)

    def drop_program(self, number: int, pid: int) -> None:
        """One that cannot be gone on with."""
        self._remove(f"{_PROGRAM}{number}-{pid}")

    def give_up(self, matches: Callable[[KeptProgram], bool]) -> int:
        """Have programs not put in again that wait for it, now or at the next start; how many
        there were."""
        chosen = [each for each in self.not_in() if matches(each)]
        for each in chosen:
            key = each.inserted.number, each.pid
            self.waiting.pop(key, None)
            self.failed.pop(key, None)
            self.drop_program(*key)
        return len(chosen)

    def not_in(self) -> list[KeptProgram]:
        """Those that are to be in their process, and are not yet."""
        return [*self.waiting.values(), *self.failed.values()]

    # -- deployments -----------------------------------------------------------------------------

    def keep_deployment(self, one: KeptDeployment) -> None:
        """A deployment, new or with other sums."""
        self._write(f"{_DEPLOYMENT}{one.inserted.number}", one)

    def drop_deployment(self, number: int) -> None:
        """It is removed."""
        self._remove(f"{_DEPLOYMENT}{number}")

    # -- at the start and at the end -------------------------------------------------------------

    def programs(self) -> list[KeptProgram]:
        """Those of daemons before this one."""
        return list(self._found(_PROGRAM, KeptProgram))

    def deployments(self) -> list[KeptDeployment]:
        """Those of daemons before this one."""
        return list(self._found(_DEPLOYMENT, KeptDeployment))

    def begin(self) -> bool:
        """Whether to go on with what is kept: false after ``MOST_TRIES`` daemons that died of it,
        and all of it is given up then."""
        if self._folder is None:
            return False
        path = self._folder / _TRIES
        try:
            tries = int(path.read_text())
        except (OSError, ValueError):
            tries = 0
        if tries >= MOST_TRIES:
            self.clear()
            return False
        with contextlib.suppress(OSError):
            path.write_text(str(tries + 1))
        return True

    def is_well(self) -> None:
        """This daemon has lived on with what was kept."""
        self._remove(_TRIES)

    def clear(self) -> None:
        """Nothing is to be gone on with: everything is taken out."""
        if self._folder is None:
            return
        self._remove(_TRIES)
        for prefix in (_PROGRAM, _DEPLOYMENT, _NEW):
            for path in self._paths(prefix):
                self._remove(path.name)

    def close(self) -> None:
        """The daemon ends: everything is taken out, and what still comes is not kept."""
        self.clear()
        self.waiting.clear()
        self._folder = None

    def _paths(self, prefix: str) -> list[Path]:
        try:
            assert self._folder is not None
            return sorted(self._folder.glob(f"{prefix}*"))
        except OSError:
            return []

    def _found(self, prefix: str, kind: type[K]) -> Iterator[K]:
        for path in self._paths(prefix) if self._folder is not None else ():
            try:
                yield msgspec.msgpack.decode(path.read_bytes(), type=kind)
            except (OSError, msgspec.MsgspecError, ValueError) as error:
                # Of another version, or cut short.
                _log.warning("%s is not gone on with: %s", path, error)
                self._remove(path.name)

    def _write(self, name: str, one: KeptProgram | KeptDeployment) -> None:
        if self._folder is None:
            return
        # Whole or not at all.
        fresh = self._folder / f"{_NEW}{name}"
        try:
            fresh.write_bytes(msgspec.msgpack.encode(one))
            fresh.replace(self._folder / name)
        except OSError as error:
            self._remove(fresh.name)
            if not self._complained:
                _log.warning(
                    "what is inserted now would not be gone on with after a restart: %s: %s",
                    self._folder,
                    error.strerror,
                )
            self._complained = True

    def _remove(self, name: str) -> None:
        if self._folder is not None:
            with contextlib.suppress(OSError):
                os.unlink(self._folder / name)  # noqa: PTH108


def kept_insertion(insertion: Insertion, uid: int, gid: int) -> KeptInsertion:
    """What is kept of an insertion by a user."""
    return KeptInsertion(
        insertion.number,
        uid,
        gid,
        insertion.upload,
        insertion.check_opcode,
        insertion.follow_forks,
        insertion.term,
    )


def insertion_of(kept: KeptProgram | KeptDeployment) -> Insertion | None:
    """As it is inserted again; None: this version does not take it, as is logged."""
    try:
        return kept.inserted.insertion(deployed=isinstance(kept, KeptDeployment))
    except ProgramError as error:
        _log.warning("%s is not gone on with: %s", kept.inserted.upload.label, error)
        return None
