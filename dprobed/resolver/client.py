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
from typing import Final, TypeVar

import msgspec

from dprobed.proc import files
from dprobed.proc.maps import Module
from dprobed.resolver.errors import LocationError, LostError, SilenceError
from dprobed.resolver.files import Ask, KnownFiles, Steps, answer_of
from dprobed.resolver.limits import CPU_SECONDS, DEADLINE
from dprobed.resolver.modules import Identity, matches
from dprobed.wire import resolver as wire
from dprobed.wire.resolver import Answer, FileFacts, Place, Question

#: Seconds until an answer is no longer waited for: others' questions come first, and may each take
#: the resolver all of its time.
PATIENCE: Final = 2 * DEADLINE + 2
#: Seconds in which nothing is asked of a resolver that left a question without an answer (it may be
#: stopped, or in uninterruptible sleep), and how long it is waited for then until it answers again.
#: Whoever waits for us, perhaps in ``dlopen``, does so for each file.
_SILENCE: Final = 10.0
_TRIAL: Final = 1.0
#: Seconds that a file is not asked about again of whose question the resolver has died.
_SHUNNED: Final = 60.0
_MOST_SHUNNED: Final = 1024

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
        #: Files of which a resolver has died: why, and until when they are not asked about.
        self._shunned: dict[Identity, tuple[str, str, float]] = {}
        #: It has not answered a question in time, nor any since; until when nothing is asked.
        self._is_silent = False
        self._silent_until = 0.0

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
        try:
            ask = next(steps)
            while True:
                try:
                    answer = self._answer(ask)
                except LocationError as error:
                    ask = steps.throw(error)
                else:
                    ask = steps.send(answer)
        except StopIteration as end:
            result: T = end.value
            return result

    def _answer(self, ask: Ask) -> Answer:
        identity = files.facts(ask.descriptor)
        message, hint, until = self._shunned.get(identity, ("", "", 0.0))
        if time.monotonic() < until:
            raise LostError(message, hint)
        if time.monotonic() < self._silent_until:
            raise SilenceError(f"{ask.question.path}: the resolver does not answer")
        patience = _TRIAL if self._is_silent else PATIENCE
        end = time.monotonic() + patience
        while True:
            try:
                return self._try(ask, end)
            except SilenceError as error:
                self._hang_up()
                if time.monotonic() >= end:
                    # On trial, the one before this may still be what it is at.
                    if not self._is_silent:
                        self._shun(identity, error)
                    self._is_silent = True
                    self._silent_until = time.monotonic() + _SILENCE
                raise
            except LostError as error:
                self._is_silent = False
                self._hang_up()
                if error.innocent and time.monotonic() < end:
                    continue
                self._shun(identity, error)
                raise

    def _shun(self, identity: Identity, error: LostError) -> None:
        """Ask nothing about a file for a while."""
        self._shunned[identity] = (error.message, error.hint, time.monotonic() + _SHUNNED)
        if len(self._shunned) > _MOST_SHUNNED:
            del self._shunned[next(iter(self._shunned))]

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
        answer = received(channel, ask, asked_at)
        self._is_silent = False
        return answer

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

    def thread_local(self, symbol: str) -> tuple[int, int]:
        """The word that says where a thread-local variable is, and what to add to it."""
        question = wire.ThreadLocal(self.module.path, "", symbol)
        offset = answer_of(self._resolver.ask(self, question), wire.Offset)
        return offset.vaddr, offset.more

    def _places(self, question: Question) -> tuple[Place, ...]:
        return answer_of(self._resolver.ask(self, question), wire.Places).places

    def _slots(self, question: Question) -> tuple[int, ...]:
        return answer_of(self._resolver.ask(self, question), wire.Slots).vaddrs
