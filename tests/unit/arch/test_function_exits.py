"""Where functions return, as their code tells."""

from __future__ import annotations

import re

import pytest

from dprobed.arch.x86_64.function_exits import Exit, ExitsError, exits_of

AT = 0x401000
#: Another function, to which some jump; and a table.
THERE = 0x402000
TABLE = 0x403000


def found(code: str, there: str = "c3", table: int = AT + 1) -> tuple[Exit, ...]:
    """The exits of a function that is followed by what is behind a `|` in ``code``."""
    own, _, behind = code.partition("|")
    pieces = {
        AT: bytes.fromhex(own + behind),
        THERE: bytes.fromhex(there),
        TABLE: table.to_bytes(8, "little"),
    }

    def text(address: int, length: int) -> bytes:
        for start, data in pieces.items():
            if start <= address < start + len(data):
                return data[address - start : address - start + length]
        return b""

    return exits_of(text, AT, len(bytes.fromhex(own)))


@pytest.mark.parametrize(
    ("code", "places"),
    [
        ("c3", [AT]),
        ("75 01 c3 f3 c3", [AT + 2, AT + 3]),
        ("c2 08 00", [AT]),
        ("e8 00 00 00 00 c3", [AT + 5]),
        ("e9 fb 0f 00 00", [THERE]),  # a tail call
        ("0f 84 fa 0f 00 00 c3", [AT + 6, THERE]),  # a cold part
        ("48 01 d0 ff e0 c3", [AT + 5]),  # a table of distances
        ("ff 24 c5 00 30 40 00 c3", [AT + 7]),  # one of addresses within the function
    ],
)
def test_each_return_is_found(code: str, places: list[int]) -> None:
    assert [each.address for each in found(code)] == places


def test_other_code_is_followed_to_where_it_comes_back() -> None:
    back = "75 03 c3 90 90 e9 fb ef ff ff"  # jne over a return; then to the function's own
    assert [each.address for each in found("e9 fb 0f 00 00 c3", back)] == [AT + 5, THERE + 2]


def test_only_what_aligns_behind_the_end_is_never_run() -> None:
    nops = "66 66 2e 0f 1f 84 00 00 00 00 00 0f 1f 40 00"
    assert found(f"c3 | {nops}") == (Exit(AT, 15),)
    assert found("c3 |" + "cc" * 15) == (Exit(AT, 15),)
    # Before the end of the function, or with something else there.
    assert found(f"75 05 c3 0f 1f 44 00 00 c3 | {'90' * 7}") == (Exit(AT + 2, 0), Exit(AT + 8, 7))
    assert found("c3 | 90 90 90 55 " + "90" * 11) == (Exit(AT, 0),)
    assert found("c3 | 90 90") == (Exit(AT, 0),)


@pytest.mark.parametrize(
    ("code", "there", "why"),
    [
        ("ff e0", "c3", "at 0x401000 it goes on by a pointer"),
        ("ff 24 c5 00 30 40 00 c3", "c3", "at 0x401000 it goes on by a pointer"),
        ("e9 fb 0f 00 00", "ff 25 00 00 00 00", "at 0x402000 it goes on by a pointer"),
        ("85 c0 75 fc c3", "c3", "at 0x401002 it calls itself by a jump"),
        ("e9 fb 0f 00 00", "e9 fb ef ff ff", "at 0x402000 it calls itself by a jump"),
        ("0f 0b", "c3", "the function has no return"),
        ("06 c3", "c3", "at 0x401000 the function is no code"),
        ("48 cf", "c3", "at 0x401000 it returns to another segment"),
        ("", "c3", "the size of the function is not known"),
        ("e9 fb 0f 00 00", "90" * 2001, "the function goes on in too much code elsewhere"),
        ("75 00" + "c3" * 129, "c3", "the function returns at more than 128 places"),
    ],
)
def test_what_the_code_does_not_tell_is_refused(code: str, there: str, why: str) -> None:
    with pytest.raises(ExitsError, match=re.escape(why)):
        found(code, there, table=THERE)
