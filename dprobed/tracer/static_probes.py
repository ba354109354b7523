"""Static probes (USDT) of one target: their semaphores are counted up while probes are there."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from dprobed.engine.address_space import AddressSpace
from dprobed.engine.errors import SpaceError
from dprobed.engine.interface import Plan, Refusal
from dprobed.engine.probe import Attachment, Located
from dprobed.wire.protocol import State


def count_up(
    space: AddressSpace, plans: Sequence[Plan]
) -> tuple[list[tuple[Plan, Attachment | Refusal]], list[Plan]]:
    """Count up the semaphores of these plans; those of which that is not possible, and the rest."""
    words = [plan.location.semaphore for plan in plans if plan.location.semaphore]
    shared = space.in_shared(words) if words else {}
    refused: list[tuple[Plan, Attachment | Refusal]] = []
    ready = []
    for plan in plans:
        address = plan.location.semaphore
        try:
            if address in shared:
                raise SpaceError(f"its semaphore at {address:#x} is in memory that others share")
            if address:
                space.semaphores.need(address)
            ready.append(plan)
        except SpaceError as error:
            refused.append((plan, Refusal(State.FAILED, str(error))))
    return refused, ready


def count_down(space: AddressSpace, places: Iterable[Located]) -> None:
    """Count down those of places that no probe is at any more."""
    for each in places:
        if each.semaphore:
            space.semaphores.release(each.semaphore)


def keep_up(copy: AddressSpace, attachments: Iterable[Located]) -> None:
    """Keep those up that attachments in a ``fork`` child's copy need."""
    for each in attachments:
        if each.semaphore:
            copy.semaphores.need(each.semaphore)
