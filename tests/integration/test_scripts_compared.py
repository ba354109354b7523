"""The same scripts in bpftrace itself, where it is and may run: the same output.

An older release prints some things otherwise: how it says that probes are in, a blank behind the
name of a histogram, and an empty line for each map that is empty.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path

import pytest

from tests.integration.client_support import PATIENCE
from tests.integration.script_support import bpftrace, built

_REAL = shutil.which("bpftrace") or ""


@cache
def _works() -> bool:
    """Whether bpftrace is here, and the kernel lets it."""
    if not _REAL:
        return False
    command = [_REAL, "-e", 'BEGIN { printf("works\\n"); exit(); }']
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    return "works" in done.stdout


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program that scripts are about."""
    if not _works():
        pytest.skip("bpftrace is not here, or may not run")
    return built(tmp_path_factory.mktemp("compared"))


#: Scripts that end by themselves, at the end of BEGIN.
ALONE = (
    'printf("%d|%5d|%-5d|%05d|%x|%X|%u|%lld|%c\\n", -1, 2, 3, 4, 255, 255, -1, 7, 65);',
    'printf("%s|%10s|%-10s|%.2s|\\n", "str", "str", "str", "str");',
    'printf("%hhd %hu %o %08lx %lx %llu\\n", 300, 70000, 8, 255, -1, -1);',
    'print(5); print(-5); print("text"); print((1, "x")); print((int8)200); print((uint8)200);',
    "@a = 1; @b = -5; @c = (uint64)-1; @d = (int8)-1; @e = \"text\";",
    "@a[1] = -7; @a[2] = 7; @a[3] = -1; @b[\"x\", 2] = 3; @b[\"y\", 1] = 1; print(@a, 2);",
    "@c = count(); @c = count(); @s = sum(5); @s = sum(-7); @m = min(3); @m = min(2);",
    '@s["a"] = stats(10); @s["b"] = stats(4); @s["b"] = stats(5); print(@s);',
    '@v["a"] = avg(10); @v["b"] = avg(4); @v["b"] = avg(-1); print(@v, 0, 3);',
    "@h = hist(5); @h = hist(500); @h = hist(0); @h = hist(-4); @h = hist(5); print(@h);",
    '@h["x"] = hist(5); @h["x"] = hist(5); @h["y"] = hist(100000); print(@h, 1, 2);',
    "@l = lhist(5, 0, 100, 10); @l = lhist(-1, 0, 100, 10); @l = lhist(200, 0, 100, 10);",
    "@l = lhist(2000, 0, 10240, 1024); @m = lhist(20000, 0, 102400, 1000);",
    "$x = 3; while ($x > 0) { printf(\"%d \", $x); $x--; } unroll(3) { print($x); }",
    "@a[1] = 1; @a[2] = 2; delete(@a[1]); zero(@a); print(@a); @x = 10; @x++; @x -= 3;",
    '$a = 10; if ($a > 2) { print("more"); } else { print("less"); } print($a == 10 ? 1 : 0);',
    'printf("%s\\n", strerror(7)); time("%Y\\n"); printf("%s\\n", comm);',
)  # fmt: skip
#: Scripts about the program's run.
OF_A_RUN = (
    "uprobe:WORK:inner { @ = count(); } uretprobe:WORK:outer { @r = hist(retval); }",
    "uprobe:WORK:inner { @[arg0] = sum(arg0 * 3); @m = max(arg0); print(arg0); }",
    "uprobe:WORK:inner /arg0 > 0/ { @x++; @y[arg0] = arg0 * 2; } END { print(@x); }",
    "BEGIN { @t = 10; } uprobe:WORK:outer { @t++; } END { printf(\"%d\\n\", @t); }",
    "uretprobe:WORK:outer { @ = lhist(retval, 0, 100, 10); @s = stats(retval); @a = avg(retval); }",
)  # fmt: skip


def real(*arguments: str | Path) -> str:
    """What bpftrace itself prints, without what an older release has otherwise."""
    command = [_REAL, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    text = re.sub(r"\AAttaching (\d+ probes?)\.\.\.\n", r"Attached \1\n", done.stdout)
    return re.sub(r"^(@.*): $", r"\1:", text, flags=re.MULTILINE)


def ours(*arguments: str | Path) -> str:
    """What ``dprobe bpftrace`` prints."""
    done = bpftrace(*arguments)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.mark.parametrize("script", ALONE)
def test_text_is_the_same(work: Path, script: str) -> None:
    whole = f"BEGIN {{ {script} exit(); }}"
    assert ours("-e", whole) == real("-e", whole)


@pytest.mark.parametrize("script", ALONE)
def test_json_is_the_same(work: Path, script: str) -> None:
    whole = f"BEGIN {{ {script} exit(); }}"
    mine, its = ours("-f", "json", "-e", whole), real("-f", "json", "-e", whole)
    # The order of entries is the kernel's there; everything else is compared to the byte.
    loaded = [[json.loads(line) for line in text.split("\n") if line] for text in (mine, its)]
    assert loaded[0] == loaded[1]
    assert len(mine) == len(its)


@pytest.mark.parametrize("script", OF_A_RUN)
def test_a_run_is_the_same(work: Path, script: str) -> None:
    whole = script.replace("WORK", str(work))
    assert ours("-e", whole, "-c", work) == real("-e", whole, "-c", work)
