"""The rate limit of probes: what they may cost a process, for clients, policies and tracers.

One type for all three, so that a limit goes from a command line or a policy to the account that is
kept of it (engine/budget.py) without being translated.
"""

from __future__ import annotations

from typing import Annotated

import msgspec


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What may be spent: ``share`` of a process's time (1 is all of one CPU's), ``hits`` a second.

    A program over them is throttled until it is within them again, or with ``remove`` removed for
    good. ``rule``: the policy that says so, for people; empty: whoever inserted the program.
    """

    share: Annotated[float, msgspec.Meta(gt=0, le=1)] | None = None
    hits: Annotated[float, msgspec.Meta(gt=0)] | None = None
    remove: bool = False
    rule: str = ""

    def set_by(self, rule: str) -> Limits | None:
        """The same limits, as those of a rule; None: nothing is limited."""
        if self.share is None and self.hits is None:
            return None
        return msgspec.structs.replace(self, rule=rule)
