"""Formats: conversions are read in one place, and what is wrong with one is said where it is."""

from __future__ import annotations

import pytest

from dprobed.program.bt.bundle import Bundle, BundleError, Cat, Printf, System, decode, encode
from dprobed.program.bt.compiler import Options, compile_script
from tests.unit.program.bt.running import refused


@pytest.mark.parametrize(
    ("call", "at", "message"),
    [
        ('printf("%*d", 3)', '%*d"', "%*d is no conversion"),
        ('printf("a %5d %y", 3, 4)', "%y", "%y is no conversion"),
        ('printf("é\\x41\\n%y", 3)', "%y", "%y is no conversion"),
        ('printf("%q", 3)', "%q", "%q is no conversion"),
        ('printf("%a", 3)', "%a", "%a is no conversion"),
        ('printf("%5%")', "%5", "%5% is no conversion"),
        ('printf("%1$d", 3)', "%1", "%1$d is no conversion"),
        ('printf("100%")', '%"', "a % in the format has no conversion behind it"),
        ('printf("%-")', '%-"', "a % in the format has no conversion behind it"),
        ('printf("\\t%4097d", 3)', "%4097d", "a width or precision is at most 4096"),
        ('printf("%.99999999999999999999s", "a")', "%.9", "a width or precision is at most 4096"),
        ('errorf("%y")', "%y", "%y is no conversion"),
        ('cat("%y")', "%y", "%y is no conversion"),
        ('cat("/a\\0b")', "\\0b", "a NUL ends this text"),
        ('system("a\\x00b")', "\\x00", "a NUL ends this text"),
        ('time("%H\\0")', "\\0", "a NUL ends this text"),
        ('print(strftime("\\0", nsecs))', "\\0", "a NUL ends this text"),
        ('time("%H %256d")', "%256d", "the width of a time is at most 255"),
    ],
)
def test_what_is_wrong_is_said_where_it_is(call: str, at: str, message: str) -> None:
    script = f"begin {{ {call} }}"
    assert f"test.bt:1:{script.index(at) + 1}: error: {message}\n" in refused(script)


@pytest.mark.parametrize("form", ["%d%%", "%gr", "%5.2d", "%.d", "%-+ #08lx", "%hhd", "%qd", "%Lf"])
def test_what_is_accepted_is_what_is_shown(form: str) -> None:
    from dprobe.view.script.formats import formatted

    script = compile_script(f'begin {{ printf("{form}", 8) }}', "test.bt")
    (action,) = script.actions
    assert isinstance(action, Printf)
    assert "8" in formatted(action.format, [8])


def test_a_compiled_script_keeps_bytes() -> None:
    text = 'begin { print("\\xff\uffff"); printf("\\0\\x80%c"  "é", 1); join($1, "\\xfe") }'
    script = compile_script(text, "test.bt", Options(arguments=("1",)))
    assert decode(encode(script)) == script
    assert script.strings == ("", "\udcff\uffff")


@pytest.mark.parametrize("action", [Printf("%y"), System("%"), Cat("%*s")])
def test_a_compiled_script_with_a_format_that_is_none_is_refused(
    action: Printf | System | Cat,
) -> None:
    with pytest.raises(BundleError, match="no script's bundle"):
        decode(encode(Bundle(actions=(action,))))
