"""Arguments of static probes as compilers write them."""

from __future__ import annotations

import pytest

from dprobed.arch.x86_64.argument import Argument, ArgumentError, is_plausible, parse

_SYMBOLS = {"counter": 0x4010, "table": 0x5000}

_FORMS = {
    "-4@%edi": Argument(4, True, "register", 0, "rdi"),
    "8@%r12": Argument(8, False, "register", 0, "r12"),
    "1@%ah": Argument(1, False, "register", 8, "rax"),
    "2@%r9w": Argument(2, False, "register", 0, "r9"),
    "-4@$-3": Argument(4, True, "constant", -3),
    "8@$0x10": Argument(8, False, "constant", 16),
    "8f@%xmm3": Argument(8, False, "sse", base="xmm3"),
    "-4@112(%rsp)": Argument(4, True, "memory", 112, "rsp"),
    "8@-16(%rbp)": Argument(8, False, "memory", -16, "rbp"),
    "8@(%rax,%rcx,8)": Argument(8, False, "memory", 0, "rax", "rcx", 8),
    "2@4(%rax,%rcx)": Argument(2, False, "memory", 4, "rax", "rcx", 1),
    "4@counter(%rip)": Argument(4, False, "memory", 0x4010, relative=True),
    "4@counter+8(%rip)": Argument(4, False, "memory", 0x4018, relative=True),
    "4@table-8(,%rdx,4)": Argument(4, False, "memory", 0x4FF8, "", "rdx", 4, True),
    "8@4096": Argument(8, False, "memory", 4096),
}


@pytest.mark.parametrize("text", _FORMS)
def test_forms(text: str) -> None:
    argument = parse(text, _SYMBOLS.__getitem__)
    assert argument == _FORMS[text]
    assert is_plausible(argument)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("%edi", "its size is not given"),
        ("3@%edi", "its size is not given"),
        ("4@%edx:%eax", "its place is of no form that is known"),
        ("4@%st", "no register st"),
        ("4@%xmm16", "no register xmm16"),
        ("8@8(%rip)", "what it is relative to is not told"),
        ("8@(%rax", "its place is of no form that is known"),
        ("4@", "its size is not given"),
    ],
)
def test_what_is_no_argument(text: str, what: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        parse(text, _SYMBOLS.__getitem__)
    assert str(caught.value) == f"{text!r}: {what}"


@pytest.mark.parametrize(
    "lie",
    [
        Argument(3, False, "constant"),
        Argument(8, False, "register", 0, ""),
        Argument(8, False, "register", 16, "rax"),
        Argument(8, False, "register", 0, "xmm1"),
        Argument(8, False, "sse", 0, "rax"),
        Argument(8, False, "memory", 0, "rax", "cs"),
        Argument(8, False, "memory", 0, "rax", "rax", 3),
        Argument(8, False, "memory", 1 << 65, "rax"),
    ],
)
def test_what_cannot_be(lie: Argument) -> None:
    assert not is_plausible(lie)
