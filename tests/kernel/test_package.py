"""The package dprobes-dkms: what is in it, and that dkms builds the module from it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.kernel.machine import BRIDGE

ROOT = BRIDGE.parent


def _done(*command: object) -> str:
    done = subprocess.run(
        [*map(str, command)],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where it would lie below the root."""
    folder = tmp_path_factory.mktemp("dkms")
    package = ROOT / _done(ROOT / "etc" / "deb_dkms.sh").splitlines()[-1]
    _done("dpkg-deb", "--raw-extract", package, folder)
    return folder


def _version(unpacked: Path) -> str:
    control = (unpacked / "DEBIAN" / "control").read_text()
    return next(line.split()[1] for line in control.splitlines() if line.startswith("Version:"))


def test_what_is_in_it(unpacked: Path) -> None:
    source = unpacked / "usr" / "src" / f"dprobes-{_version(unpacked)}"
    packed = {str(path.relative_to(source)) for path in source.rglob("*") if path.is_file()}
    made_of = {str(path.relative_to(BRIDGE)) for path in BRIDGE.glob("**/*.[ch]")}
    built = {name for name in made_of if name.endswith(".mod.c")}
    programs = {"ledger.rpn", "pool_guilty.rpn", "pool_repair.rpn"}
    samples = {"samples/Kbuild", *(f"samples/{name}" for name in programs)}
    assert packed == made_of - built | samples | {"Kbuild", "Makefile", "dkms.conf"}
    settings = unpacked / "usr/lib/systemd/system/dprobed.service.d/kernel.conf"
    assert "CAP_SYS_MODULE" in settings.read_text()
    for path in (*unpacked.glob("DEBIAN/*"), source / "dkms.conf"):
        assert "@VERSION@" not in path.read_text(), path


def test_dkms_builds_the_module(unpacked: Path, release: str, tmp_path: Path) -> None:
    installed = tmp_path / "installed"
    for folder in (tmp_path / "tree", installed / release):
        folder.mkdir(parents=True)
    folders = (
        *("--sourcetree", unpacked / "usr" / "src"),
        *("--dkmstree", tmp_path / "tree", "--installtree", installed),
    )
    which = ("-m", "dprobes", "-v", _version(unpacked), "-k", release)
    _done("dkms", "add", *which[:4], *folders)
    _done("dkms", "build", *which, *folders)
    _done("dkms", "install", "--no-depmod", *which, *folders)
    (module,) = installed.glob(f"{release}/updates/dkms/dprobes.ko*")
    assert _done("modinfo", "-F", "name", module).strip() == "dprobes"
    assert _done("modinfo", "-F", "vermagic", module).split()[0] == release
