"""A site that is to be armed, and what it is to lead to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from dprobed.arch.x86_64.jump import JUMP_SIZE
from dprobed.arch.x86_64.placeable import LONGEST
from dprobed.arch.x86_64.relocation import RelocationError, instruction_length
from dprobed.engine.errors import SpaceError
from dprobed.engine.inline.placing import Placer
from dprobed.engine.inline.sites import JumpAttachment, JumpSite, JumpTrampoline
from dprobed.engine.interface import Plan, Refusal
from dprobed.wire.protocol import State


class Prepared:
    """A site that is to be armed, and what it is to lead to."""

    def __init__(self, site: JumpSite) -> None:
        self.site: Final = site
        self.made: JumpTrampoline | None = None
        self._plans: Final[list[tuple[Plan, JumpAttachment]]] = []

    def add(self, plan: Plan) -> None:
        """It is for this, too."""
        self._plans.append((plan, JumpAttachment(plan.probe, plan.location, self.site)))

    @property
    def new(self) -> list[JumpAttachment]:
        """The places of probes that are to be added."""
        return [attachment for _, attachment in self._plans]

    def has(self, plan: Plan) -> bool:
        """Whether it is for this."""
        return any(each is plan for each, _ in self._plans)

    def attachment(self, plan: Plan) -> JumpAttachment:
        """The place of a plan's probe."""
        return next(attachment for each, attachment in self._plans if each is plan)


_NO_JUMP: Final = (
    "its instruction is shorter than a jump, and where one could lead to, nothing can be mapped"
)


def prepare(
    placer: Placer, plans: Sequence[Plan], ready: dict[int, Prepared]
) -> list[tuple[Plan, Refusal]]:
    """Make what the sites of these plans are to lead to; those that are impossible. Raises
    SpaceError and Gone."""
    refused = []
    for plan in plans:
        address = plan.location.address
        try:
            if address not in ready:
                ready[address] = Prepared(_site(placer, address))
            ready[address].add(plan)
        except RelocationError as error:
            refused.append((plan, Refusal(State.FAILED, str(error))))
    placer.pun(each.site for each in ready.values())
    for prepared in ready.values():
        site = prepared.site
        try:
            if len(site.original) < JUMP_SIZE and site.pun is None:
                raise SpaceError(_NO_JUMP)
            # While the target still runs: nothing leads there yet.
            prepared.made = placer.build(site, site.attachments + prepared.new)
        except SpaceError as error:
            refusal = Refusal(State.FAILED, str(error))
            refused += [(plan, refusal) for plan in plans if prepared.has(plan)]
    return refused


def _site(placer: Placer, address: int) -> JumpSite:
    known = placer.sites.by_address.get(address)
    if known is not None:
        return known
    text = placer.text(address, LONGEST)
    return JumpSite(address, text[: instruction_length(text, address)])
