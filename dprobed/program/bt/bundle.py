"""A compiled script: programs, the blocks that no place fires, and what their records mean.

**Programs** run at hits, one for each module. **Blocks** (``begin``, ``interval``…) are the probes
of one more program, which whoever shows the output runs with the Python executor, on a context of
its own. Both speak alike: a record's log is a row of *actions*, executed one after the other by
whoever shows. An action is its number, then its arguments.

*Reading a log.* Take it as a row of tokens: each word of a ``log count`` is one (however the words
were grouped), and so is every item with a prefix. An action's number is a word; then each argument
takes the tokens of its type:

========== =====================================================================================
type       tokens
========== =====================================================================================
String     a string item; or a word: the index of a constant in ``Bundle.strings``
ShortText  two words: 16 bytes, padded by NULs (``comm``)
HeldText   so many words: a text, padded by NULs
Memory     a memory item, or a word 0: it could not be read
Array      a memory item, or a word 0
Struct     a memory item, or a word 0
Stack      a user stack item
Tuple      those of its items, one after the other
Strings    string items up to a word 0
all others one word
========== =====================================================================================

A record may end in the middle (its exit says why: an exception, a budget); what is cut off is not
shown. Where a text or memory could be read in part only, a memory fault stands behind that part,
and it is the end. A record without an action (a predicate that did not hold) is not made: the
program aborts.

*Maps.* A script's map has at least one map of a program behind it (``Part``), of the same name in
each program and in the blocks' program; several where its keys are written in several ways: each
makes the same keys of its items (``Part.key``), and what is shown is all of them merged.

*Suspending.* A block that needs something of whoever shows it, or has a map shown or emptied as it
is now, logs an action ``ForEach``, ``Fetch``, ``Measure`` or ``GoOn`` as the last of its record and
ends; when that is done, the same probe is run again, and goes on where it was (it keeps its state
in local variables). This ends when a record has no
such action in it. Each time the probe is given the same arguments.

A loop's body is a probe of its own: each argument of ``Block.arguments`` that is one word is given
as a word (``push a,n``), a string as the address of it in the context's memory, with a NUL behind
it, which stays there until the loop has ended. ``Break`` in its record ends the loop.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final, TypeAlias

import msgspec

from dprobed.program.bt import conversions
from dprobed.program.types import Type

#: Of the format; another one is refused.
VERSION: Final = 1


# -- values: what the words and items of an argument are ----------------------------------------


class Integer(msgspec.Struct, frozen=True, tag="integer"):
    """A word, of which so many bytes count."""

    size: int = 8
    signed: bool = True


class Boolean(msgspec.Struct, frozen=True, tag="boolean"):
    """0 or 1; shown as ``false`` and ``true``."""


class Float(msgspec.Struct, frozen=True, tag="float"):
    """The bits of a floating-point number of 4 or 8 bytes."""

    size: int = 8


class Pointer(msgspec.Struct, frozen=True, tag="pointer"):
    """An address: shown in hexadecimal."""


class Enum(msgspec.Struct, frozen=True, tag="enum"):
    """A number with a name; shown as the name, or as the number where there is none."""

    name: str
    values: tuple[tuple[str, int], ...]
    size: int = 4
    signed: bool = False


class String(msgspec.Struct, frozen=True, tag="string"):
    """A text."""


class ShortText(msgspec.Struct, frozen=True, tag="short"):
    """A text of 16 bytes at most, in two words."""


class HeldText(msgspec.Struct, frozen=True, tag="held"):
    """A text of so many bytes at most, eight in a word."""

    size: int


class Strings(msgspec.Struct, frozen=True, tag="strings"):
    """So many texts (``join``)."""


class Memory(msgspec.Struct, frozen=True, tag="memory"):
    """Bytes (``buf``). ``kind``: ``bytes`` as \\x00 escapes, ``inet`` an address of 4 or 16 bytes,
    ``mac`` one of 6."""

    kind: str = "bytes"


class Struct(msgspec.Struct, frozen=True, tag="struct"):
    """The memory of a struct or union; ``of``: its index in ``Bundle.types``."""

    of: int


class Array(msgspec.Struct, frozen=True, tag="array"):
    """The memory of an array; ``of``: its index in ``Bundle.types``."""

    of: int


class Stack(msgspec.Struct, frozen=True, tag="stack"):
    """A stack in user mode. ``mode``: bpftrace, perf, raw or build_id."""

    mode: str = "bpftrace"
    depth: int = 127


class Symbol(msgspec.Struct, frozen=True, tag="symbol"):
    """An address of the process that hit, shown by its symbol (``usym``, ``func``: ``offset``
    false, its name alone)."""

    offset: bool = True


class Time(msgspec.Struct, frozen=True, tag="time"):
    """Nanoseconds of a clock, shown by a format (``strftime``). ``clock``: boot or tai."""

    format: str
    clock: str = "boot"


class ErrorText(msgspec.Struct, frozen=True, tag="error"):
    """An error number, shown as its text (``strerror``)."""


class SignalName(msgspec.Struct, frozen=True, tag="signal"):
    """A signal's number, shown as its name."""


