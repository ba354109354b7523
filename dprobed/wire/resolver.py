"""The protocol of resolvers: questions about files, and their answers.

Connected SOCK_SEQPACKET sockets: each message is one msgpack body. A *channel* carries questions,
each with the descriptor of the file that it is about, and one answer to each, in order. Channels
reach the resolver through its user's *mailbox*: a message ``HELLO`` with the descriptor of the
channel's other end. A resolver may be lying: ``check`` says whether an answer can be true.
Codec only: nothing here opens a socket.
"""

# Without `from __future__ import annotations`: msgspec compiles annotations that are strings, each
# one when a decoder is made, which takes four times as long.

import operator
from collections.abc import Iterator
from typing import Final, Literal, NamedTuple

import msgspec

from dprobed.arch.x86_64.argument import MOST, Argument, is_plausible

#: The one message that a mailbox takes.
HELLO: Final = b"channel"
#: Bytes of the longest question and answer: what a socket of this kind takes as one message.
MAX_MESSAGE: Final = 128 << 10

#: Of ``UnwindBlock.rules``: nothing is known of the code from there on.
NO_RULE: Final = 0xFFFF
#: DWARF's number of the return address; the registers that are spoken of have lower ones.
RETURN: Final = 16

_LONGEST_EXPRESSION: Final = 256
_ADDRESS_END: Final = 1 << 64
_OFFSET_END: Final = 1 << 63
_MOST_SEGMENTS: Final = 256
_LONGEST_NAME: Final = 4096
#: Bytes of thread-local variables of a module.
_MOST_LOCAL: Final = 1 << 32
#: Of ``Place.code``: no instruction is longer.
LONGEST_CODE: Final = 15


class Segment(NamedTuple):
    """One PT_LOAD program header: what is mapped, where."""

    offset: int
    vaddr: int
    file_size: int
    memory_size: int
    executable: bool
    writable: bool


class Place(NamedTuple):
    """Where a probe goes, in one file; see ``binary.places.Place``.

    ``code``: what the file has there, as long as the longest instruction or up to its end; of code
    only. ``semaphore`` and ``arguments``: of a static probe. ``goroutine``: it is Go's.
    """

    file_offset: int
    vaddr: int
    name: str
    symbol: str
    symbol_offset: int
    kind: Literal["code", "ifunc", "data"]
    size: int
    boundary: Literal["ok", "unknown"]
    version: str = ""
    source: str = ""
    spec: str = ""
    semaphore: int = 0
    arguments: tuple[Argument | str, ...] = ()
    goroutine: bool = False
    code: bytes = b""


class _Question(msgspec.Struct, tag=True, frozen=True):
    """``path`` is what to call the file; ``root`` is put before paths of separate debug files."""

    path: str
    root: str


class Describe(_Question, frozen=True):
    """What file is it? Answered by ``FileFacts``."""


class Resolve(_Question, frozen=True):
    """Where is this place (symbol, symbol+n, file.c:line, file offset)? ``Places``."""

    spec: str


class ResolveEach(_Question, frozen=True):
    """Where is each of these places? ``EachPlaces``."""

    specs: tuple[str, ...]


class ResolveData(_Question, frozen=True):
    """Where is this data, ``symbol[±n][:length]``? ``Places``, one."""

    spec: str


class PlaceAt(_Question, frozen=True):
    """What is at this address of the file, and does an instruction begin there? ``Places``, one."""

    vaddr: int


class IfuncSlots(_Question, frozen=True):
    """Which words hold what the IFUNC resolver at ``vaddr`` has chosen? ``Slots``."""

    vaddr: int


class ImportSlots(_Question, frozen=True):
    """By which words does the file refer to a symbol of another module? ``Slots``."""

    symbol: str
    version: str


class ThreadLocal(_Question, frozen=True):
    """Where is this thread-local variable of the file? ``Offset``."""

    symbol: str


class UnwindAt(_Question, frozen=True):
    """How are callers found from this address of the file, and from the code around it?
    ``UnwindBlock``."""

    vaddr: int


class ImageBuildId(_Question, frozen=True):
    """The build-id in the memory of a process, whose descriptor comes instead of a file's: of the
    image whose first page is at ``start``. ``Image``."""

    start: int


class MemoryWords(_Question, frozen=True):
    """What is in these words in the memory of a process, whose descriptor comes instead of a
    file's? ``Words``."""

    addresses: tuple[int, ...]


Question = (
    Describe | Resolve | ResolveEach | ResolveData | PlaceAt | IfuncSlots | ImportSlots
    | ThreadLocal | UnwindAt | ImageBuildId | MemoryWords
)  # fmt: skip


class FileFacts(msgspec.Struct, tag=True, frozen=True):
    """A file. ``kind``: exec, pie, dyn or static; ``relocated``: it can be mapped anywhere."""

    build_id: str | None
    soname: str | None
    kind: Literal["exec", "pie", "dyn", "static"]
    relocated: bool
    needed: tuple[str, ...]
    segments: tuple[Segment, ...]


