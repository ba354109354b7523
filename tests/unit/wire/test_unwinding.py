"""What a resolver says of callers is checked before anybody uses it."""

from __future__ import annotations

from array import array

import msgspec
import pytest

from dprobed.wire.resolver import (
    NO_RULE,
    How,
    ResolverProtocolError,
    Rule,
    UnwindAt,
    UnwindBlock,
    check,
    decode_answer,
    pack,
)

QUESTION = UnwindAt("x", "", 0x1234)
RULE = Rule(7, 8, b"", (How(16, 2, -8, b""),), 16, False)


def block(**changed: object) -> UnwindBlock:
    good = UnwindBlock(
        0x1000,
        0x2000,
        array("I", [0, 0x20, 0x300]).tobytes(),
        array("H", [0, NO_RULE, 0]).tobytes(),
        (RULE,),
    )
    return msgspec.structs.replace(good, **changed)


def test_a_sound_answer_comes_as_it_was_sent() -> None:
    for answer in (block(), block(addresses=b"", rules=b"", table=()), block(end=(1 << 64) - 1)):
        assert decode_answer(pack(answer)) == answer
        check(QUESTION, answer, None)


@pytest.mark.parametrize(
    "changed",
    [
        {"start": 0x1235},
        {"end": 0x1234},
        {"start": -1},
        {"addresses": array("I", [0, 0x20]).tobytes()},
        {"addresses": b"\0" * 11},
        {"rules": b"\0" * 5},
        {"addresses": array("I", [0, 0x20, 0x20]).tobytes()},
        {"addresses": array("I", [0, 0x30, 0x20]).tobytes()},
        {"rules": array("H", [0, 1, 0]).tobytes()},
        {"table": ()},
        {"table": (RULE._replace(cfa_register=17),)},
        {"table": (RULE._replace(cfa_register=-2),)},
        {"table": (RULE._replace(registers=(How(17, 2, 0, b""),)),)},
        {"table": (RULE._replace(registers=(How(-1, 2, 0, b""),)),)},
        {"table": (RULE._replace(cfa_expression=b"\x96" * 257),)},
        {"table": (RULE._replace(registers=(How(6, 5, 0, b"\x96" * 257),)),)},
    ],
)
def test_what_cannot_be_is_refused(changed: dict[str, object]) -> None:
    with pytest.raises(ResolverProtocolError):
        check(QUESTION, block(**changed), None)
