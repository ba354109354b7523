"""Bad values and full disks: one line that names what is at fault, and status 2."""

from __future__ import annotations

from pathlib import Path

import pytest
from dprobe.main import main

_PROGRAM = "name = libc.so.6\noffset = open\n    exit\n"


@pytest.mark.parametrize("option", ["--for", "--duration"])
@pytest.mark.parametrize("seconds", ["nan", "inf", "1e300", "-1", "0", "x"])
def test_a_duration_that_is_no_time_is_refused(
    option: str, seconds: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    program = tmp_path / "p.rpn"
    program.write_text(_PROGRAM)
    assert main(["attach", option, seconds, "1", str(program)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "--for" in line


def test_an_interval_that_is_no_number_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["top", "--interval", "nan"]) == 2
    assert "nan is no duration" in capsys.readouterr().err


def test_compile_names_the_file_that_it_cannot_write(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    program = tmp_path / "p.rpn"
    program.write_text(_PROGRAM)
    assert main(["compile", str(program), "-o", "/dev/full"]) == 1
    assert capsys.readouterr().err == "dprobe: /dev/full: no space left on device\n"