class Places(msgspec.Struct, tag=True, frozen=True):
    """One place, or several of a line."""

    places: tuple[Place, ...]


class Refused(msgspec.Struct, tag=True, frozen=True):
    """Why there is no answer; the fields are LocationError's."""

    message: str
    hint: str = ""
    candidates: tuple[str, ...] = ()


class EachPlaces(msgspec.Struct, tag=True, frozen=True):
    """The answers to the first ones of several ``Resolve``, at least one."""

    answers: tuple[Places | Refused, ...]


class Slots(msgspec.Struct, tag=True, frozen=True):
    """Addresses of words, as the file has them."""

    vaddrs: tuple[int, ...]


class Offset(msgspec.Struct, tag=True, frozen=True):
    """From the thread pointer: ``more``, and what ``base`` says, as in ``binary.thread_local``:
    nothing, the word at ``vaddr`` as it is in the process, or where the module's variables are."""

    vaddr: int
    more: int
    base: Literal["thread", "word", "module"] = "word"


class How(NamedTuple):
    """Where a caller's register is; see ``binary.cfi_program.How``."""

    register: int
    kind: int
    value: int
    expression: bytes


class Rule(NamedTuple):
    """How a caller's frame is found; see ``binary.cfi_program.Rule``."""

    cfa_register: int
    cfa_offset: int
    cfa_expression: bytes
    registers: tuple[How, ...]
    return_register: int
    signal: bool


class UnwindBlock(msgspec.Struct, tag=True, frozen=True):
    """How callers are found from addresses from ``start`` up to ``end``: a rule holds from its
    address on up to the next one.

    ``addresses``: from ``start`` on, 32 bits each, ascending; ``rules``: for each the number in
    ``table``, 16 bits, or NO_RULE; both in the machine's order of bytes.
    """

    start: int
    end: int
    addresses: bytes
    rules: bytes
    table: tuple[Rule, ...]


class Image(msgspec.Struct, tag=True, frozen=True):
    """What was found in memory."""

    build_id: str | None


class Words(msgspec.Struct, tag=True, frozen=True):
    """One for each address; None: nothing can be read there."""

    words: tuple[int | None, ...]


Answer = FileFacts | Places | EachPlaces | Slots | Offset | UnwindBlock | Image | Words | Refused

_encode = msgspec.msgpack.Encoder().encode
_decode_question = msgspec.msgpack.Decoder(Question).decode
_decode_answer = msgspec.msgpack.Decoder(Answer).decode


class ResolverProtocolError(Exception):
    """The peer sent something that is not a message, or cannot be true."""


def pack(message: Question | Answer) -> bytes:
    """The message's body."""
    return _encode(message)


def decode_question(body: bytes) -> Question:
    """A question; raises ResolverProtocolError."""
    try:
        message: Question = _decode_question(body)
    except (msgspec.MsgspecError, UnicodeError) as error:
        raise ResolverProtocolError(str(error)) from error
    return message


def decode_answer(body: bytes) -> Answer:
    """An answer; raises ResolverProtocolError."""
    try:
        message: Answer = _decode_answer(body)
    except (msgspec.MsgspecError, UnicodeError) as error:
        raise ResolverProtocolError(str(error)) from error
    return message


#: What may answer a question, besides ``Refused``.
_FITTING: Final[dict[type[Question], type[Answer]]] = {
    Describe: FileFacts,
    Resolve: Places,
    ResolveEach: EachPlaces,
    ResolveData: Places,
    PlaceAt: Places,
    IfuncSlots: Slots,
    ImportSlots: Slots,
    ThreadLocal: Offset,
    UnwindAt: UnwindBlock,
    ImageBuildId: Image,
    MemoryWords: Words,
}


def check(question: Question, answer: Answer, facts: FileFacts | None) -> None:
    """Raises ResolverProtocolError if that cannot be the answer, for a file of these facts."""
    if isinstance(answer, Refused):
        _check_names((answer.message, answer.hint, *answer.candidates))
        return
    if not isinstance(answer, _FITTING[type(question)]):
        raise ResolverProtocolError(f"{type(answer).__name__} as answer to {type(question)}")
    match answer:
        case FileFacts():
            _check_facts(answer)
        case Places():
            if not answer.places or (len(answer.places) > 1 and not isinstance(question, Resolve)):
                raise ResolverProtocolError(f"{len(answer.places)} places")
            for place in answer.places:
                _check_place(place, facts.segments if facts is not None else ())
        case EachPlaces():
            specs = question.specs if isinstance(question, ResolveEach) else ()
            if not 0 < len(answer.answers) <= len(specs):
                raise ResolverProtocolError(f"{len(answer.answers)} answers to {len(specs)}")
            for spec, each in zip(specs, answer.answers, strict=False):
                check(Resolve(question.path, question.root, spec), each, facts)
        case Slots():
            for vaddr in answer.vaddrs:
                if facts is None or segment_at(facts.segments, vaddr) is None:
                    raise ResolverProtocolError(f"a word at {vaddr:#x}, outside of the module")
        case Offset():
            if answer.base == "word" and (
                facts is None or segment_at(facts.segments, answer.vaddr) is None
            ):
                raise ResolverProtocolError(f"a word at {answer.vaddr:#x}, outside of the module")
            if abs(answer.more) > _MOST_LOCAL:
                raise ResolverProtocolError(f"an offset of {answer.more}")
        case UnwindBlock():
            _check_unwinding(answer, question.vaddr if isinstance(question, UnwindAt) else 0)
        case Words():
            count = len(question.addresses) if isinstance(question, MemoryWords) else 0
            if len(answer.words) != count:
                raise ResolverProtocolError(f"{len(answer.words)} words for {count}")
            if any(word is not None and word < 0 for word in answer.words):
                raise ResolverProtocolError("a word below 0")
        case Image():
            _check_names((answer.build_id or "",))


