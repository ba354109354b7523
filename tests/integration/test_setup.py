"""`make` on a machine that never saw the project."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_make_help_lists_the_goals() -> None:
    for goal in ([], ["help"]):
        done = subprocess.run(
            ["make", "--no-print-directory", *goal],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        )
        goals = [line.split()[1] for line in done.stdout.splitlines()]
        tests = ["test", "test-quick", "test-bare", "check"]
        longer = ["bench", "faults", "stacks", "drawn", "fuzz", "soak"]
        assert goals == ["demo", "hunt", *tests, *longer, "install", "deb", "clean"]


def test_who_is_not_root_is_told_what_to_install(tmp_path: Path) -> None:
    tree, commands = tmp_path / "tree", tmp_path / "bin"
    (tree / "etc").mkdir(parents=True)
    commands.mkdir()
    shutil.copy(ROOT / "etc" / "setup.sh", tree / "etc")
    shutil.copy(ROOT / "pyproject.toml", tree)
    for name in ("cat", "cksum", "dirname", "head", "sh", "test"):
        found = shutil.which(name)
        assert found is not None
        (commands / name).symlink_to(found)
    # A machine without compiler and debugger, on which we are an ordinary user.
    (commands / "id").write_text("#!/bin/sh\necho 1000\n")
    (commands / "id").chmod(0o755)
    done = subprocess.run(
        [tree / "etc" / "setup.sh", "test"],
        env={**os.environ, "PATH": str(commands)},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 1
    needed, advice = done.stderr.splitlines()
    assert needed.startswith("make test needs these packages: ")
    assert {"gcc", "g++", "gdb", "libc6-dbg", "strace"} <= set(needed.split())
    assert "apt-get install" in advice
    assert not (tree / ".venv").exists()
