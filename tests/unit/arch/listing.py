"""Machine code that stands in a table of bytes, and what they mean to the one who reads them."""

from __future__ import annotations

from collections.abc import Iterable

from iced_x86 import Decoder, Formatter, FormatterSyntax


def code_of(listing: Iterable[tuple[str, str]]) -> bytes:
    """The code itself."""
    return b"".join(bytes.fromhex(each) for each, _ in listing)


def decoded(code: bytes, begin: int = 0) -> list[tuple[str, str]]:
    """The listing as a disassembler writes it; ``begin``: the address of the first byte."""
    formatter = Formatter(FormatterSyntax.NASM)
    formatter.show_branch_size = False
    formatter.branch_leading_zeros = False
    formatter.leading_zeros = False
    return [
        (code[each.ip - begin : each.next_ip - begin].hex(" "), formatter.format(each))
        for each in Decoder(64, code, ip=begin)
    ]
