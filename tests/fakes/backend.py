"""A backend that follows a script: the daemon's own logic without a process.

By itself it does what a good tracer would: every request is done, each probe is active at one
place, ``Detach`` is followed by ``Ended``. A test makes it wait (``pause``), refuse (``refuse``),
tell whatever it likes (``tell``) or die (``die``), at exactly the moment that it chooses.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from dprobed.backend import PATIENCE, BackendGone, Backends, Late, OnEvent
from dprobed.daemon.answers import Answers
from dprobed.daemon.app import App, build_public
from dprobed.daemon.child_process import User
from dprobed.daemon.gate import Gate
from dprobed.daemon.kept import Kept
from dprobed.daemon.resolver_process import Resolvers
from dprobed.policy.config import Config
from dprobed.policy.store import PolicyStore
from dprobed.proc.processes import Process
from dprobed.program.bytecode import decode, encode
from dprobed.program.rpn.parser import assemble
from dprobed.resolver.files import Ask
from dprobed.wire import messages, protocol
from dprobed.wire.protocol import ProbeStatus, RawRecord, State
from dprobed.wire.resolver import Answer, Question

R = TypeVar("R")
#: Numbers of processes that no kernel gives out: PID_MAX_LIMIT is 1 << 22.
PID = (1 << 22) + 100
PROGRAM = encode(assemble("name = libc.so.6\noffset = getppid\nexit\n", "x.rpn"))


def status(program: int, probe: int = 0, **changes: object) -> ProbeStatus:
    """One probe as a tracer tells of it."""
    given = {"hits": 0, "ran": 0, "missed": 0, "dropped": 0, "faulted": 0, **changes}
    return ProbeStatus(
        program=program,
        probe=probe,
        state=State.ACTIVE,
        module="/lib/libc.so.6",
        place="getppid+0x0",
        reason="",
        addresses=[0x1000],
        **given,  # type: ignore[arg-type]
    )


def record(program: int, place: int, *, probe: int = 0, pid: int = PID, hit: int = 1) -> RawRecord:
    """One hit as a tracer tells of it."""
    return RawRecord(
        program, probe, place, pid, pid, b"cat", 1000, 0, 7, hit, 0, 1, 1, b"", (), None
    )


class Pause:
    """A request that waits in the backend: ``came`` when it is there, ``go`` lets it be done."""

    def __init__(self) -> None:
        self.came = asyncio.Event()
        self.go = asyncio.Event()


class FakeBackend:
    """Holds probes in nothing."""

    name = "fake"

    def __init__(self, on_event: OnEvent, user: tuple[int, int]) -> None:
        self.user = user
        self.gone: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.asked: list[protocol.Request] = []
        self.closed = False
        #: Seconds after which no answer is waited for, if it is to take less than it does.
        self.hurry: float | None = None
        self.programs: dict[int, dict[int, int]] = {}
        #: By program: hits of each of its probes.
        self.hits: dict[int, int] = {}
        #: Variables.
        self.words: list[int] = []
        #: What is in maps.
        self.maps: list[protocol.MapState] = []
        self._on_event = on_event
        self._answers = Answers("the tracer")
        self._working: set[asyncio.Task[None]] = set()
        self._pauses: dict[type, list[Pause]] = {}
        self._refusals: dict[type, list[str]] = {}

    @property
    def is_silent(self) -> bool:
        """Whether it missed a deadline."""
        return self._answers.is_silent

    @property
    def waits(self) -> float:
        """Since the oldest request without an answer."""
        return self._answers.waits

    async def heard(self) -> None:
        """Wait until it answers again."""
        await self._answers.heard()

    async def request(
        self,
        make: Callable[[int], protocol.Request],
        patience: float | None = PATIENCE,
        late: Late | None = None,
    ) -> protocol.Ok:
        """Do what the script says, else what a good tracer would; ``patience``: as it is, or what
        ``hurry`` says."""
        await self._answers.admit()
        if self.closed or self.gone.done():
            raise BackendGone("the tracer ended")
        request = make(len(self.asked) + 1)
        self.asked.append(request)
        if patience is not None and self.hurry is not None:
            patience = self.hurry
        answer = self._answers.expect(request, patience, late)
        working = asyncio.create_task(self._work(request))
        self._working.add(working)
        working.add_done_callback(self._working.discard)
        return await answer

    async def _work(self, request: protocol.Request) -> None:
        if pauses := self._pauses.get(type(request)):
            pause = pauses.pop(0)
            pause.came.set()
            await pause.go.wait()
        if self.gone.done():
            return
        if refusals := self._refusals.get(type(request)):
            self._answers.take(protocol.Refused(request.seq, refusals.pop(0)))
        else:
            self._answers.take(self._done(request))

    def _done(self, request: protocol.Request) -> protocol.Ok:
        match request:
            case protocol.Attach():
                self.programs[request.pid] = {}
            case protocol.Insert():
                count = len(decode(request.bytecode).probes)
                self.programs[request.pid][request.program] = count
                return protocol.Ok(request.seq, self.statuses(request.pid))
            case protocol.Remove():
                assert request.program is not None
                last = self.statuses(request.pid)
                self.programs[request.pid].pop(request.program, None)
                out = [each for each in last if each.program == request.program]
                return protocol.Ok(request.seq, out)
            case protocol.Query():
                return protocol.Ok(request.seq, self.statuses(request.pid))
            case protocol.Vars():
                return protocol.Ok(request.seq, words=self.words)
            case protocol.Maps():
                return protocol.Ok(request.seq, maps=self.maps)
            case protocol.Detach():
                statuses = self.statuses(request.pid)
                self.programs.pop(request.pid, None)
                self.tell(protocol.Ended(request.pid, "detached", 0, statuses, 0))
        return protocol.Ok(request.seq)

    def statuses(self, pid: int) -> list[ProbeStatus]:
        """All probes in a process."""
        programs = self.programs.get(pid, {})
        return [
            status(number, probe, hits=self.hits.get(number, 0))
            for number, count in programs.items()
            for probe in range(count)
        ]

    def close(self) -> None:
        """End as a good tracer does."""
        if not self.closed:
            self.closed = True
            asyncio.get_running_loop().call_soon(self.die, "")

    async def recover(self) -> None:
        """It left nothing."""

    # -- the script ----------------------------------------------------------------------------

    def pause(self, kind: type[protocol.Request]) -> Pause:
        """Have the next request of a type wait."""
        pause = Pause()
        self.pauses(kind, pause)
        return pause

    def pauses(self, kind: type[protocol.Request], pause: Pause) -> None:
        """As ``pause``, by one that is there."""
        self._pauses.setdefault(kind, []).append(pause)

    def refuse(self, kind: type[protocol.Request], reason: str) -> None:
        """Have the next request of a type refused."""
        self._refusals.setdefault(kind, []).append(reason)

    def tell(self, event: protocol.Event) -> None:
        """Tell the daemon something."""
        self._answers.hear()
        self._on_event(self, event)

    def die(self, how: str) -> None:
        """Come to an end."""
        if not self.gone.done():
            for each in self._working:
                each.cancel()
            self._answers.end("the tracer ended")
            self.gone.set_result(how)

    def of(self, kind: type[R]) -> list[R]:
        """What it was asked of a type."""
        return [request for request in self.asked if isinstance(request, kind)]


class FakeBackends:
    """Starts them; ``made``: all that there ever were."""

    def __init__(self) -> None:
        self.made: list[FakeBackend] = []
        self.pids: frozenset[int] = frozenset()
        #: By the owner of the processes.
        self.recovering: dict[int, list[asyncio.Future[None]]] = {}
        self._next: tuple[type[protocol.Request], Pause] | None = None

    async def start(self, on_event: OnEvent, *, uid: int, gid: int, owner: int) -> FakeBackend:
        """One more."""
        backend = FakeBackend(on_event, (uid, gid))
        self.made.append(backend)
        if self._next is not None:
            kind, pause = self._next
            self._next = None
            backend.hurry = 0.01
            backend.pauses(kind, pause)
        await asyncio.sleep(0)
        return backend

    def pause_next(self, kind: type[protocol.Request]) -> Pause:
        """Have the first request of a type to the next one wait, and nobody for long for it."""
        pause = Pause()
        self._next = kind, pause
        return pause

    def recoveries(self, owner: int) -> list[asyncio.Future[None]]:
        """Those that the test has made."""
        return [each for each in self.recovering.get(owner, []) if not each.done()]

    async def recover_orphans(self, patience: float) -> None:
        """There are none."""

    async def stop(self, patience: float) -> int:
        """End all of them."""
        for backend in self.made:
            backend.close()
        await asyncio.gather(*(backend.gone for backend in self.made))
        return 0


class FakeResolvers(Resolvers):
    """Read no file: ``answer`` says what each question is answered with, and may never do it."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[Question] = []
        self.users: set[tuple[User, int]] = set()
        self.answer: Callable[[Question], Awaitable[Answer]] | None = None

    async def _answer(self, user: User, owner: int, ask: Ask) -> Answer:
        self.users.add((user, owner))
        self.asked.append(ask.question)
        assert self.answer is not None
        return await self.answer(ask.question)


