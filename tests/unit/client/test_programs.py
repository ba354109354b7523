"""Programs from their files, as commands name them."""

from __future__ import annotations

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
