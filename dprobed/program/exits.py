"""How one run of a probe program can end, by number and by name.

An exit is 0 for a plain end, n > 0 for facility n, or one of the negative codes below.
"""

from __future__ import annotations

from typing import Final

EXIT: Final = 0
#: ``abort``: there is no record.
ABORT: Final = -1
#: ``rem``: there is a record, and the probe is to be removed.
REM: Final = -2
#: An exception that no handler took; what was logged before it is in the record.
EXCEPTION: Final = -3
#: The program did more than ``INSTRUCTION_BUDGET`` allows; what was logged is in the record.
BUDGET: Final = -4

#: ``exit dump`` of which no core was begun: in records only, in place of the facility's number.
NO_DUMP: Final = -5
#: ``exit debugger`` at which nothing is held: in records only, in place of the facility's number.
NO_DEBUGGER: Final = -7
#: ``exit dump once``: what becomes of it is decided at the hit. In no record.
DUMP_ONCE: Final = -6

#: The exits of records that are no facility's, by the name that a record gives them.
EXIT_NAMES: Final = {
    EXIT: "exit",
    REM: "rem",
    EXCEPTION: "exception",
    BUDGET: "budget",
    NO_DUMP: "no dump",
    NO_DEBUGGER: "no debugger",
}

#: Names of ways to end that no facility can have.
NOT_FACILITIES: Final = (*EXIT_NAMES.values(), "abort")

#: Facilities with a number that programs know (the original's).
DEBUGGER: Final = 1
DUMP: Final = 3
TRACE: Final = 4
FACILITIES: Final = {"debugger": DEBUGGER, "dump": DUMP, "trace": TRACE}

_IN_VAIN: Final = {NO_DUMP: DUMP, NO_DEBUGGER: DEBUGGER}


def facility_of(exit_: int) -> int:
    """The facility whose record it is, by the record's exit; no positive number: none's."""
    return _IN_VAIN.get(exit_, exit_)


#: Instructions of one hit at most. An instruction counts as one more for each full 64 bytes (8
#: words) that it moves: `log str` and `log mrf` of the length asked for, up to logmax; `malloc` of
#: the block; a stack trace of what it adds. A straight run of instructions (no jump into it or out
#: of it, no call, no handler) is begun only if all that is known of its cost is left.
INSTRUCTION_BUDGET: Final = 1_000_000
