"""What the configuration says of values that are shown."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from dprobe.lib.errors import UserError
from dprobe.lib.snapshot.limits import REDACTED, strictest


def test_the_smaller_limit_holds_and_all_patterns(tmp_path: Path) -> None:
    files = [(tmp_path / name, os.geteuid()) for name in ("root.toml", "own.toml", "none.toml")]
    assert strictest(files).redact == REDACTED
    for (path, _), text in zip(
        files,
        (
            'depth = 2\nwidth = 9\nredact = ["*card*"]',
            'depth = 5\nframes = 3\nredact = ["mine", "*card*"]',
        ),
        strict=False,
    ):
        path.write_text(f"[snapshots]\n{text}\n")
    found = strictest(files)
    assert (found.depth, found.width, found.frames) == (2, 9, 3)
    assert found.redact == (*REDACTED, "*card*", "mine")
    files[0][0].write_text("[snapshots]\ndepth = none\n")
    with pytest.raises(UserError, match=r"root\.toml:2:"):
        strictest(files)
