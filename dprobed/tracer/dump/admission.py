"""Admits or refuses the dumps that probes ask for, counts them, and tells of refused ones.

The store says how many dumps a probe may have in an hour, and in all. It is asked by the helper
process, since its file system may not answer, and not at each hit: what was refused once is refused
for a while without asking. Each probe and each reason has a rate limit of its own for notices.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import msgspec

from dprobed.corefile import store
from dprobed.corefile.store import StoreError, StoreLimits
from dprobed.engine.probe import Probe
from dprobed.proc import helper
from dprobed.program.bytecode import encode
from dprobed.program.model import Program
from dprobed.wire.protocol import OTHER_REASONS

#: Seconds between two notices that dumps of one probe are refused for one reason.
_QUIET: Final = 10.0
#: Seconds for which a dump is refused without asking again; after each that failed twice as many.
_BARRED: Final = 1.0
_MOST_BARRED: Final = 60.0
#: Reasons that are counted one by one for a probe.
_CAUSES: Final = 16
#: Bytes of the digest that names a probe.
_DIGEST: Final = 16


class DumpError(StoreError):
    """A dump is refused; one line."""


class _Untold(msgspec.Struct, frozen=True):
    """A notice that is to be sent."""

    reason: str
    count: int
    tid: int


class _Bar(msgspec.Struct, frozen=True):
    """No dump is admitted until then (monotonic)."""

    until: float
    error: StoreError


def identity(program: Program, index: int) -> str:
    """What names a probe in the store: the same program's same probe, whoever inserts it where.

    Comments and the places of lines make no difference.
    """
    bare = msgspec.structs.replace(
        program, lines=(), columns=(), sources=(), name_at=None, probes_at=()
    )
    digest = hashlib.blake2b(encode(bare), digest_size=_DIGEST)
    return f"{digest.hexdigest()}.{index}"


@helper.job
def _look(values: Sequence[helper.Value], _: Sequence[int]) -> tuple[list[helper.Value], int]:
    """In the helper: ask the store; nothing comes back, or text and cause of a refusal."""
    limits = msgspec.msgpack.decode(values[0], type=_Asked)  # type: ignore[arg-type]
    try:
        store.look(limits.limits(), limits.probe)
    except StoreError as error:
        return [str(error), error.cause], -1
    return [], -1


@helper.job
def _tidy(values: Sequence[helper.Value], _: Sequence[int]) -> tuple[list[helper.Value], int]:
    store.tidy(Path(os.fsdecode(values[0])))  # type: ignore[arg-type]
    return [], -1


class _Asked(msgspec.Struct, frozen=True):
    """The question to the store."""

    folder: bytes
    count: int
    most: int
    hourly: int
    probe: str

    def limits(self) -> StoreLimits:
        return StoreLimits(Path(os.fsdecode(self.folder)), self.count, self.most, self.hourly)


def look(limits: StoreLimits, probe: str = "") -> None:
    """Raise StoreError where the store would begin no dump now."""
    folder = os.fsencode(limits.folder)
    asked = _Asked(folder, limits.count, limits.bytes, limits.hourly, probe)
    try:
        found, _ = helper.HELPER.do(("dumps", folder), _look, [msgspec.msgpack.encode(asked)])
    except OSError as error:
        raise store.failed(limits.folder, error) from None
    if found:
        text, cause = found
        raise StoreError(str(text), str(cause))


def tidy(limits: StoreLimits) -> None:
    """Remove what a writer left that was killed; raises OSError."""
    folder = os.fsencode(limits.folder)
    helper.HELPER.do(("dumps", folder), _tidy, [folder])


class Admission:
    """Admits or refuses the dumps that probes of one target ask for.

    ``tell``: why there is no core, how often so far, thread id. ``identify``: what names a probe in
    the store.
    """

    def __init__(
        self, tell: Callable[[str, int, int], None], identify: Callable[[Probe], str]
    ) -> None:
        self._tell: Final = tell
        self._identify: Final = identify
        self._names: Final[dict[tuple[int, int], str]] = {}
        self._barred: Final[dict[str, _Bar]] = {}
        #: Probes whose last dumps failed: seconds until the next is tried.
        self._pauses: Final[dict[str, float]] = {}
        self._quiet_until: Final[dict[tuple[str, str], float]] = {}
        self._untold: list[_Untold] = []

    def name_of(self, probe: Probe) -> str:
        """What names a probe in the store."""
        key = probe.program, probe.index
        found = self._names.get(key)
        if found is None:
            found = self._names[key] = self._identify(probe)
        return found

    def admit(self, probe: Probe) -> StoreLimits:
        """The limits in force for a dump of this probe; raises StoreError."""
        name = self.name_of(probe)
        bar = self._barred.get(name)
        if bar is not None and time.monotonic() < bar.until:
            raise bar.error
        try:
            limits = store.limits()
            look(limits, name)
        except StoreError as error:
            self._barred[name] = _Bar(time.monotonic() + _BARRED, error)
            raise
        return limits

    def failed(self, probe: Probe, error: StoreError) -> None:
        """Admit no dump of this probe for a while: each may have filled a disk in vain."""
        name = self.name_of(probe)
        pause = self._pauses.get(name, _BARRED)
        self._pauses[name] = min(2 * pause, _MOST_BARRED)
        self._barred[name] = _Bar(time.monotonic() + pause, error)

    def succeeded(self, probe: Probe) -> None:
        """A core was written for this probe."""
        self._pauses.pop(self.name_of(probe), None)

    def refuse(self, probe: Probe, error: StoreError, tid: int) -> bool:
        """Count a dump that was refused, or failed; whether ``tell`` is to be called."""
        causes = probe.no_dumps
        cause = error.cause if error.cause in causes or len(causes) < _CAUSES else OTHER_REASONS
        count = causes[cause] = causes.get(cause, 0) + 1
        key = self.name_of(probe), cause
        now = time.monotonic()
        if now < self._quiet_until.get(key, 0.0):
            return False
        self._quiet_until[key] = now + _QUIET
        self._untold.append(_Untold(str(error), count, tid))
        return True

    def tell(self) -> None:
        """Send the notices that are due."""
        untold, self._untold = self._untold, []
        for each in untold:
            self._tell(each.reason, each.count, each.tid)
