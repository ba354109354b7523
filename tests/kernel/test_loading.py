"""Loading the module by modprobe: how it ends is one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from dprobed.kernel import loading


@pytest.mark.parametrize(
    ("script", "wanted"),
    [
        ('test "$*" = dprobes', ""),
        (
            "echo first >&2; printf 'FATAL: not \\033[31mfound\\n' >&2; exit 1",
            "FATAL: not \\x1b[31mfound",
        ),
        ("exit 3", "ended with 3"),
    ],
)
def test_how_it_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, wanted: str
) -> None:
    command = tmp_path / "modprobe"
    command.write_text(f"#!/bin/sh\n{script}\n")
    command.chmod(0o755)
    monkeypatch.setattr(loading, "_WHERE", str(tmp_path))
    told = loading.load_module()
    assert told.endswith(wanted)
    assert bool(told) == bool(wanted)
    assert "\n" not in told


def test_without_modprobe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "_WHERE", str(tmp_path))
    assert "there is no modprobe" in loading.load_module()
