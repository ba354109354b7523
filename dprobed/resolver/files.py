"""Remembered facts about files that processes map, and the questions that get them.

The one who asks opens the file, hands its descriptor over, and checks the answer. Questions are
steps of a generator: a tracer takes them one after the other and waits (``client``), the daemon's
event loop does something else meanwhile.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterable, Sequence
from typing import Final, Generic, TypeVar

import msgspec

from dprobed.binary.errors import LocationError
from dprobed.proc import files, procfs
from dprobed.proc.maps import Module
from dprobed.resolver import modules
from dprobed.resolver.modules import Identity, Opened
from dprobed.wire import resolver as wire
from dprobed.wire.resolver import Answer, FileFacts, Question

#: KnownFiles, and answers about their places, that are remembered; the oldest go first.
_MOST_FILES: Final = 2048
_MOST_ANSWERS: Final = 4096
#: Places that are asked for in one question.
_MOST_AT_ONCE: Final = 128

T = TypeVar("T")


class Ask(msgspec.Struct, frozen=True):
    """A question, and the descriptor that goes with it: its asker's, who closes it."""

    question: Question
    descriptor: int
    facts: FileFacts | None = None


#: Yields what is to be asked, is sent the answers, and ends with the result; raises LocationError.
Steps = Generator[Ask, Answer, T]


class Taking(Generic[T]):
    """Steps that are being taken, for who asks and waits as it likes.

    ``ask`` is the question that is to be answered; None: there is none, and ``result`` is there.
    """

    def __init__(self, steps: Steps[T]) -> None:
        self._steps: Final = steps
        self._results: Final[list[T]] = []
        self.ask = self._advance(lambda: next(steps))

    def _advance(self, advance: Callable[[], Ask]) -> Ask | None:
        try:
            return advance()
        except StopIteration as end:
            self._results.append(end.value)
            return None

    def answer(self, answer: Answer) -> None:
        """Its answer; raises LocationError."""
        self.ask = self._advance(lambda: self._steps.send(answer))

    def fail(self, error: LocationError) -> None:
        """It has none; raises LocationError."""
        self.ask = self._advance(lambda: self._steps.throw(error))

    @property
    def result(self) -> T:
        """What they end with."""
        return self._results[0]


def answer_of(answer: Answer, kind: type[T]) -> T:
    """The answer, or LocationError for what was refused."""
    if isinstance(answer, wire.Refused):
        raise LocationError(answer.message, answer.hint, answer.candidates)
    assert isinstance(answer, kind)  # ``wire.check`` has seen it
    return answer


class KnownFiles:
    """The facts and answers about files that one asker remembers."""

    def __init__(self) -> None:
        self._facts: dict[tuple[Identity, str, str], FileFacts] = {}
        self._answers: dict[tuple[Identity, Question], Answer] = {}

    def describe(self, module: Module) -> Steps[tuple[FileFacts, Identity]]:
        """The facts about a module's file."""
        opened = modules.open_module(module)
        try:
            facts = yield from self._facts_of(opened, module.path)
            if not opened.sure:
                yield from self._prove(module, opened, facts)
        finally:
            os.close(opened.descriptor)
        return facts, opened.identity

    def describe_file(self, path: str) -> Steps[FileFacts]:
        """The facts about a file, to which a magic link of /proc leads."""
        descriptor = modules.open_link(path)
        try:
            opened = Opened(descriptor, files.facts(descriptor), "", True)
            return (yield from self._facts_of(opened, path))
        finally:
            os.close(descriptor)

    def _facts_of(self, opened: Opened, path: str) -> Steps[FileFacts]:
        key = opened.identity, path, opened.root
        facts = self._facts.pop(key, None)
        if facts is None:
            answer = yield Ask(wire.Describe(path, opened.root), opened.descriptor)
            facts = answer_of(answer, FileFacts)
        _remember(self._facts, key, facts, _MOST_FILES)
        return facts

    @staticmethod
    def words(pid: int, memory: int, addresses: Sequence[int]) -> Steps[tuple[int | None, ...]]:
        """The words at these addresses of a process, by a descriptor of its memory; None: nothing
        can be read there. They may be in a page that does not come: not read where one waits."""
        question = wire.MemoryWords(f"process {pid}", "", tuple(addresses))
        answer = yield Ask(question, memory)
        return answer_of(answer, wire.Words).words

    @staticmethod
    def _prove(module: Module, opened: Opened, facts: FileFacts) -> Steps[None]:
        """Raises LocationError where another file has the path of the mapped one."""
        inside = None
        first = next((each for each in module.mappings if each.offset == 0), None)
        if first is not None:
            try:
                live = procfs.live_thread(module.pid)
                memory = os.open(f"/proc/{live}/mem", os.O_RDONLY | os.O_CLOEXEC)
            except OSError as error:
                raise LocationError(f"/proc/{module.pid}/mem: {error.strerror}") from error
            try:
                question = wire.ImageBuildId(f"process {module.pid}", "", first.start)
                answer = yield Ask(question, memory)
                inside = answer_of(answer, wire.Image).build_id
            finally:
                os.close(memory)
        wrong = modules.disproof(module, opened.identity, facts.build_id, inside)
        if wrong is not None:
            raise wrong

    def ask(
        self, module: Module, identity: Identity, facts: FileFacts, question: Question
    ) -> Steps[Answer]:
        """The answer to a question about a file that was described before; fills in ``root``."""
        key = identity, question
        answer = self._answers.pop(key, None)
        if answer is None:
            answer = yield from self.ask_anew(module, identity, facts, question)
        _remember(self._answers, key, answer, _MOST_ANSWERS)
        return answer

    @staticmethod
    def ask_anew(
        module: Module, identity: Identity, facts: FileFacts, question: Question
    ) -> Steps[Answer]:
        """The same, which is not remembered here."""
        opened = modules.open_module(module)
        try:
            if opened.identity != identity:
                raise modules.replaced(module)
            there = msgspec.structs.replace(question, root=opened.root)
            return (yield Ask(there, opened.descriptor, facts))
        finally:
            os.close(opened.descriptor)

    def learn_places(
        self, module: Module, identity: Identity, facts: FileFacts, specs: Iterable[str]
    ) -> Steps[None]:
        """Ask for several places in few questions, so that ``ask`` has each answer."""
        path = module.path
        left = [
            spec
            for spec in dict.fromkeys(specs)
            if (identity, wire.Resolve(path, "", spec)) not in self._answers
        ]
        while left:
            question = wire.ResolveEach(path, "", tuple(left[:_MOST_AT_ONCE]))
            answer = yield from self.ask_anew(module, identity, facts, question)
            found = answer_of(answer, wire.EachPlaces).answers
            for spec, each in zip(left, found, strict=False):
                key = identity, wire.Resolve(path, "", spec)
                _remember(self._answers, key, each, _MOST_ANSWERS)
            del left[: len(found)]


K = TypeVar("K")


def _remember(kept: dict[K, T], key: K, value: T, most: int) -> None:
    kept[key] = value
    while len(kept) > most:
        del kept[next(iter(kept))]
