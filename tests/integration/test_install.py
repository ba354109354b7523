"""`make install`: commands, manual pages and completion in their places, for every user."""

from __future__ import annotations

import os
import pwd
import stat
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_make_install_puts_all_of_it_below_destdir(everybodys: Path) -> None:
    done = subprocess.run(
        ["make", "install", f"DESTDIR={everybodys}", "PREFIX=/opt/dprobed"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    if "No matching distribution" in done.stderr or "ConnectionError" in done.stderr:
        pytest.skip("no package index is in reach")
    assert done.returncode == 0, done.stderr
    prefix = everybodys / "opt/dprobed"
    for name in (
        *("share/man/man1/dprobe.1", "share/man/man8/dprobed.8", "share/man/man1/dprobe-run.1"),
        *("share/man/man5/dprobed.toml.5", "share/man/man7/dprobe-rpn.7"),
        *("share/doc/dprobed/prometheus/dprobed.rules.yml",),
        *("share/doc/dprobed/editor/bt.tmLanguage.json",),
        *("share/bash-completion/completions/dprobe", "share/zsh/site-functions/_dprobe"),
        *("share/fish/vendor_completions.d/dprobe.fish", "share/doc/dprobed/examples/opens.rpn"),
    ):
        assert (prefix / name).stat().st_size, name
    for name in ("dprobe", "dprobed"):
        script = prefix / "bin" / name
        assert str(script.readlink()) == f"../lib/dprobed/bin/{name}"
        # It says where it will be, and not where it was made.
        assert script.read_text().splitlines()[0] == "#!/opt/dprobed/lib/dprobed/bin/python -I"
    for path in prefix.rglob("*"):
        wanted = 0o555 if path.is_dir() or path.parent.name == "bin" else 0o444
        assert path.is_symlink() or stat.S_IMODE(path.stat().st_mode) & wanted == wanted, path
    python = prefix / "lib/dprobed/bin/python"
    command = [str(python), str(prefix / "bin/dprobe"), "--version"]
    if os.geteuid() == 0:
        nobody = pwd.getpwnam("nobody").pw_uid
        command = ["setpriv", f"--reuid={nobody}", "--clear-groups", *command]
    said = subprocess.run(command, capture_output=True, text=True, cwd="/", check=True)
    assert said.stdout.startswith("dprobe ")


@pytest.mark.parametrize("prefix", ["here", ""])
def test_a_prefix_that_is_no_place_is_refused(prefix: str) -> None:
    done = subprocess.run(
        [ROOT / "etc/install.sh", prefix], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert not (ROOT / "here").exists()
