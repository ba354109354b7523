"""The messages of the control socket: what is taken, what is refused, and how that is said."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import msgspec
import pytest

from dprobed.wire import messages
from dprobed.wire.socket_path import default_socket


def test_a_request_is_one_line_of_json() -> None:
    upload = messages.Upload(label="alloc", bytecode=b"\x00\xff")
    line = messages.encode(messages.Insert(id=2, pid=1234, programs=[upload]))
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert json.loads(line) == {
        "type": "insert",
        "id": 2,
        "pid": 1234,
        "programs": [
            {
                "label": "alloc",
                "bytecode": base64.b64encode(b"\x00\xff").decode(),
                "budget": None,
                "engine": "trap",
                "seconds": None,
            }
        ],
        "keep": False,
        "check_opcode": True,
        "present": "merge",
        "also": [],
    }
    assert messages.decode_request(line) == messages.Insert(id=2, pid=1234, programs=[upload])


@pytest.mark.parametrize("kind", messages.Request.__args__)
def test_every_request_says_what_it_is(kind: type[msgspec.Struct]) -> None:
    assert kind.__struct_config__.tag == kind.__name__.lower()


@pytest.mark.parametrize(
    ("line", "request_id", "words"),
    [
        (b"", None, "truncated"),
        (b"GET / HTTP/1.1\r", None, "malformed"),
        (b"\xff\xfe\x00", None, "malformed"),
        (b"3", None, "object"),
        (b"[" * 100_000, None, "object"),
        (b'{"id":1,"x":' + b"[" * 100_000, None, "recursion"),
        (b'{"type":"query"', None, "truncated"),
        (b'{"type":"query"}', None, "`id`"),
        (b'{"type":"query","id":-1}', None, "$.id"),
        (b'{"type":"fly","id":9}', 9, "fly"),
        (b'{"id":9}', 9, "type"),
        (b'{"type":"attach","id":9,"pid":0}', 9, "$.pid"),
        (b'{"type":"attach","id":9,"pid":4194305}', 9, "$.pid"),
        (b'{"type":"attach","id":9,"pid":"1"}', 9, "$.pid"),
        (b'{"type":"attach","id":9,"pid":2,"colour":1}', 9, "colour"),
        (b'{"type":"insert","id":9,"pid":2,"programs":[]}', 9, "$.programs"),
        (b'{"type":"vars","id":9,"first":-1}', 9, "$.first"),
        (b'{"type":"query","id":9,"select":{"sql":"drop"}}', 9, "sql"),
        (
            b'{"type":"insert","id":9,"pid":2,"programs":[{"label":"a","bytecode":"!"}]}',
            9,
            "base64",
        ),
        (
            b'{"type":"insert","id":9,"pid":2,"programs":'
            b'[{"label":"a","bytecode":"","budget":{"hits":1,"rule":"policy web"}}]}',
            9,
            "rule",
        ),
    ],
)
def test_what_is_no_request_is_refused_with_the_reason(
    line: bytes, request_id: int | None, words: str
) -> None:
    with pytest.raises(messages.MessageError) as caught:
        messages.decode_request(line)
    assert caught.value.id == request_id
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_client_understands_a_daemon_that_says_more() -> None:
    line = b'{"type":"attached","id":1,"pid":2,"from_the_future":[1]}'
    assert messages.decode_from_daemon(line) == messages.Attached(id=1, pid=2)


def test_where_the_socket_is() -> None:
    assert default_socket(0, {"XDG_RUNTIME_DIR": "/x"}) == Path("/run/dprobed/control.sock")
    assert default_socket(7, {"XDG_RUNTIME_DIR": "/run/user/7"}) == Path(
        "/run/user/7/dprobed/control.sock"
    )
    assert default_socket(7, {"XDG_RUNTIME_DIR": "relative"}) == Path("/tmp/dprobed-7/control.sock")
    assert default_socket(7, {}) == Path("/tmp/dprobed-7/control.sock")
