"""Every visible variable has the value that gdb prints, or the same "optimized out"."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import TARGETS, BuildTarget
from tests.integration.variables_support import check

PLACES = 30
C, CPP = "variables.c", "variables_cpp.cc"

#: Source and options: of the compiler, optimization, and what differs in the debug information.
QUICK = [(C, "-O0", ""), (C, "-O2", ""), (CPP, "-Og", "")]
MORE = [
    (C, "-Og", ""),
    (C, "-O1", ""),
    (C, "-O3", "-gdwarf-4"),
    (C, "-O0", "-gdwarf-2"),
    (C, "-O0", "-gdwarf-3"),
    (C, "-O2", "-gdwarf64"),
    (C, "-O2", "-gz=zlib"),
    (C, "-O2", "-gsplit-dwarf"),
    (C, "-O1", "-fdebug-types-section"),
    (C, "-O2", "-flto"),
    (C, "-Og", "-no-pie -static"),
    (C, "-O2", "-fno-omit-frame-pointer -fno-pie -no-pie"),
    (CPP, "-O0", ""),
    (CPP, "-O2", ""),
    (CPP, "-O1", "-fdebug-types-section"),
    (CPP, "-O1", "-gdwarf-4 -fdebug-types-section -gsplit-dwarf"),
    (CPP, "-O2", "-gsplit-dwarf"),
]


def _built(build_target: BuildTarget, folder: Path, source: str, optimize: str, more: str) -> Path:
    if "split" not in more:
        return build_target(source, optimize, *more.split())
    # Beside its .dwo, which is named by where the object was made.
    made = folder / "split"
    compiler = "g++" if source.endswith(".cc") else "gcc"
    subprocess.run(
        [compiler, "-g", optimize, *more.split(), "-c", TARGETS / source, "-o", f"{made}.o"],
        check=True, cwd=folder,
    )  # fmt: skip
    subprocess.run([compiler, f"{made}.o", "-o", made], check=True, cwd=folder)
    assert list(folder.glob("*.dwo"))
    return made


@pytest.mark.parametrize(("source", "optimize", "more"), QUICK)
def test_variables(
    build_target: BuildTarget, tmp_path: Path, source: str, optimize: str, more: str
) -> None:
    check(_built(build_target, tmp_path, source, optimize, more), tmp_path / "stops", PLACES)


@pytest.mark.slow
@pytest.mark.parametrize(("source", "optimize", "more"), MORE)
def test_variables_of_more_formats(
    build_target: BuildTarget, tmp_path: Path, source: str, optimize: str, more: str
) -> None:
    check(_built(build_target, tmp_path, source, optimize, more), tmp_path / "stops", PLACES)


@pytest.mark.slow
@pytest.mark.parametrize("optimize", ["-Copt-level=0", "-Copt-level=2"])
def test_variables_of_rust(tmp_path: Path, optimize: str) -> None:
    compiler = shutil.which("rustc")
    if compiler is None:
        pytest.skip("needs rustc")
    made = tmp_path / "rust"
    environment = dict(os.environ, TMPDIR=str(tmp_path))
    source = TARGETS / "variables_rust.rs"
    subprocess.run([compiler, "-g", optimize, "-o", made, source], check=True, env=environment)
    check(made, tmp_path / "stops", PLACES, source.name)
