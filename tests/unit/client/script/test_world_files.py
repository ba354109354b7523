"""Files that scripts include and import, as they are in this machine's folders."""

from __future__ import annotations

from pathlib import Path

import pytest
from dprobe.lib.script.world import MOST_TEXT, FileWorld

from dprobed.program.bt.compiler import compile_script
from dprobed.program.model import ProgramError


def refused(script: str, file: Path) -> str:
    """What is wrong with a script of this file."""
    with pytest.raises(ProgramError) as caught:
        compile_script(script, str(file), None, FileWorld(tuple))
    return str(caught.value)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"int \xff;", "it is not UTF-8 text (byte 4)"),
        (b" " * (MOST_TEXT + 1), "it has more than "),
        (None, "is a directory"),
    ],
)
def test_what_cannot_be_read_says_why(tmp_path: Path, data: bytes | None, why: str) -> None:
    file = tmp_path / "odd.h"
    file.mkdir() if data is None else file.write_bytes(data)
    found = refused('#include "odd.h"\nbegin { }', tmp_path / "x.bt")
    assert f"the file `odd.h` cannot be read: {why}" in found


def test_what_is_not_there_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for name in ("none.h", "file/none.h"):
        found = refused(f'#include "{name}"\nbegin {{ }}', tmp_path / "x.bt")
        assert f"there is no file `{name}`" in found
