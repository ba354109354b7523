"""The targets of this daemon: which processes are traced, and for whom."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, Protocol

from dprobed.daemon import told
from dprobed.daemon.client import Client, Forbidden, Refusal
from dprobed.daemon.exited import ExitedProcesses
from dprobed.daemon.gate import Gate
from dprobed.daemon.kept import Kept
from dprobed.daemon.maps import EndedMaps, maps_of
from dprobed.daemon.target import InsertedProgram, Target
from dprobed.daemon.variables import VariableSums, variables_of
from dprobed.printable import printable
from dprobed.wire import messages, protocol
from dprobed.wire.notices import NoticeKind


class Leaving(Protocol):
    """Is told of the last counters of what leaves (metrics/snapshot.py)."""

    def taken_out(self, inserted: InsertedProgram) -> None:
        """A program has left a process; its counters are its last."""
        ...

    def finished(self, target: Target) -> None:
        """A target has ended, or was detached from."""
        ...


class Targets:
    """All targets by pid; ``exited``: exited processes that had kept programs; ``ended_maps``: what
    those had in maps. ``kept``: what a restarted daemon goes on with; ``followers``: clients that
    follow the log."""

    def __init__(
        self, gate: Gate, kept: Kept | None, followers: Callable[[], Iterable[Client]]
    ) -> None:
        self._gate: Final = gate
        self.kept: Final = kept or Kept()
        self.by_pid: Final[dict[int, Target]] = {}
        self.exited: Final = ExitedProcesses()
        #: Who counts what leaves.
        self.counts: Leaving | None = None
        self._followers: Final = followers
        self.ended_maps: Final = EndedMaps()

    def __contains__(self, pid: object) -> bool:
        """Whether a process is a target, or about to be attached."""
        return pid in self.by_pid

    def select(self, client: Client, select: messages.Select) -> list[InsertedProgram]:
        """The selected programs that the client may see, in exited processes too."""
        return [
            inserted
            for target in (*self.exited, *self.by_pid.values())
            for inserted in target.programs.values()
            if inserted.matches(select) and self._gate.sees(client, inserted.uid)
        ]

    def earlier(self, client: Client, select: messages.Select) -> list[InsertedProgram]:
        """The selected programs of which ``exited`` has only sums."""
        return [each for each in self.exited.earlier(select) if self._gate.sees(client, each.uid)]

    def earlier_infos(self, client: Client, select: messages.Select) -> list[messages.EarlierInfo]:
        """The sums of the selected programs' counters in processes that exited long ago."""
        return [self.exited.info(inserted) for inserted in self.earlier(client, select)]

    def variables(
        self, client: Client, select: messages.Select, chosen: Iterable[InsertedProgram]
    ) -> list[messages.VariablesInfo]:
        """The variables of the ``chosen`` programs, with what ``exited`` has only sums of."""
        infos = {each.number: each for each in variables_of(chosen)}
        for inserted in self.earlier(client, select):
            sums = self.exited.variables(inserted.number)
            if sums is not None:
                total = VariableSums(inserted.program.header)
                total.add(sums.words, sums.processes)
                there = infos.get(inserted.number)
                if there is not None:
                    total.add(there.words, there.processes)
                infos[inserted.number] = total.info(inserted.number, inserted.label)
        return list(infos.values())

    def with_ended_maps(self, client: Client, select: messages.Select) -> list[InsertedProgram]:
        """The selected programs of which ``ended_maps`` has something."""
        found = self.ended_maps.select(select)
        return [each for each in found if self._gate.sees(client, each.uid)]

    def sees(self, client: Client, target: Target) -> bool:
        """Whether a client may see a target."""
        return target.attached and (
            self._gate.sees(client, target.uid)
            or client in target.clients()
            or any(inserted.uid == client.uid for inserted in target.programs.values())
        )

    def seen(self, client: Client) -> list[Target]:
        """The targets that a client may see."""
        return [target for target in self.by_pid.values() if self.sees(client, target)]

    def live(self, client: Client, pid: int) -> Target:
        """A target that the client may see; raises Refusal."""
        target = self.by_pid.get(pid)
        text = f"process {pid} is not traced by this daemon"
        if target is None:
            raise Refusal(self._ended(client, pid) or text)
        if not self.sees(client, target):
            raise Forbidden(text, "another user's target", pid)
        return target

    def _ended(self, client: Client, pid: int) -> str:
        """What to say of a process that has ended, if the client has a program there."""
        for target in reversed(tuple(self.exited)):
            there = target.programs.values()
            if target.pid == pid and any(self._gate.sees(client, each.uid) for each in there):
                how = target.reason or target.end
                return (
                    f"process {pid} ({target.comm}) has ended: {how}; `dprobe query` shows the rest"
                )
        return ""

    def missing(self, select: messages.Select, text: str) -> Refusal:
        """The refusal of who sees no such program: it is noted where somebody else has one."""
        there = (*self.exited, *self.by_pid.values())
        programs = (inserted for target in there for inserted in target.programs.values())
        if any(inserted.matches(select) for inserted in programs):
            return Forbidden(text, "another user's program", select.pid)
        return Refusal(text)

    def held(self, client: Client, pid: int) -> Target:
        """A target that this client has attached to; raises Refusal."""
        target = self.live(client, pid)
        if client not in target.holders:
            raise Refusal(f"process {pid} is not attached by this connection; send `attach` first")
        return target

    def has(self, number: int) -> bool:
        """Whether the program of this number is in any process."""
        return any(number in target.programs for target in self.by_pid.values())

    def program(self, pid: int, number: int) -> InsertedProgram | None:
        """The program of this number in a process."""
        target = self.by_pid.get(pid)
        return target.programs.get(number) if target is not None else None

    def taken_out(self, inserted: InsertedProgram) -> None:
        """A program has left a process, which may have ended."""
        self.kept.drop(inserted)
        if self.counts is not None:
            self.counts.taken_out(inserted)

    def finish(self, target: Target, ended: protocol.Ended | None, failure: str) -> None:
        """A target has ended, was detached from, or lost its tracer (``failure``)."""
        if target.finished.is_set():
            return
        if self.by_pid.get(target.pid) is target:
            del self.by_pid[target.pid]
        if ended is not None and ended.how == "failed":
            failure = told.DEFECT
        if failure:
            target.fail(failure)
        target.finished.set()
        for inserted in target.programs.values():
            self.taken_out(inserted)
        if self.counts is not None:
            self.counts.finished(target)
        if target.tracer is not None:
            target.tracer.drop(target)
        if not target.attached:
            return
        how, status = ("failed", 0) if ended is None else (ended.how, ended.status)
        for client in target.clients():
            own = target.owned_by(client)
            client.tell(
                messages.Ended(
                    pid=target.pid,
                    how=how,
                    status=status,
                    reason=target.reason,
                    probes=[info for inserted in own for info in inserted.probe_infos()],
                    overhead_ns=target.overhead_ns,
                    variables=variables_of(own),
                    maps=maps_of(own),
                )
            )
        kept = [inserted for inserted in target.programs.values() if inserted.owner is None]
        if how == "detached":
            return
        for inserted in kept:
            self.ended_maps.add(inserted)
        text = target.reason or target.end
        if kept:
            self.exited.add(target, kept)
            what = f"process {target.pid} ({target.comm}) with {len(kept)} programs"
            self._gate.history.note(target.uid, f"{what}: {text}", "end")
            self._tell_followers(target, kept)
        elif target.asked_for:
            what = f"process {target.pid} ({target.comm})"
            self._gate.history.note(target.uid, f"{what}: {text}", "end")

    def _tell_followers(self, target: Target, kept: Iterable[InsertedProgram]) -> None:
        """Say that a process has ended to who follows the records of programs in it."""
        for follower in self._followers():
            names = [each.label for each in kept if self._gate.sees(follower, each.uid)]
            if names:
                what = f"{target.what} ({printable(target.comm)}) with {', '.join(names)}"
                text = f"{what} has ended: {target.reason or target.end}"
                follower.tell(
                    messages.Notice(kind=NoticeKind.END, pid=target.pid, tid=target.pid, text=text)
                )
