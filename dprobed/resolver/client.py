"""Asks a resolver and waits for its answer, as tracers do.

A resolver answers one question after the other and dies of one that takes too long. If it ends
while a question is unread (ECONNRESET), that question is asked again; if it was read, the channel
ends (end of file), and the file is not asked about again for a while.
"""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Callable, Iterable
from typing import TypeVar

import msgspec

from dprobed.proc import files
from dprobed.proc.maps import Module
from dprobed.resolver.caution import Caution
from dprobed.resolver.errors import LocationError, LostError, SilenceError
from dprobed.resolver.files import Ask, KnownFiles, Steps, Taking, answer_of
from dprobed.resolver.limits import CPU_SECONDS, DEADLINE
from dprobed.resolver.modules import Identity, matches
from dprobed.wire import resolver as wire
from dprobed.wire.resolver import Answer, FileFacts, Place, Question

#: Waits until a socket can be read, or so many seconds; false: it cannot. It may give up before,
#: where the answer is wanted no longer.
Wait = Callable[[socket.socket, float], bool]
T = TypeVar("T")


def wait_for(sock: socket.socket, seconds: float) -> bool:
    """Wait, and serve nothing meanwhile."""
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(1000 * seconds))


def open_channel(mailbox: socket.socket) -> socket.socket:
    """A channel to the resolver behind a mailbox; raises OSError when that is full or closed."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        try:
            socket.send_fds(mailbox, [wire.HELLO], [theirs.fileno()], socket.MSG_DONTWAIT)
        except BaseException:
            ours.close()
            raise
    return ours


def send(channel: socket.socket, ask: Ask) -> None:
    """Ask; raises LocationError, which is LostError where the resolver ended before."""
    path = ask.question.path
    try:
        socket.send_fds(channel, [wire.pack(ask.question)], [ask.descriptor])
    except (BrokenPipeError, ConnectionResetError):
        raise LostError(f"{path}: the resolver ended", innocent=True) from None
    except (OSError, ValueError, OverflowError) as error:  # the latter: it cannot be said
        raise LocationError(f"{path}: cannot ask the resolver: {error}") from error


def received(sock: socket.socket, ask: Ask, asked_at: float) -> Answer:
    """The checked answer that a channel has; raises LostError."""
    path = ask.question.path
    try:
        body = sock.recv(wire.MAX_MESSAGE + 1)
    except ConnectionResetError:
        raise LostError(f"{path}: the resolver ended", innocent=True) from None
    if not body:
        raise lost(path, time.monotonic() - asked_at)
    try:
        if len(body) > wire.MAX_MESSAGE:
            raise wire.ResolverProtocolError("an answer that is too long")
        answer = wire.decode_answer(body)
        wire.check(ask.question, answer, ask.facts)
    except wire.ResolverProtocolError as error:
        raise LostError(f"{path}: protocol error from the resolver: {error}") from error
    return answer


def lost(path: str, seconds: float) -> LostError:
    """The error for a resolver that ended while it read this file."""
    if seconds >= CPU_SECONDS - 0.1:
        return LostError(
            f"{path}: reading it took too long (the limit is {DEADLINE:g} s)",
            "the file is damaged, or its debug information is too large",
        )
    return LostError(
        f"{path}: the resolver, which reads such files, ended while it read this one",
        "the log of dprobed says how",
    )


class Resolver:
    """The resolver of this user, asked synchronously.

    ``wait`` is told to wait for an answer, and may serve others meanwhile.
    """

    def __init__(self, mailbox: socket.socket, wait: Wait = wait_for) -> None:
        self._mailbox = mailbox
        self._wait = wait
        self._channel: socket.socket | None = None
        self._files = KnownFiles()
        self._caution = Caution()

    def describe(self, module: Module) -> MappedFile:
        """The file that a module is; raises LocationError."""
        facts, identity = self.run(self._files.describe(module))
        return MappedFile(self, module, facts, identity)

    def ask(self, file: MappedFile, question: Question) -> Answer:
        """The answer to a question about a file; raises LocationError."""
        return self.run(self._files.ask(file.module, file.identity, file.facts, question))

    def unwinding(self, file: MappedFile | int, vaddr: int) -> wire.UnwindBlock:
        """How callers are found around an address of a file, or of one that has a descriptor alone;
        who asks remembers it. Raises LocationError."""
        question = wire.UnwindAt("the vDSO", "", vaddr)
        if isinstance(file, int):
            answer = self._answer(Ask(question, file))
        else:
            question = msgspec.structs.replace(question, path=file.module.path)
            steps = self._files.ask_anew(file.module, file.identity, file.facts, question)
            answer = self.run(steps)
        return answer_of(answer, wire.UnwindBlock)

    def facts_of(self, descriptor: int, path: str) -> FileFacts:
        """The facts about a file that no process has mapped by a name; raises LocationError."""
        return answer_of(self._answer(Ask(wire.Describe(path, ""), descriptor)), FileFacts)

    def learn_places(self, file: MappedFile, specs: Iterable[str]) -> None:
        """Have the answers for these places at hand; raises LocationError."""
        self.run(self._files.learn_places(file.module, file.identity, file.facts, specs))

    def run(self, steps: Steps[T]) -> T:
        """Take all steps; their result. Raises LocationError."""
        taking = Taking(steps)
        while taking.ask is not None:
            try:
                answer = self._answer(taking.ask)
            except LocationError as error:
                taking.fail(error)
            else:
                taking.answer(answer)
        return taking.result

    def _answer(self, ask: Ask) -> Answer:
        identity = files.facts(ask.descriptor)
        now = time.monotonic()
        end = now + self._caution.patience(identity, ask.question.path, now)
        while True:
            try:
                answer = self._try(ask, end)
            except LostError as error:
                self._hang_up()
                if not self._caution.failed(identity, error, time.monotonic(), end):
                    raise
            else:
                self._caution.answered()
                return answer

    def _try(self, ask: Ask, end: float) -> Answer:
        path = ask.question.path
        asked_at = time.monotonic()
        try:
            if self._channel is None:
                self._channel = open_channel(self._mailbox)
        except OSError as error:
            raise LostError(f"{path}: no resolver to ask: {error.strerror}") from error
        channel = self._channel
        send(channel, ask)
        if not self._wait(channel, max(0.0, end - asked_at)):
            waited = time.monotonic() - asked_at
            raise SilenceError(f"{path}: the resolver did not answer in {waited:.1f} s")
        return received(channel, ask, asked_at)

    def _hang_up(self) -> None:
        if self._channel is not None:
            self._channel.close()
            self._channel = None


class MappedFile:
    """A file as a process maps it. Its questions raise LocationError."""

    def __init__(
        self, resolver: Resolver, module: Module, facts: FileFacts, identity: Identity
    ) -> None:
        self._resolver = resolver
        self.module = module
        self.facts = facts
        self.identity = identity

    def of_module(self, module: Module) -> MappedFile:
        """The same file, as another process maps it."""
        return MappedFile(self._resolver, module, self.facts, self.identity)

    def named(self, name: str) -> bool:
        """Whether a program's ``name`` means it."""
        return matches(self.module, self.facts, name)

    def learn_places(self, specs: Iterable[str]) -> None:
        """Ask for several at once what ``resolve`` is about to be asked."""
        self._resolver.learn_places(self, specs)

    def resolve(self, spec: str) -> tuple[Place, ...]:
        """The code that a text means: one place, or several for ``file.c:line``."""
        return self._places(wire.Resolve(self.module.path, "", spec))

    def resolve_data(self, spec: str) -> Place:
        """The data (or code) that a watchpoint's ``address`` names."""
        return self._places(wire.ResolveData(self.module.path, "", spec))[0]

    def place_at(self, vaddr: int) -> Place:
        """The code at an address of the file."""
        return self._places(wire.PlaceAt(self.module.path, "", vaddr))[0]

    def ifunc_slots(self, resolver_vaddr: int) -> tuple[int, ...]:
        """The words in this module that hold what an IFUNC's resolver function chose."""
        return self._slots(wire.IfuncSlots(self.module.path, "", resolver_vaddr))

    def import_slots(self, symbol: str, version: str) -> tuple[int, ...]:
        """The words by which this module refers to a symbol, wherever that is defined."""
        return self._slots(wire.ImportSlots(self.module.path, "", symbol, version))

    def thread_local(self, symbol: str) -> wire.Offset:
        """Where a thread-local variable is from the thread pointer, as far as the file tells."""
        question = wire.ThreadLocal(self.module.path, "", symbol)
        return answer_of(self._resolver.ask(self, question), wire.Offset)

    def _places(self, question: Question) -> tuple[Place, ...]:
        return answer_of(self._resolver.ask(self, question), wire.Places).places

    def _slots(self, question: Question) -> tuple[int, ...]:
        return answer_of(self._resolver.ask(self, question), wire.Slots).vaddrs
