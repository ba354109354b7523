"""The look at the stack with which Go's functions begin."""

from __future__ import annotations

import pytest

from dprobed.arch.x86_64.go_code import behind_stack_check

SMALL = "49 3b 66 10 76 2a"  # cmp 0x10(%r14),%rsp; jbe
FAR = "49 3b 66 10 0f 86 c6 00 00 00"
LARGER = "4c 8d a4 24 58 fe ff ff 4d 3b 66 10 0f 86 c6 00 00 00"
LARGE = "49 89 e4 49 81 ec 00 00 10 00 72 30 4d 3b 66 10 76 2a"
OLD = "64 48 8b 0c 25 f8 ff ff ff 48 3b 61 10 76 2a"  # mov %fs:-8,%rcx; cmp 0x10(%rcx),%rsp
OLD_LARGER = "64 48 8b 0c 25 f8 ff ff ff 48 8d 44 24 80 48 3b 41 10 76 2a"


@pytest.mark.parametrize("look", [SMALL, FAR, LARGER, LARGE, OLD, OLD_LARGER])
def test_forms(look: str) -> None:
    code = bytes.fromhex(look)
    assert behind_stack_check(code + bytes.fromhex("48 83 ec 18 48 89 6c 24 10")) == len(code)


@pytest.mark.parametrize(
    "code",
    [
        "",
        "48 83 ec 18 49 3b 66 10 76 2a",  # the frame is there already
        "49 3b 66 18 76 2a",  # the guard of the system's stack
        "49 3b 66 10 77 2a",  # goes on where there is room
        "49 3b 66 10",
        "55 48 89 e5 c3",
        "48 3b 7e 10 76 2a",  # cmp 0x10(%rsi),%rdi: something of its own
    ],
)
def test_others(code: str) -> None:
    assert behind_stack_check(bytes.fromhex(code)) == 0
