"""``dprobe attach``: probes in a running process, for a while."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from dprobe.lib.session import Session, Waker, daemon, load_programs
from dprobe.view.output import Output, complain
from dprobed.wire.limits import Limits


class _Stop:
    """The first signal ends the session in good order, a second one at once."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None

    def handler(self, number: signal.Signals) -> Callable[[], None]:
        """The function for a signal."""

        def stop() -> None:
            if self.signal is not None:
                raise KeyboardInterrupt
            self.signal = number

        return stop


def attach(
    pid: int,
    programs: Sequence[str],
    *,
    socket: Path | None,
    duration: float | None,
    defines: dict[str, str],
    groups: Sequence[int],
    types: Sequence[int],
    check_opcode: bool,
    form: str,
    path: str | None,
    follow_forks: bool,
    budget: Limits | None,
) -> int:
    """Probes in ``pid`` until Ctrl-C, ``duration`` seconds, its end or theirs; the exit status.

    With ``follow_forks`` until the end of its children, too.
    """
    with daemon(socket) as connect:
        uploads = load_programs(programs, defines, groups, types, budget)
        output = Output(form, path, 1)
        stop = _Stop()
        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        connection = connect()
        session = Session(connection, output, pid, follow_forks=follow_forks)
        count = session.insert(uploads, launch=False, check_opcode=check_opcode)
        deadline = None if duration is None else time.monotonic() + duration
        with Waker({number: stop.handler(number) for number in numbers}) as waker:
            until = "Ctrl-C" if duration is None else f"{duration:g} s are over"
            probes = "1 probe" if count == 1 else f"{count} probes"
            complain(f"{probes} in process {pid}, until {until}")
            while not (session.over or session.spent or stop.signal or output.broken):
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    break
                if waker.wait(connection, left):
                    session.receive()
            if session.spent and not session.over:
                complain(
                    "no probe is there that could fire" if session.vain else "no probe is left"
                )
            failed = session.ended is not None and session.ended.how == "failed"
            output.summary(session.detach())
            output.close()
        if session.ended is not None and failed:
            complain(session.ended.reason)
        connection.close()
    if stop.signal in (signal.SIGTERM, signal.SIGHUP):
        return 128 + stop.signal
    if session.vain:
        return 2
    return 1 if failed or output.broken else 0
