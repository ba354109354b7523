"""Files that are written from the instruction table."""

from __future__ import annotations

from pathlib import Path

import pytest

from dprobed.program.generated import write_or_check


def test_written_and_checked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "folder" / "page.md"
    late = f"{path} is out of date: run `python -m a.b`\n"
    assert write_or_check("a.b", path, "text\n", ["--check"]) == 1
    assert capsys.readouterr().err == late
    assert write_or_check("a.b", path, "text\n", []) == 0
    assert path.read_text() == "text\n"
    assert write_or_check("a.b", path, "text\n", ["--check"]) == 0
    assert write_or_check("a.b", path, "other\n", ["--check"]) == 1
    assert capsys.readouterr().err == late
    assert path.read_text() == "text\n"


def test_other_words_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert write_or_check("a.b", tmp_path / "x", "text\n", ["--chekc"]) == 2
    assert capsys.readouterr().err == "usage: python -m a.b [--check]\n"
    assert not (tmp_path / "x").exists()
