"""Dprobed in the virtual machine: the Python that the tests run with, and what it needs.

Every file lies where it does here, so that what was compiled stays valid.
"""

from __future__ import annotations

import importlib
import pkgutil
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parent.parent.parent
PYTHON: Final = Path(sys.executable).resolve()
_STDLIB: Final = Path(sysconfig.get_path("stdlib"))
_PACKAGES: Final = Path(sysconfig.get_path("purelib"))
#: Parts of the standard library that nobody needs there.
_LEFT_OUT: Final = {
    *("test", "tests", "idlelib", "tkinter", "ensurepip", "lib2to3", "turtledemo", "sqlite3"),
    *("site-packages", "pydoc_data", "distutils", "unittest", "venv"),
}
#: What the names of such files have in them, wherever they are.
_NOT_NEEDED: Final = (".opt-", "_tkinter", "_sqlite3", "config-")
#: How the two are started there.
ENVIRONMENT: Final = {
    "PYTHONHOME": sys.base_prefix,
    "PYTHONPATH": f"{ROOT}:{ROOT / 'clients'}:{_PACKAGES}",
    "PATH": "/bin",
    "HOME": "/",
    "LANG": "C.UTF-8",
}


def files() -> dict[str, Path]:
    """Name in the machine, without the slash, → file."""
    found = [PYTHON, *_walk(_STDLIB)]
    for package in _used():
        found += _walk(package) if package.is_dir() else [package]
    for ours in (ROOT / "dprobed", ROOT / "clients" / "dprobe"):
        found += _walk(ours)
    binaries = [path for path in found if path == PYTHON or ".so" in path.suffixes]
    found += _libraries(binaries)
    return {str(path).removeprefix("/"): path for path in found}


def modprobe(folder: Path, release: str, module: Path) -> dict[str, Path]:
    """What loads that module by its name; ``folder``: where to make what it looks into."""
    installed = folder / "lib" / "modules" / release / "updates"
    installed.mkdir(parents=True)
    shutil.copy(module, installed)
    subprocess.run(["depmod", "--basedir", folder, release], check=True, capture_output=True)
    command = Path("/sbin/modprobe").resolve()
    found = {path.relative_to(folder): path for path in installed.parent.rglob("*")}
    named = {str(name): path for name, path in found.items() if path.is_file()}
    libraries = {str(path).removeprefix("/"): path for path in _libraries([command])}
    return {**named, **libraries, "sbin/modprobe": command}


def _walk(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if path.name in _LEFT_OUT or any(part in path.name for part in _NOT_NEEDED):
            continue
        if path.is_dir():
            yield from _walk(path)
        elif path.is_file():
            yield path


def _used() -> set[Path]:
    """The packages of others that dprobed imports."""
    for name in ("dprobed", "dprobe"):
        package = importlib.import_module(name)
        for module in pkgutil.walk_packages(package.__path__, f"{name}."):
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)
    used = set()
    for loaded in list(sys.modules.values()):
        file = getattr(loaded, "__file__", None)
        if file is not None and Path(file).is_relative_to(_PACKAGES):
            used.add(_PACKAGES / Path(file).relative_to(_PACKAGES).parts[0])
    # Nor what compiles programs for processes, which is most of all that there is.
    tests = {"pytest", "_pytest", "hypothesis", "pluggy", "iniconfig", "llvmlite"}
    return {path for path in used if path.name not in tests}


def _libraries(binaries: list[Path]) -> set[Path]:
    """The shared libraries that these load."""
    done = subprocess.run(["ldd", *map(str, binaries)], capture_output=True, text=True, check=False)
    words = (word for line in done.stdout.splitlines() for word in line.split())
    return {Path(word) for word in words if word.startswith("/") and not word.endswith(":")}
