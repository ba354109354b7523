"""Programs from their files, as commands name them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from dprobe.lib.errors import UserError
from dprobe.lib.programs import Choice, load_programs

SOURCE = "name = libc.so.6\nmajor = 1\noffset = write\nexit\n"


def test_a_program_that_is_named_twice_is_not_inserted_twice(tmp_path: Path) -> None:
    path, other, link = (tmp_path / f"{name}.rpn" for name in ("a", "b", "c"))
    path.write_text(SOURCE)
    other.write_text(SOURCE)
    link.symlink_to(path)
    for second in (path, link):
        with pytest.raises(UserError, match=f"^{second} is named twice; name each program once$"):
            load_programs([str(path), str(second)], Choice())
    loaded = load_programs([str(path), str(other)], Choice())
    assert [each.upload.label for each in loaded] == ["a", "b"]


def test_a_name_is_never_a_number(tmp_path: Path) -> None:
    """Commands take a number for that of a program."""
    names = {"63.rpn": "63.rpn", "7.x": "7.x", "64": "64.rpn", "1a.rpn": "1a", "a.2.rpn": "a.2"}
    for name, label in names.items():
        (tmp_path / name).write_text(SOURCE)
        (loaded,) = load_programs([str(tmp_path / name)], Choice())
        assert loaded.upload.label == label
    # As a shell gives it: `<(…)`.
    from_there, into = os.pipe()
    os.write(into, SOURCE.encode())
    os.close(into)
    (loaded,) = load_programs([f"/dev/fd/{from_there}"], Choice())
    os.close(from_there)
    assert loaded.upload.label == f"fd{from_there}"


def test_a_file_name_makes_no_other_line(tmp_path: Path) -> None:
    path = tmp_path / "one\ntwo \x1b[31m.rpn"
    path.write_text("name = libc.so.6\noffset = write\n    pusch tid\n")
    with pytest.raises(UserError) as raised:
        load_programs([str(path)], Choice())
    first, _ = str(raised.value).split(": error: ", 1)
    assert first.startswith(f"{tmp_path}/one\\ntwo \\x1b[31m.rpn:")