class UserName(msgspec.Struct, frozen=True, tag="username"):
    """A user id, shown as the user's name."""


class InternetAddress(msgspec.Struct, frozen=True, tag="inet4"):
    """An IPv4 address in the low four bytes of a word, in the order of the network."""


class Tuple(msgspec.Struct, frozen=True, tag="tuple"):
    """Several values. ``names``: of a record's fields, else empty."""

    items: tuple[Value, ...]
    names: tuple[str, ...] = ()


Value: TypeAlias = (
    Integer
    | Boolean
    | Float
    | Pointer
    | Enum
    | String
    | ShortText
    | HeldText
    | Strings
    | Memory
    | Struct
    | Array
    | Stack
    | Symbol
    | Time
    | ErrorText
    | SignalName
    | UserName
    | InternetAddress
    | Tuple
)


# -- maps -----------------------------------------------------------------------------------------


class Part(msgspec.Struct, frozen=True):
    """A map of the programs that is (a part of) a map of the script.

    ``key``: how each value of the key is made of the items of the map's key: a word is one item,
    a ``String`` is one item of bytes (``str``) or, where ``constant`` has True at its place, a word
    that is an index in ``Bundle.strings``; ``ShortText`` and ``Stack`` are one item of bytes, a
    ``Tuple`` is its items.
    """

    name: str
    constant: tuple[bool, ...] = ()


class Map(msgspec.Struct, frozen=True):
    """A map of the script. ``name``: as written (``@x``, ``@``); ``kind``: of ``program.maps``;
    ``key``: its values, empty where it has none; ``value``: what a ``value`` map has, or what of a
    ``sum``, ``min``… its numbers are (Integer, signed or not). Where a ``String`` is or is in a
    value, its word is an index in ``Bundle.strings``.

    ``shown``: printed at the end of the script, with what is in it. ``blocks``: blocks set it (a
    ``value`` map): at their end what they have set is to be put into the processes' maps.
    ``hits``: programs use it. ``timed``: before each value is the time at which it was set.
    """

    name: str
    kind: str
    parts: tuple[Part, ...]
    key: tuple[Value, ...] = ()
    value: Value = Integer()
    arguments: tuple[int, ...] = ()
    shown: bool = True
    blocks: bool = False
    hits: bool = True
    timed: bool = False


# -- actions --------------------------------------------------------------------------------------


class Printf(msgspec.Struct, frozen=True, tag="printf"):
    """Print by a format. ``to``: out (``printf``), error (``errorf``: to stderr, with ``place``
    before it), warning (``warnf``)."""

    format: str
    arguments: tuple[Value, ...] = ()
    to: str = "out"
    place: str = ""


class Log(msgspec.Struct, frozen=True, tag="log"):
    """Print a line: the values (``names``: as they are written) between the ``texts``, one more.
    ``redacted``: patterns of names of members that are not shown."""

    texts: tuple[str, ...]
    names: tuple[str, ...] = ()
    arguments: tuple[Value, ...] = ()
    redacted: tuple[str, ...] = ()


