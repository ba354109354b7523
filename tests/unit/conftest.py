"""What all unit tests share."""

from __future__ import annotations

from pathlib import Path

import pytest

from dprobed.resolver import cache


@pytest.fixture(autouse=True)
def cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Symbols are cached in a folder of the test's own."""
    folder = tmp_path / "cache"
    monkeypatch.setattr(cache, "folder", lambda: folder)
    return folder