def _check_names(names: tuple[str, ...]) -> None:
    if any(len(name) > _LONGEST_NAME for name in names):
        raise ResolverProtocolError(f"a text of more than {_LONGEST_NAME} characters")


def _check_facts(facts: FileFacts) -> None:
    _check_names((facts.build_id or "", facts.soname or "", *facts.needed))
    if not 0 < len(facts.segments) <= _MOST_SEGMENTS:
        raise ResolverProtocolError(f"{len(facts.segments)} segments")
    for each in facts.segments:
        sizes = 0 <= each.file_size <= each.memory_size
        inside = each.vaddr >= 0 and each.vaddr + each.memory_size <= _ADDRESS_END
        if not (sizes and inside and 0 <= each.offset < _OFFSET_END - each.file_size):
            raise ResolverProtocolError(f"a segment at {each.vaddr:#x}")


def _check_unwinding(block: UnwindBlock, vaddr: int) -> None:
    if not 0 <= block.start <= vaddr < block.end <= _ADDRESS_END:
        raise ResolverProtocolError(f"unwinding from {block.start:#x} on for {vaddr:#x}")
    if len(block.addresses) != 2 * len(block.rules) or len(block.rules) % 2:
        raise ResolverProtocolError("unwinding rules that are cut off")
    addresses = memoryview(block.addresses).cast("I").tolist()
    if any(map(operator.ge, addresses, addresses[1:])):
        raise ResolverProtocolError("unwinding rules out of order")
    numbers = set(memoryview(block.rules).cast("H").tolist()) - {NO_RULE}
    if numbers and max(numbers) >= len(block.table):
        raise ResolverProtocolError("unwinding rules without a rule")
    for rule in block.table:
        named = [each.register for each in rule.registers]
        expressions = [each.expression for each in rule.registers] + [rule.cfa_expression]
        if (
            not all(0 <= each <= RETURN for each in named)
            or not all(len(each) <= _LONGEST_EXPRESSION for each in expressions)
            or not -1 <= rule.cfa_register <= RETURN
        ):
            raise ResolverProtocolError("an unwinding rule that is none")


def _check_place(place: Place, segments: tuple[Segment, ...]) -> None:
    _check_names((place.name, place.symbol, place.version, place.source, place.spec))
    segment = segment_at(segments, place.vaddr)
    if segment is None:
        raise ResolverProtocolError(f"{place.name} at {place.vaddr:#x}, outside of the module")
    if place.size < 0 or abs(place.symbol_offset) > _ADDRESS_END:
        raise ResolverProtocolError(f"{place.name} of {place.size} bytes")
    _check_static(place, segments)
    if len(place.code) > LONGEST_CODE:
        raise ResolverProtocolError(f"{place.name}: {len(place.code)} bytes of code")
    if place.kind == "data":
        return
    there = place.vaddr - segment.vaddr
    if not segment.executable or there >= segment.file_size:
        raise ResolverProtocolError(f"{place.name} at {place.vaddr:#x}, outside of its code")
    if place.file_offset != there + segment.offset:
        raise ResolverProtocolError(f"{place.name} at file offset {place.file_offset:#x}")
    if not place.code:
        raise ResolverProtocolError(f"{place.name}: none of its code")


def _check_static(place: Place, segments: tuple[Segment, ...]) -> None:
    """What is told of a static probe."""
    if place.semaphore:
        there = segment_at(segments, place.semaphore)
        if there is None or not there.writable:
            raise ResolverProtocolError(f"{place.name}: a semaphore at {place.semaphore:#x}")
    if len(place.arguments) > MOST:
        raise ResolverProtocolError(f"{place.name}: {len(place.arguments)} arguments")
    for each in place.arguments:
        if isinstance(each, str):
            _check_names((each,))
        elif not is_plausible(each):
            raise ResolverProtocolError(f"{place.name}: an argument {each}")


def segment_at(segments: tuple[Segment, ...], vaddr: int) -> Segment | None:
    """The segment in whose memory an address lies."""
    return next(_holding(segments, vaddr), None)


def _holding(segments: tuple[Segment, ...], vaddr: int) -> Iterator[Segment]:
    return (each for each in segments if each.vaddr <= vaddr < each.vaddr + each.memory_size)
