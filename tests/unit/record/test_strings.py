"""Strings as text: no two are alike, and each comes back."""

from __future__ import annotations

import itertools

from dprobed.record.strings import meant, told_apart


def test_no_two_strings_have_one_text() -> None:
    letters = (b"\\", b"x", b"f", b"\xff", "é".encode())
    strings = [b"".join(each) for n in range(7) for each in itertools.product(letters, repeat=n)]
    texts = {told_apart(each): each for each in strings}
    assert len(texts) == len(strings)
    assert all(meant(text) == raw for text, raw in texts.items())


def test_most_are_as_they_are() -> None:
    for text in ("/usr/bin/cat", r"c:\dir", r"a\x", "é", r"\xFF"):
        assert told_apart(text.encode()) == text
    assert told_apart(b"a\xffb") == r"a\xffb"
    assert told_apart(rb"a\xffb") == r"a\\xffb"
