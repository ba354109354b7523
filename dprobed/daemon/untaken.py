"""That nobody takes any more what programs hand over by `exit NAME`: told where they are followed.

A trace session ends, a handler is disarmed, or dies: what comes from then on is in no file, and who
has put the program in, or reads the log, does not see that at its records.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from dprobed.daemon.client import Client
from dprobed.daemon.gate import Gate
from dprobed.daemon.target import InsertedProgram
from dprobed.daemon.targets import Targets
from dprobed.wire import messages
from dprobed.wire.notices import NoticeKind


def tell_untaken(
    gate: Gate,
    targets: Targets,
    followers: Callable[[], Iterable[Client]],
    facility: str,
    number: int,
) -> None:
    """Tell who has programs that hand over to a facility, and who follows their records."""
    asked = {facility, number}
    told: dict[Client, dict[str, None]] = {}
    for target in targets.by_pid.values():
        for inserted in target.programs.values():
            if asked.intersection(inserted.program.facilities):
                for client in _hearing(gate, followers(), inserted):
                    told.setdefault(client, {})[inserted.label] = None
    for client, labels in told.items():
        text = f"{', '.join(labels)}: nothing takes `exit {facility}` any more"
        client.tell(messages.Notice(kind=NoticeKind.HANDLER, pid=messages.KERNEL, tid=0, text=text))


def _hearing(
    gate: Gate, followers: Iterable[Client], inserted: InsertedProgram
) -> Iterable[Client]:
    owner = () if inserted.owner is None else (inserted.owner,)
    return {*owner, *(each for each in followers if gate.sees(each, inserted.uid))}