class FakeClient:
    """A client that notes what it is told; ``room``: whether it takes records."""

    kept = False

    def __init__(self, uid: int = 1000) -> None:
        self.pid = (1 << 22) + 1
        self.uid = self.gid = uid
        self.room = True
        self.told: list[messages.Report] = []
        self.lines = b""

    def offer(self, lines: bytes) -> bool:
        """Take records."""
        if self.room:
            self.lines += lines
        return self.room

    def tell(self, message: messages.Report) -> None:
        """Take a report."""
        self.told.append(message)

    def heard(self, kind: type[R]) -> list[R]:
        """What it was told of a type."""
        return [message for message in self.told if isinstance(message, kind)]


def facts(pid: int, uid: int = 1000, start: int = 1) -> Process:
    """A process of a user, as /proc would show it."""
    return Process(
        pid=pid,
        start=start,
        parent=1,
        comm="cat",
        exe="/usr/bin/cat",
        cmdline=("cat",),
        uids=(uid, uid, uid),
        gids=(uid, uid, uid),
        groups=(),
        cgroup="/",
        unit="",
        user_unit="",
        container="",
        foreign=False,
        kernel_thread=False,
    )


class FakeDaemon:
    """Root's daemon with fake backends, in a world of processes that ``processes`` is."""

    def __init__(
        self, config: Config, kernel: Backends | None = None, kept: Kept | None = None
    ) -> None:
        self.resolvers = FakeResolvers()
        self.backends = FakeBackends()
        self.processes = {pid: facts(pid) for pid in range(PID, PID + 100)}
        store = PolicyStore(config, 0)
        self.app: App = build_public(
            self.backends,
            Gate(store, process=self.processes.get),
            self.resolvers,
            kernel=kernel,
            kept=kept,
        )

    async def ask(self, client: FakeClient, request: messages.Request, kind: type[R]) -> R:
        """A request of a client, answered by a ``kind``; raises Refusal."""
        reply = await self.app.table.answer(client, request)
        assert isinstance(reply, kind)
        return reply

    async def attach(
        self, client: FakeClient, pid: int = PID, *, follow_forks: bool = False
    ) -> FakeBackend:
        """Have a client hold a process; the backend that it is in."""
        request = messages.Attach(id=1, pid=pid, follow_forks=follow_forks)
        await self.ask(client, request, messages.Attached)
        tracer = self.app.core.targets.by_pid[pid].tracer
        assert tracer is not None
        assert isinstance(tracer.backend, FakeBackend)
        return tracer.backend

    async def insert(
        self, client: FakeClient, pid: int = PID, *, count: int = 1, **options: object
    ) -> messages.Inserted:
        """Have a client insert programs."""
        uploads = [messages.Upload(label=f"x{n}", bytecode=PROGRAM) for n in range(count)]
        request = messages.Insert(id=2, pid=pid, programs=uploads, **options)  # type: ignore[arg-type]
        return await self.ask(client, request, messages.Inserted)

    async def query(self, client: FakeClient) -> messages.Status:
        """What a client is shown."""
        return await self.ask(client, messages.Query(id=3), messages.Status)
