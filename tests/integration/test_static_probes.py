"""Static probes (USDT): placed by name at each of their places, with arguments and semaphores."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import cast

import pytest

from dprobed import change_journal
from dprobed.program.isa import WORD_MASK
from dprobed.record.log import decode_log
from dprobed.wire.protocol import State
from tests.conftest import BuildTarget
from tests.integration.client_support import dprobe, parsed, program
from tests.integration.conftest import EACH_ENGINE, Start, Trace
from tests.integration.harness import Target, TracerProcess, counting
from tests.unit.location_files import open_path


@pytest.fixture
def forms(build_target: BuildTarget) -> Path:
    return build_target("static_probes.c")


def semaphores(target: Target, who: str = "semaphores") -> list[tuple[int, int]]:
    """What the target said that its semaphores were, each time."""
    words = [line.split() for line in target.said]
    return [(int(each[1]), int(each[2])) for each in words if each[0] == who]


def passes(target: Target) -> tuple[int, int]:
    """Let it pass its static probes; what its semaphores were then."""
    target.go()
    target.expect("passed")
    return semaphores(target)[-1]


def noted(tracer: TracerProcess) -> int:
    """How many semaphores its change journal names."""
    kinds = [change.kind for _, change in change_journal.read(tracer.changes)]
    return kinds.count(change_journal.Kind.SEMAPHORE)


@EACH_ENGINE
def test_each_place_of_a_name_is_probed(forms: Path, start: Start, trace: Trace) -> None:
    target = start(forms)
    tracer = trace(target)
    number = tracer.put(counting(forms, "usdt:forms:many", "usdt:forms:twice"))
    assert [len(each.addresses) for each in tracer.query(number)] == [1, 2]
    passes(target)
    assert tracer.hits(number) == [1, 2]
    tracer.detach()
    assert passes(target) == (0, 0)
    passes(target)
    target.finish()


#: What `many` is given, as words; its text apart.
WORDS = [
    -3, 65535, -5, 4000000000, -(1 << 40), 0, -2, 251,
    0x4004000000000000, 0x3FC00000, -7, 17,
]  # fmt: skip


@EACH_ENGINE
@pytest.mark.parametrize("level", ["-O0", "-O1", "-O2", "-O3"])
def test_arguments_in_all_forms(
    build_target: BuildTarget, start: Start, trace: Trace, level: str
) -> None:
    """In registers, parts of them, memory by one and two registers, by an address, constants."""
    forms = build_target("static_probes.c", level)
    target = start(forms)
    tracer = trace(target)
    asked = "".join(f" push a,{number}\n" for number in reversed(range(len(WORDS))))
    tracer.put(counting(forms, "usdt:forms:many", body=f"{asked} log {len(WORDS)}\n exit"))
    tracer.put(counting(forms, "usdt:forms:many", body=" push 4\n push a,5\n log mrf\n exit"))
    tracer.put(counting(forms, "usdt:forms:twice", body=" push a,0\n log 1\n exit"))
    passes(target)
    tracer.detach()
    # Those of one place came in their order; what several programs made need not have.
    records = sorted(tracer.records, key=lambda record: (record.program, record.hit))
    logs = [decode_log(record.log, record.raw) for record in records]
    words = [cast(list[int], item["words"]) for items in logs for item in items if "words" in item]
    found, first, second = words
    found[5] = 0  # where the text is
    assert found == [each & WORD_MASK for each in WORDS]
    assert (first, second) == ([-5 & WORD_MASK], [-(1 << 40) & WORD_MASK])
    (text,) = [item["memory"] for items in logs for item in items if "memory" in item]
    assert bytes.fromhex(str(text)) == b"text"
    for _ in range(2):
        passes(target)
    target.finish()


def test_an_argument_that_is_not_there_is_refused(forms: Path, start: Start, trace: Trace) -> None:
    """Also where a subroutine asks for it."""
    target = start(forms)
    tracer = trace(target)
    direct = " push a,1\n log 1\n exit"
    called = " call there\n log 1\n exit\nthere: push a,1\n ret"
    for body in (direct, called):
        _, (status,) = tracer.insert(counting(forms, "usdt:forms:last", body=body))
        assert status.state is State.INVALID_OFFSET
        assert status.reason == (
            "push a,1: usdt:forms:last has no such argument; it has a,0 to a,0"
        )
    tracer.detach()
    for _ in range(3):
        assert passes(target) == (0, 0)
    target.finish()


@EACH_ENGINE
def test_a_semaphore_is_up_while_a_probe_is_there(forms: Path, start: Start, trace: Trace) -> None:
    """And once only, however many probes of ours need it."""
    target = start(forms)
    tracer = trace(target)
    number = tracer.put(counting(forms, "usdt:forms:last"))
    other = tracer.put(counting(forms, "usdt:forms:last"))
    assert passes(target) == (0, 1)
    assert tracer.hits(number) == [1]
    tracer.remove(number)
    assert passes(target) == (0, 1)
    assert tracer.hits(other) == [2]
    assert noted(tracer) == 1
    tracer.remove(other)
    assert noted(tracer) == 0
    assert passes(target) == (0, 0)
    tracer.detach()
    target.finish()


@EACH_ENGINE
@pytest.mark.parametrize("follow", [False, True], ids=["detached", "followed"])
def test_a_fork_child_has_them_up_as_long_as_it_is_followed(
    forms: Path, start: Start, trace: Trace, follow: bool
) -> None:
    target = start(forms, "forks")
    tracer = trace(target, follow_forks=follow)
    tracer.put(counting(forms, "usdt:forms:last"))
    passes(target)
    assert passes(target) == (0, 1)
    assert semaphores(target, "child") == [(0, int(follow))]
    if follow:
        (forked,) = tracer.forked
        assert [each.hits for each in tracer.ends_of(forked.pid).probes] == [1]
    tracer.detach()
    assert passes(target) == (0, 0)
    target.finish()


def test_a_killed_tracer_leaves_none_up(forms: Path, start: Start, trace: Trace) -> None:
    """Once another has recovered what it left."""
    target = start(forms)
    tracer = trace(target)
    tracer.put(counting(forms, "usdt:forms:many", "usdt:forms:last"))
    assert passes(target) == (1, 1)
    target.tracer = None
    tracer.kill()
    other = TracerProcess(changes=tracer.changes)
    try:
        assert other.recover() == []
    finally:
        other.end()
    assert passes(target) == (0, 0)
    passes(target)
    target.finish()


def test_what_another_has_counted_up_stays(forms: Path, start: Start, trace: Trace) -> None:
    """As gdb and the kernel do it: one for each who is told."""
    target = start(forms)
    tracer = trace(target)
    tracer.put(counting(forms, "usdt:forms:last"))
    (symbol,) = open_path(str(forms)).symbols.find("forms_last_semaphore")
    mapped = Path(f"/proc/{target.pid}/maps").read_text().splitlines()
    first = int(next(line for line in mapped if str(forms) in line).partition("-")[0], 16)
    with Path(f"/proc/{target.pid}/mem").open("r+b", buffering=0) as memory:
        os.pwrite(memory.fileno(), (2).to_bytes(2, "little"), first + symbol.value)
    assert passes(target) == (0, 2)
    tracer.detach()
    assert passes(target) == (0, 1)
    passes(target)
    target.finish()


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        ("usdt:forms:lost", "no static probe forms:lost; candidates: usdt:forms:last"),
        ("usdt:shapes:many", "no static probe shapes:many"),
    ],
)
def test_a_name_that_is_not_there(
    forms: Path, start: Start, trace: Trace, place: str, reason: str
) -> None:
    target = start(forms)
    tracer = trace(target)
    _, (status,) = tracer.insert(counting(forms, place))
    assert status.state is State.INVALID_OFFSET
    assert reason in status.reason
    tracer.detach()
    for _ in range(3):
        passes(target)
    target.finish()


def test_pythons_own(tmp_path: Path) -> None:
    """Which modules are looked for, and whether they are found."""
    source = (
        "name = python3\noffset = usdt:python:import__find__load__done\n"
        " push 64\n push a,0\n log str\n push a,1\n log i32 found\n exit\n"
    )
    code = "import colorsys\ntry:\n  import no_such_module\nexcept ImportError:\n  pass\n"
    options = ("--format", "json", "-o", "-")
    done = dprobe("run", *options, program(tmp_path, source), "--", "/usr/bin/python3", "-c", code)
    assert done.returncode == 0, done.stderr
    logs = [record["log"] for record in parsed(done.stdout)[:-1]]
    found = {name["string"]: value["value"] for name, value in logs}
    assert (found["colorsys"], found["no_such_module"]) == (1, 0)


def test_libstdcxxs_own(tmp_path: Path) -> None:
    """Each exception that is thrown and caught, by its object."""
    code = tmp_path / "throws.cc"
    code.write_text(
        "int main() { int sum = 0;\n"
        " for (int n = 0; n < 5; n++) try { throw n; } catch (int caught) { sum += caught; }\n"
        " return sum - 10; }\n"
    )
    binary = tmp_path / "throws"
    subprocess.run(["g++", code, "-o", binary], check=True, timeout=60)
    source = "name = libstdc++.so.6\nvars = thrown, caught\n" + "".join(
        f"offset = usdt:libstdcxx:{place}\n push a,0\n log ptr object\n inc lv,{count}\n exit\n"
        for place, count in (("throw", "thrown"), ("catch", "caught"))
    )
    options = ("--format", "json", "-o", "-")
    done = dprobe("run", *options, program(tmp_path, source), "--", binary)
    assert done.returncode == 0, done.stderr
    *records, summary = parsed(done.stdout)
    objects = [record["log"][0]["value"] for record in records]
    assert len(objects) == 10
    assert objects[::2] == objects[1::2]
    assert [(each["name"], each["value"]) for each in summary["variables"]] == [
        ("thrown", 5),
        ("caught", 5),
    ]
