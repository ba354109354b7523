"""Encodes messages as lines, and decodes them.

A decoder is made when it is first used: that takes 4 ms of CPU for each direction, and nobody but
tests decodes both.
"""

from __future__ import annotations

from functools import cache

import msgspec

from dprobed.wire.messages.common import Id
from dprobed.wire.messages.replies import Reply
from dprobed.wire.messages.reports import Report
from dprobed.wire.messages.requests import Answer, Request


class MessageError(Exception):
    """The peer sent something that is not a message. ``id`` is the request's, where it has one."""

    def __init__(self, text: str, request_id: int | None = None) -> None:
        super().__init__(text)
        self.id = request_id


class _Envelope(msgspec.Struct):
    id: Id | None = None


_encoder = msgspec.json.Encoder()
_envelope = msgspec.json.Decoder(_Envelope)


@cache
def request_decoder() -> msgspec.json.Decoder[Request | Answer]:
    """That of a daemon."""
    return msgspec.json.Decoder(Request | Answer)


@cache
def daemon_decoder() -> msgspec.json.Decoder[Reply | Report]:
    """That of a client."""
    return msgspec.json.Decoder(Reply | Report)


def encode(message: Request | Reply | Report) -> bytes:
    """The message as one line, newline included."""
    return _encoder.encode(message) + b"\n"


def decode_request(line: bytes) -> Request | Answer:
    """A message from a client; raises MessageError."""
    try:
        return request_decoder().decode(line)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise MessageError(_explain(error), _id_of(line)) from None


def decode_from_daemon(line: bytes) -> Reply | Report:
    """A message from the daemon; raises MessageError."""
    try:
        return daemon_decoder().decode(line)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise MessageError(_explain(error), _id_of(line)) from None


def _explain(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"not a message: {text}" if text else "not a message: nested too deeply"


def _id_of(line: bytes) -> int | None:
    """The id of a message that is wrong elsewhere, so that the answer can be matched to it."""
    try:
        return _envelope.decode(line).id
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return None
