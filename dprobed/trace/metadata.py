"""The metadata of a CTF 1.8 trace: TSDL, the language that says how the packets are laid out.

By hand because the packets are (ctf.py): bt2 writes metadata only for events that it writes itself.
Our own reader needs no parser of TSDL: what it needs of an event class is in its ``model.emf.uri``,
which viewers show or ignore, and of the trace in ``env``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Final
from urllib.parse import parse_qsl, urlencode
from uuid import UUID

import msgspec

from dprobed import __version__
from dprobed.program.user_stack import StackEnd
from dprobed.trace.shape import fields

#: The first line: without it, text metadata is not accepted.
_SIGNATURE: Final = "/* CTF 1.8 */\n"
_URI: Final = "dprobed:class?"

_HEAD: Final = """
typealias integer {{ size = 8; align = 8; signed = false; base = 16; }} := hex8_t;
typealias integer {{ size = 8; align = 8; signed = false; encoding = UTF8; }} := text_t;
typealias integer {{ size = 8; align = 8; signed = false; }} := uint8_t;
typealias integer {{ size = 16; align = 8; signed = false; }} := uint16_t;
typealias integer {{ size = 32; align = 8; signed = false; }} := uint32_t;
typealias integer {{ size = 32; align = 8; signed = true; }} := int32_t;
typealias integer {{ size = 64; align = 8; signed = false; }} := uint64_t;
typealias integer {{ size = 64; align = 8; signed = false; base = 16; }} := hex64_t;
typealias integer {{ size = 64; align = 8; signed = true; }} := int64_t;
typealias floating_point {{ exp_dig = 11; mant_dig = 53; align = 8; }} := float64_t;

trace {{
    major = 1;
    minor = 8;
    uuid = "{uuid}";
    byte_order = le;
    packet.header := struct {{
        uint32_t magic;
        hex8_t uuid[16];
        uint32_t stream_id;
        uint64_t stream_instance_id;
    }};
}};

env {{
    domain = "dprobed";
    hostname = "{hostname}";
    tracer_name = "dprobed";
    tracer_version = "{version}";
    exits = "{exits}";
}};

clock {{
    name = monotonic;
    description = "CLOCK_MONOTONIC";
    freq = 1000000000;
    precision = 1;
    offset_s = {offset_s};
    offset = {offset};
    absolute = true;
}};

typealias integer {{
    size = 64; align = 8; signed = false; map = clock.monotonic.value;
}} := stamp_t;

struct stack_frame {{
    hex64_t called;
    hex64_t return_to;
    uint16_t stack_length;
    uint64_t stack[stack_length];
    uint16_t locals_length;
    uint64_t locals[locals_length];
    uint16_t globals_length;
    uint64_t globals[globals_length];
}};

struct stack_trace {{
    uint64_t code;
    hex64_t handler;
    uint64_t parm1;
    uint64_t parm2;
    uint16_t frames_length;
    struct stack_frame frames[frames_length];
}};

struct stack_module {{
    uint8_t build_id_length;
    hex8_t build_id[build_id_length];
    uint16_t path_length;
    text_t path[path_length];
}};

struct user_frame {{
    integer {{ size = 56; align = 8; signed = false; base = 16; }} address;
    integer {{ size = 6; align = 1; signed = false; }} module;
    integer {{ size = 1; align = 1; signed = false; }} signal;
    integer {{ size = 1; align = 1; signed = false; }} exact;
}};

struct user_stack {{
    enum : uint8_t {{
{stack_ends}
    }} end;
    uint8_t modules_length;
    uint8_t frames_length;
    struct stack_module modules[modules_length];
    struct user_frame frames[frames_length];
}};

