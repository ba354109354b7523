"""printf: each conversion as C and bpftrace have it."""

from __future__ import annotations

import pytest
from dprobe.lib.script.values import Address, Buffer, NamedNumber, Shown, StackText
from dprobe.view.script.formats import formatted


@pytest.mark.parametrize(
    ("form", "value", "wanted"),
    [
        ("%d", -1, "-1"),
        ("%5d|", 2, "    2|"),
        ("%-5d|", 3, "3    |"),
        ("%05d", 4, "00004"),
        ("%05d", -4, "-0004"),
        ("%x", 255, "ff"),
        ("%#x", 255, "0xff"),
        ("%X", 255, "FF"),
        ("%u", -1, "4294967295"),
        ("%d", 0xFFFFFFFF, "-1"),
        ("%ld", 0xFFFFFFFF, "4294967295"),
        ("%lld", -1, "-1"),
        ("%llu", -1, "18446744073709551615"),
        ("%lx", -1, "ffffffffffffffff"),
        ("%08lx", 255, "000000ff"),
        ("%hhx", 0x12345678ABCDEF, "ef"),
        ("%hx", 0x12345678ABCDEF, "cdef"),
        ("%x", 0x12345678ABCDEF, "78abcdef"),
        ("%jx", 0x12345678ABCDEF, "12345678abcdef"),
        ("%hhd", 300, "44"),
        ("%hu", 70000, "4464"),
        ("%o", 8, "10"),
        ("%#o", 8, "010"),
        ("%+d", 5, "+5"),
        ("% d", 5, " 5"),
        ("%.3d", 5, "005"),
        ("%i", 7, "7"),
        ("%c", 65, "A"),
        ("%-3c|", 67, "C  |"),
        ("%s", "str", "str"),
        ("%10s|", "str", "       str|"),
        ("%-10s|", "str", "str       |"),
        ("%.2s", "str", "st"),
        ("%p", Address(4096), "0x1000"),
        ("%p", 4096, "0x1000"),
        ("%p", 0, "(nil)"),
        ("%lx", Address(4096), "1000"),
        ("%s", NamedNumber(3, "THREE"), "THREE"),
        ("%d", NamedNumber(3, "THREE"), "3"),
        ("%d", True, "1"),
        ("%s", True, "true"),
        ("%s", (1, "a"), "(1, a)"),
        ("%r", Buffer(b"ab\x01\xff\\"), "ab\\x01\\xff\\"),
        ("%rx", Buffer(b"Hello\0"), "\\x48\\x65\\x6c\\x6c\\x6f\\x00"),
        ("%rh", Buffer(b"\x0a\xfe"), "0a fe"),
        ("%s", StackText(("main+1", "_start+2")), "\n        main+1\n        _start+2\n"),
        ("%f", 1.5, "1.500000"),
        ("%.2f", 1.256, "1.26"),
        ("%8.3e|", 1234.5, "1.234e+03|"),
        ("%g", 0.5, "0.5"),
        ("%.1f", 3, "3.0"),
        ("%d", 2.75, "2"),
        ("%d", "text", "text"),
        ("%08.2f", 3.14159, "00003.14"),
        ("%-8.1f|", -2.5, "-2.5    |"),
        ("%+.0f", 2.0, "+2"),
        ("%f", float("nan"), "nan"),
        ("%08f", float("-inf"), "    -inf"),
        ("%d", float("nan"), "nan"),
        ("%x", float("inf"), "inf"),
        ("%gr", 0.5, "0.5r"),
        ("%.s|", "abc", "|"),
        # Letters are counted, and none is cut.
        ("%5s|", "héé", "  héé|"),
        ("%-5s|", "日本", "日本   |"),
        ("%.2s|", "日本語", "日本|"),
        ("%3s|", "\udcff", "  \udcff|"),
        # A byte is a byte.
        ("%c", 0xFF, "\udcff"),
        ("%c", 0x1E9, "\udce9"),
    ],
)
def test_a_conversion_shows_its_value(form: str, value: Shown, wanted: str) -> None:
    assert formatted(form, [value]) == wanted


def test_bytes_that_are_a_letter_together_come_out_as_one() -> None:
    shown = formatted("%c%c", [0xC3, 0xA9])
    assert shown.encode("utf-8", "surrogateescape") == "é".encode()


def test_text_and_percent_signs_stay() -> None:
    assert formatted("100%% of %s: %d%%\n", ["all", 5]) == "100% of all: 5%\n"


def test_arguments_are_taken_in_their_order() -> None:
    assert formatted("%s=%d, %s=%d", ["a", 1, "b", 2]) == "a=1, b=2"


def test_what_a_record_had_no_room_for_is_nothing() -> None:
    assert formatted("%d %d", [1]) == "1 0"


def test_a_width_does_not_fill_memory() -> None:
    assert len(formatted("%999999999d", [1])) == 4096
