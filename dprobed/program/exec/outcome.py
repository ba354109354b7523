"""What one run of a probe program hands back.

``Outcome.exit`` is 0 for a plain end, n > 0 for facility n, or one of the codes below.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

#: ``abort``: there is no record.
ABORT: Final = -1
#: ``rem``: there is a record, and the probe is to be removed.
REM: Final = -2
#: An exception that no handler took; what was logged before it is in the record.
EXCEPTION: Final = -3
#: The program did more than ``INSTRUCTION_BUDGET`` allows; what was logged is in the record.
BUDGET: Final = -4

#: Instructions of one hit at most. An instruction counts as one more for each full 64 bytes (8
#: words) that it moves: `log str` and `log mrf` of the length asked for, up to logmax; `malloc` of
#: the block; a stack trace of what it adds. A straight run of instructions (no jump into it or out
#: of it, no call, no handler) is begun only if all that is known of its cost is left.
INSTRUCTION_BUDGET: Final = 1_000_000


class Outcome:
    """The result of one hit.

    ``log``: the items, the exception trace last; ``raw``: where words without prefix lie in it, a
    flat run of (byte offset, number of words). ``major``, ``minor``: the record's numbers.
    ``exception``: code, parm1 and parm2 of the exception that ended the program. ``suspend``: hold
    the thread; ``resume``: let go every thread of the target that is held.
    """

    __slots__ = ("exception", "exit", "log", "major", "minor", "raw", "resume", "suspend")

    def __init__(
        self,
        exit_: int,
        log: bytes,
        raw: tuple[int, ...],
        major: int,
        minor: int,
        exception: tuple[int, int, int] | None,
        suspend: bool,
        resume: bool,
    ) -> None:
        self.exit = exit_
        self.log = log
        self.raw = raw
        self.major = major
        self.minor = minor
        self.exception = exception
        self.suspend = suspend
        self.resume = resume

    def _values(self) -> Sequence[object]:
        return [getattr(self, name) for name in self.__slots__]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Outcome) and self._values() == other._values()

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        shown = zip(self.__slots__, self._values(), strict=True)
        return f"Outcome({', '.join(f'{name}={value!r}' for name, value in shown)})"
