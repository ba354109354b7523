"""Serves the daemon's requests to a tracer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from dprobed.corefile.store import StoreError
from dprobed.engine.errors import SpaceError
from dprobed.proc.maps import MapsError
from dprobed.resolver.errors import LocationError
from dprobed.tracee.borrower import Asleep
from dprobed.tracee.ptrace import Gone
from dprobed.tracer.dump.admission import DumpError
from dprobed.tracer.inserted import Inserted, RequestError
from dprobed.tracer.orphans import Orphans
from dprobed.tracer.target import TracedProcess
from dprobed.tracer.targets import Targets
from dprobed.wire import protocol

if TYPE_CHECKING:
    from dprobed.tracer.dump.at_hits import Result

#: Requests that are answered for a target that has ended, too, until its end is reported.
_OF_AN_ENDED: Final = (protocol.Query, protocol.Detach)
#: Why a request is refused.
_REFUSALS: Final = (RequestError, SpaceError, MapsError, LocationError, DumpError, StoreError)


class Requests:
    """Serves the requests to one tracer."""

    def __init__(self, targets: Targets) -> None:
        self._targets: Final = targets
        self._context: Final = targets.context
        self._reporter: Final = targets.context.reporter

    def serve(self, request: protocol.Request) -> None:
        """Serve a request and answer it; raises internal errors after answering them."""
        answer: protocol.Ok | None
        try:
            match request:
                case protocol.Attach():
                    self._targets.attach(request)
                    answer = protocol.Ok(request.seq)
                case protocol.Recover():
                    answer = protocol.Ok(request.seq, tids=Orphans(self._targets).recover())
                case protocol.Facilities():
                    self._use_facilities(request.facilities, request.acting)
                    answer = protocol.Ok(request.seq)
                case _:
                    answer = self._ask(self._target(request.pid), request)
        except _REFUSALS as error:
            self._reporter.send(protocol.Refused(request.seq, " ".join(str(error).split())))
        except Asleep as error:
            self._reporter.send(protocol.Refused(request.seq, str(error)))
        except Gone as error:
            self._reporter.send(protocol.Refused(request.seq, f"process {error.tid} is gone"))
        except Exception as error:
            reason = f"internal error: {type(error).__name__}: {error}; detached from the process"
            self._reporter.send(protocol.Refused(request.seq, reason))
            raise
        else:
            if answer is not None:
                self._reporter.send(answer)
        self._context.tracees.blamed = None

    def _target(self, pid: int) -> TracedProcess:
        target = self._targets.by_pid.get(pid)
        if target is None:
            raise RequestError(f"process {pid} is no target of this tracer; attach to it first")
        return target

    def _ask(self, target: TracedProcess, request: protocol.Request) -> protocol.Ok | None:
        """Serve a request about one target; None: it is answered later."""
        self._context.tracees.blamed = target.group
        if target.end is not None and not isinstance(request, _OF_AN_ENDED):
            raise Gone(target.pid)
        if target.detachment.is_due and not isinstance(request, _OF_AN_ENDED):
            raise RequestError(
                f"process {target.pid} is being detached from, as soon as it wakes: it sleeps in "
                "the kernel"
            )
        seq = request.seq
        match request:
            case protocol.Adjust():
                target.adjust(request)
                return protocol.Ok(seq)
            case protocol.Insert():
                self._use_facilities(request.facilities, request.acting)
                probes = target.programs.insert(request, self._context.facilities)
                return protocol.Ok(seq, probes=probes)
            case protocol.Remove():
                return self._removed(seq, target.programs.remove(request.program))
            case protocol.Maps():
                return protocol.Ok(seq, maps=target.programs.maps.read(request))
            case protocol.SetMap():
                target.programs.maps.write(request)
                return protocol.Ok(seq)
            case protocol.Vars():
                return protocol.Ok(seq, words=target.programs.variables(request))
            case protocol.Resume():
                return protocol.Ok(seq, tids=self._resume(target, request.tid))
            case protocol.Dump():
                target.dumps.request(
                    target.pid, request.zstd, lambda result: self._dumped(seq, result)
                )
                return None
            case protocol.Detach():
                target.detachment.ask(
                    lambda: self._detached(seq, target), lambda: self._taken_out(seq, target)
                )
                return None
            case protocol.Query():
                return self._query(seq, target)
            case _:
                raise RequestError(f"a target has no answer to {type(request).__name__}")

    @staticmethod
    def _resume(target: TracedProcess, tid: int | None) -> list[int]:
        """Resume suspended threads, and a process held for a debugger; raises RequestError."""
        tids = target.suspended.resume(tid)
        if tid is None or tid in target.debugger.held:
            tids += target.debugger.release()
        if tid is not None and not tids:
            raise RequestError(f"thread {tid} is not held")
        return tids

    @staticmethod
    def _removed(seq: int, chosen: list[Inserted]) -> protocol.Ok:
        """The last of their probes, variables and maps."""
        return protocol.Ok(
            seq,
            probes=[probe.status() for each in chosen for probe in each.probes],
            variables=[each.variables() for each in chosen if each.program.header.vars],
            last_maps=[state for each in chosen for state in each.maps("clear")],
        )

    @staticmethod
    def _query(seq: int, target: TracedProcess) -> protocol.Ok:
        """States and counters."""
        if target.end is None:
            target.programs.places.fail_overwritten()
        return protocol.Ok(
            seq,
            probes=target.programs.statuses(),
            suspended=[thread.tid for thread in target.suspended.threads()],
            overhead_ns=target.group.overhead_ns,
            debugger=target.debugger.status(),
            variables=target.programs.local_variables(),
            map_use=target.programs.maps.use(),
            unguarded=target.engines.why_unguarded(),
            stopped_ns=target.group.stopped_ns(target.pid),
        )

    def _dumped(self, seq: int, result: Result) -> None:
        if result.error:
            self._reporter.send(protocol.Refused(seq, result.error))
            return
        status = protocol.DumpStatus(
            result.path,
            result.bytes,
            result.size,
            result.how,
            result.pause_ns,
            result.seconds,
        )
        self._reporter.send(protocol.Ok(seq, dump=status))

    def _detached(self, seq: int, target: TracedProcess) -> None:
        if self._targets.by_pid.get(target.pid) is not target:
            # Who asked first has been answered with all that there was to say.
            if not target.detachment.is_asleep:
                self._reporter.send(protocol.Ok(seq))
            return
        if not target.detachment.is_asleep:
            self._taken_out(seq, target)
        self._targets.finish(target, target.end or ("detached", 0))

    def _taken_out(self, seq: int, target: TracedProcess) -> None:
        """Answer: the probes are out, whether or not we could detach."""
        self._reporter.send(
            protocol.Ok(
                seq,
                probes=target.programs.statuses(),
                overhead_ns=target.group.overhead_ns,
                variables=target.programs.local_variables(),
                last_maps=target.programs.maps.last(),
            )
        )

    def _use_facilities(self, facilities: dict[str, int], acting: list[int] | None) -> None:
        self._context.acting = acting
        self._context.facilities.clear()
        self._context.facilities.update(facilities)
