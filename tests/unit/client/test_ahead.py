"""Which command lines have a private daemon forked before they are read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from dprobe import ahead


@pytest.fixture(autouse=True)
def where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where a daemon would listen; none does."""
    path = tmp_path / "control.sock"
    monkeypatch.setattr(ahead, "default_socket", lambda _: path)
    yield path


@pytest.mark.parametrize(
    ("line", "command"),
    [
        ("run a.rpn -- true", "run"),
        ("-q run -D N=1 a.rpn -- true --help -h", "run"),
        ("--verbose -q attach -p 1 a.rpn", "attach"),
        ("dump -p 1", "dump"),
        ("dump 1", "dump"),
        ("bpftrace -e BEGIN{}", "bpftrace"),
    ],
)
def test_one_is_needed(line: str, command: str) -> None:
    assert ahead.needs_daemon(line.split(), {}) == command


@pytest.mark.parametrize(
    "line",
    [
        "",
        "--help",
        "--version",
        "run",
        "run --",
        "run a.rpn true",
        "run a.rpn --",
        "run --help -- true",
        "bpftrace --version",
        "bpftrace -lv uprobe:libc:*",
        "attach -h",
        "dump",
        "query",
        "dumps run",
        "help run",
        "--socket run attach",
        "--socket /run/other run a.rpn -- true",
        "-x run a.rpn -- true",
        "-- run a.rpn -- true",
    ],
)
def test_none_is_needed_or_it_is_not_plain(line: str) -> None:
    assert ahead.needs_daemon(line.split(), {}) == ""


def test_a_daemon_that_may_run_is_asked_first(where: Path) -> None:
    where.touch()
    assert ahead.needs_daemon(["run", "a.rpn", "--", "true"], {}) == ""
    assert ahead.needs_daemon(["run", "a.rpn", "--", "true", "--private"], {}) == ""
    assert ahead.needs_daemon(["run", "--private", "a.rpn", "--", "true"], {}) == "run"


@pytest.mark.parametrize("name", ["DPROBE_SOCKET", "_DPROBE_COMPLETE"])
def test_the_environment_names_another_or_completes_a_line(name: str) -> None:
    assert ahead.needs_daemon(["run", "a.rpn", "--", "true"], {name: "x"}) == ""