class System(msgspec.Struct, frozen=True, tag="system"):
    """Run a command and print its output."""

    format: str
    arguments: tuple[Value, ...] = ()


class Cat(msgspec.Struct, frozen=True, tag="cat"):
    """Print the contents of a file."""

    format: str
    arguments: tuple[Value, ...] = ()


class Print(msgspec.Struct, frozen=True, tag="print"):
    """Print a value and the end of a line."""

    argument: Value


class PrintMap(msgspec.Struct, frozen=True, tag="print map"):
    """Print a map: all of it, or the ``top`` greatest; numbers divided by ``divisor``."""

    map: int
    top: int = 0
    divisor: int = 1


class PrintEntry(msgspec.Struct, frozen=True, tag="print entry"):
    """Print what an aggregating map has at a key. ``key``: its arguments."""

    map: int
    key: tuple[Value, ...]


class Clear(msgspec.Struct, frozen=True, tag="clear"):
    """Forget all that is in a map."""

    map: int


class Zero(msgspec.Struct, frozen=True, tag="zero"):
    """Keep the keys of a map, and begin anew at each."""

    map: int


class Delete(msgspec.Struct, frozen=True, tag="delete"):
    """Forget a key of an aggregating map. ``key``: its arguments."""

    map: int
    key: tuple[Value, ...]


class Join(msgspec.Struct, frozen=True, tag="join"):
    """Print so many texts (one argument: ``Strings``) with something between them, and the end of a
    line."""

    delimiter: str = " "


class PrintTime(msgspec.Struct, frozen=True, tag="time"):
    """Print the time by a format (``time()``: by default ``%H:%M:%S\\n``)."""

    format: str


class Exit(msgspec.Struct, frozen=True, tag="exit"):
    """End the script. Its argument: the exit status, an Integer."""


class ForEach(msgspec.Struct, frozen=True, tag="for each"):
    """Run the block ``body`` (index in ``Bundle.blocks``) for each entry of a map, then go on. Its
    arguments (``Block.arguments``) are the values of the key, then the value; of an aggregating
    map one word, what a cast to an integer gives (count, sum, average, least or greatest)."""

    map: int
    body: int


class Fetch(msgspec.Struct, frozen=True, tag="fetch"):
    """Put what an aggregating map has at a key, as a cast to an integer gives it, into the local
    variable ``local`` of the blocks' program, then go on. ``key``: its arguments. ``has``: not
    the number, but 1 where the key is there, else 0."""

    map: int
    key: tuple[Value, ...]
    local: int
    has: bool = False


class Measure(msgspec.Struct, frozen=True, tag="measure"):
    """Put how many keys a map has (``len``) into a local variable of the blocks' program, then go
    on."""

    map: int
    local: int


class GoOn(msgspec.Struct, frozen=True, tag="go on"):
    """What was logged before is done, and the block goes on."""


class Watch(msgspec.Struct, frozen=True, tag="watch"):
    """Watch memory of the process that hit, with a program of ``Bundle.watches``. Its argument: the
    address."""

    program: int


class Unwatch(msgspec.Struct, frozen=True, tag="unwatch"):
    """Watch an address no longer, in the process that hit. Its argument: the address."""


class Break(msgspec.Struct, frozen=True, tag="break"):
    """End the loop whose body this is."""


Action: TypeAlias = (
    Printf
    | Log
    | System
    | Cat
    | Print
    | PrintMap
    | PrintEntry
    | Clear
    | Zero
    | Delete
    | Join
    | PrintTime
    | Exit
    | ForEach
    | Fetch
    | Measure
    | GoOn
    | Watch
    | Unwatch
    | Break
)


# -- programs and blocks --------------------------------------------------------------------------


