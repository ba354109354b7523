"""Files that a daemon may rely on."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dprobed.policy import trust


@pytest.mark.parametrize("user", [None, os.geteuid()])
def test_a_folder_in_a_files_place_stays_not_open(tmp_path: Path, user: int | None) -> None:
    """Policies are read anew again and again."""
    folder = tmp_path / "10-web.toml"
    folder.mkdir()
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(20):
        with pytest.raises(OSError, match=r"directory|regular file|others"):
            trust.read(folder, 1000, user)
    assert len(list(Path("/proc/self/fd").iterdir())) == before