stream {{
    id = 0;
    packet.context := struct {{
        stamp_t timestamp_begin;
        stamp_t timestamp_end;
        uint64_t content_size;
        uint64_t packet_size;
        uint64_t events_discarded;
        uint64_t packet_seq_num;
        uint32_t target;
    }};
    event.header := struct {{
        uint32_t id;
        stamp_t timestamp;
    }};
    event.context := struct {{
        uint32_t pid;
        uint32_t tid;
        uint32_t uid;
        uint32_t cpu;
        uint64_t hit;
        enum : int32_t {{
{exit_labels}
        }} exit;
        uint64_t major;
        uint64_t minor;
        text_t comm[16];
    }};
}};
"""


class EventClass(msgspec.Struct, frozen=True):
    """Events of one probe at one place, with logs of one shape."""

    program: str
    probe: int
    module: str
    place: str
    shape: str


def head(uuid: UUID, hostname: str, offset_ns: int, exits: Mapping[int, str]) -> str:
    """All but the events. ``offset_ns``: what to add to monotonic time for the time of day."""
    # The offset in clock ticks must not be negative.
    offset_s, offset = divmod(offset_ns, 1_000_000_000)
    labels = (f"            {_quote(name)} = {number}" for number, name in exits.items())
    return _SIGNATURE + _HEAD.format(
        uuid=uuid,
        hostname=_escape(hostname),
        version=__version__,
        exits=_escape(urlencode({str(number): name for number, name in exits.items()})),
        exit_labels=",\n".join(labels),
        stack_ends=",\n".join(f"        {end.name.lower()} = {end.value}" for end in StackEnd),
        offset_s=offset_s,
        offset=offset,
    )


def more_exits(exits: Mapping[int, str]) -> str:
    """Names of exits that came after the beginning: an enumeration cannot grow, so for us only."""
    return f"\n/* dprobed exits: {urlencode({str(key): name for key, name in exits.items()})} */\n"


def event(number: int, described: EventClass) -> str:
    """The declaration of one class of events."""
    uri = _URI + urlencode(
        {
            "program": described.program,
            "probe": described.probe,
            "module": described.module,
            "place": described.place,
            "shape": described.shape,
        },
        errors="surrogateescape",
    )
    name = f"{described.program}:{described.place}"
    lines = "".join(f"        {field}\n" for field in fields(described.shape))
    return (
        f"\nevent {{\n    name = {_quote(name)};\n    id = {number};\n    stream_id = 0;\n"
        f'    model.emf.uri = "{uri}";\n    fields := struct {{\n{lines}    }};\n}};\n'
    )


def _escape(text: str) -> str:
    """As it may stand between quotes in TSDL: no control characters."""
    printable = "".join(letter if letter.isprintable() else "?" for letter in text)
    return printable.replace("\\", "\\\\").replace('"', '\\"')


def _quote(text: str) -> str:
    return f'"{_escape(text)}"'


class MetadataError(Exception):
    """The metadata is not ours."""


class Metadata(msgspec.Struct, frozen=True):
    """What the reader wants to know: the time of day at monotonic 0, exits and classes."""

    uuid: UUID
    offset_ns: int
    exits: dict[int, str]
    classes: dict[int, EventClass]


_TRACE: Final = re.compile(
    r'uuid = "([-0-9a-f]{36})".*tracer_name = "dprobed";.*exits = "([^"]*)";'
    r".*offset_s = (-?\d+);\s*offset = (\d+);",
    re.DOTALL,
)
_EXITS: Final = re.compile(r"^/\* dprobed exits: (\S*) \*/$", re.MULTILINE)
_EVENT: Final = re.compile(
    r'^    id = (\d+);\n    stream_id = 0;\n    model\.emf\.uri = "dprobed:class\?([^"]*)";$',
    re.MULTILINE,
)


def parse(text: str) -> Metadata:
    """Metadata that ``head`` and ``event`` wrote; raises MetadataError."""
    found = _TRACE.search(text)
    if not text.startswith(_SIGNATURE) or found is None:
        raise MetadataError("this is no trace of dprobed")
    texts = [found[2], *_EXITS.findall(text)]
    exits = {int(number): name for each in texts for number, name in parse_qsl(each)}
    offset_ns = int(found[3]) * 1_000_000_000 + int(found[4])
    return Metadata(UUID(found[1]), offset_ns, exits, dict(_classes(text)))


def _classes(text: str) -> Iterator[tuple[int, EventClass]]:
    for match in _EVENT.finditer(text):
        values = dict(parse_qsl(match[2], keep_blank_values=True, errors="surrogateescape"))
        yield (
            int(match[1]),
            EventClass(
                program=values["program"],
                probe=int(values["probe"]),
                module=values["module"],
                place=values["place"],
                shape=values["shape"],
            ),
        )
