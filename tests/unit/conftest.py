"""What all unit tests share."""

from __future__ import annotations

from itertools import count
from pathlib import Path

import pytest

from dprobed.resolver import cache

_numbers = count()


@pytest.fixture(scope="session")
def cache_folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("caches")


@pytest.fixture(autouse=True)
def cache_folder(monkeypatch: pytest.MonkeyPatch, cache_folders: Path) -> Path:
    """Symbols are cached in a folder of the test's own, which few tests come to need."""
    folder = cache_folders / str(next(_numbers))
    monkeypatch.setattr(cache, "folder", lambda: folder)
    return folder
