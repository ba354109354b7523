"""Machine code that stands in a table of bytes, and what they mean to the one who reads them."""

from __future__ import annotations

from collections.abc import Iterable

from iced_x86 import Decoder, Formatter, FormatterSyntax


def code_of(listing: Iterable[tuple[str, str]]) -> bytes:
    """The code itself."""
    return b"".join(bytes.fromhex(each) for each, _ in listing)


def decoded(code: bytes) -> list[tuple[str, str]]:
    """The listing as a disassembler writes it."""
    formatter = Formatter(FormatterSyntax.NASM)
    formatter.show_branch_size = False
    formatter.branch_leading_zeros = False
    formatter.leading_zeros = False
    return [
        (code[each.ip : each.next_ip].hex(" "), formatter.format(each))
        for each in Decoder(64, code)
    ]