class ModuleProgram(msgspec.Struct, frozen=True):
    """A program for one module.

    ``code``: a program as ``bytecode.encode`` makes it; the module is its header's name, as in
    programs of RPN (a path, a base name, a soname); empty: the executable of the process.
    ``probes``: what the script calls each of its probes (``uprobe:libc:malloc``), in their order.
    ``found``: no module was written (``malloc { … }``): the name is what the caller's ``World``
    said for it.
    """

    code: bytes
    probes: tuple[str, ...]
    found: bool = False


class Block(msgspec.Struct, frozen=True):
    """A probe of the blocks' program, and what fires it.

    ``kind``: begin, end, interval, profile, signal, or body (of a loop). ``probe``: its index
    there; ``period``: nanoseconds; ``signal``: ``SIGUSR1``; ``name``: as the script calls it.
    """

    kind: str
    probe: int
    period: int = 0
    signal: str = ""
    name: str = ""
    arguments: tuple[Value, ...] = ()


class Bundle(msgspec.Struct, frozen=True):
    """A compiled script.

    ``watches``: programs with one watchpoint each, of an address that is known at a hit only: what
    they say is to be replaced (``Watch``).
    ``strings``: the constants; the first one is empty, which is what has not been set.
    ``code``: the blocks' program, empty where there are no blocks. ``types``: the table that
    ``Struct`` and ``Array`` refer to. ``unsafe``: it runs commands. ``config``: what its ``config``
    block says, by name. ``warnings``: one line each.
    """

    programs: tuple[ModuleProgram, ...] = ()
    code: bytes = b""
    blocks: tuple[Block, ...] = ()
    maps: tuple[Map, ...] = ()
    actions: tuple[Action, ...] = ()
    strings: tuple[str, ...] = ()
    types: tuple[Type, ...] = ()
    unsafe: bool = False
    config: dict[str, str | int] = {}
    warnings: tuple[str, ...] = ()
    watches: tuple[ModuleProgram, ...] = ()
    version: int = VERSION


class BundleError(Exception):
    """These bytes are no bundle, or one of another version."""


#: Before a letter that stands for a byte (0x80 to 0xff), and before itself: what is written has to
#: be UTF-8, and a text of a script need not be (``text_bytes``).
_MARK: Final = "\uffff"
_ODD: Final = re.compile("[\udc80-\udcff\uffff]")
_MARKED: Final = re.compile(f"{_MARK}([\x80-\xff{_MARK}])")


def encode(bundle: Bundle) -> bytes:
    """A bundle as bytes."""
    plain = msgspec.to_builtins(bundle, builtin_types=(bytes,))
    return msgspec.msgpack.encode(_each_text(plain, _marked))


def decode(data: bytes) -> Bundle:
    """The bundle that these bytes are; raises BundleError."""
    try:
        plain = _each_text(msgspec.msgpack.decode(data), _unmarked)
        bundle = msgspec.convert(plain, Bundle)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise BundleError(f"this is no script's bundle: {error}") from None
    if bundle.version != VERSION:
        raise BundleError(f"this is a bundle of version {bundle.version}, not {VERSION}")
    try:
        for action in bundle.actions:
            if isinstance(action, Printf | System | Cat):
                conversions.checked(action.format)
    except conversions.FormatError as error:
        raise BundleError(f"this is no script's bundle: {error}") from None
    return bundle


def _each_text(plain: Any, change: Callable[[str], str]) -> Any:
    """The same with each text in it changed."""
    if isinstance(plain, str):
        return change(plain)
    if isinstance(plain, dict):
        return {_each_text(key, change): _each_text(one, change) for key, one in plain.items()}
    if isinstance(plain, list | tuple):
        return [_each_text(one, change) for one in plain]
    return plain


def _marked(text: str) -> str:
    return _ODD.sub(
        lambda one: _MARK + (_MARK if one[0] == _MARK else chr(ord(one[0]) - 0xDC00)), text
    )


def _unmarked(text: str) -> str:
    return _MARKED.sub(lambda one: _MARK if one[1] == _MARK else chr(0xDC00 + ord(one[1])), text)
