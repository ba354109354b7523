"""`make hunt`: each step finds what it is there to find, in the real program."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

HUNT = Path(__file__).parents[2] / "etc" / "examples" / "hunt"
SOURCE = (HUNT / "bank.c").read_text().splitlines()
#: Three desks with 1,000 visitors, the fourth closes at its twentieth.
TAKEN = 3 * sum(range(1, 1001)) + sum(range(1, 20))


def line_of(text: str) -> int:
    """Where a statement of the bank is."""
    (number,) = [number for number, line in enumerate(SOURCE, start=1) if line.strip() == text]
    return number


@pytest.fixture(scope="module")
def steps() -> list[str]:
    """What the script says: before the first step, then in each."""
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, HUNT / "hunt.py"],
            capture_output=True,
            text=True,
            timeout=220,
            check=False,
            env={"PATH": "/usr/bin:/bin", "TMPDIR": folder},
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert not list(Path(folder).iterdir())
    parts = re.split(r"^Step \d\. ", done.stdout, flags=re.MULTILINE)
    assert len(parts) == 5
    return parts


@pytest.fixture(scope="module")
def where(steps: list[str]) -> str:
    """The address of the damaged account."""
    ((found, value),) = re.findall(
        r" teller\[.* damaged .*: (0x\w+) (\w+) \[dump\]$", steps[1], re.M
    )
    assert abs(int(value, 16) - time.time()) < 1000
    return str(found)


def test_without_probes_it_ends_wrong(steps: list[str]) -> None:
    (booked, lost) = re.findall(
        rf"^  taken {TAKEN}, in the books (\d+), lost (\d+)$", steps[0], re.M
    )[0]
    assert int(lost) > 0
    assert int(booked) == TAKEN - int(lost)


def test_a_core_when_the_damage_is_seen(steps: list[str], where: str) -> None:
    assert re.search(rf"^  #0  post \(account={where}, money=\d+\) at bank\.c:\d+$", steps[1], re.M)
    (account,) = re.findall(
        r"^  \$1 = \{mark = (.*), balance = \d+, owner = (.*)\}$", steps[1], re.M
    )
    assert "ACCOUNT" not in account[0]
    assert account[1].startswith('"late client"')


def test_a_watchpoint_tells_who_writes(steps: list[str], where: str) -> None:
    writes = re.findall(rf" (\w+)\[\d+/\d+\] writer 32.1 {where} #(\d): (0x\w+) 0x", steps[2])
    assert [(thread, number) for thread, number, _ in writes] == [("clock", n) for n in "12345"]
    assert len({instruction for _, _, instruction in writes}) == 1
    assert f'Line {line_of("visit->seen = now;")} of "bank.c" starts at' in steps[2]


def test_a_core_at_the_guilty_write_names_the_line(steps: list[str], where: str) -> None:
    line = line_of("visit->seen = now;")
    assert re.search(rf" clock\[.* guilty .*: {where} \d+ \[dump\]$", steps[3], re.M)
    assert re.search(rf"^  #0  see \(.*visit={where}\) at bank\.c:{line}$", steps[3], re.M)
    caller = line_of("see(desks[number].visit, time(NULL));")
    assert re.search(rf"^  #1  look_around .* at bank\.c:{caller}$", steps[3], re.M)
    assert f"bank.c:{line} notes" in steps[3]
    assert "desks[3].visit is stale" in steps[3]
    # The bank that was looked at was not harmed: it was still open when the hunt was over.
    assert "the bank has ended" not in steps[3]


def test_repaired_it_ends_right(steps: list[str]) -> None:
    assert f"  taken {TAKEN}, in the books {TAKEN}, lost 0\n" in steps[4]
    repairs = re.findall(r" repair 34.1 post\+0x0 #\d+: 0x\w+ (\d+)$", steps[4], re.M)
    assert len(repairs) == 2 and int(repairs[1]) == int(repairs[0]) + 1
    visitors = 3 * 1000 + 19
    assert re.search(
        rf"^  repair +34.1 +post\+0x0 +active +{visitors} +{visitors} +0 +0 +trap$", steps[4], re.M
    )
    assert steps[4].endswith(f"The line was bank.c:{line_of('visit->seen = now;')}.\n")
