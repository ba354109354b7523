"""Every example program, on a real program of Debian's: what it logs is what the program did."""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import BuildTarget

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "etc" / "examples"
DPROBE = Path(sys.executable).with_name("dprobe")
GPL = Path("/usr/share/common-licenses/GPL-2")

Record = dict[str, Any]


@dataclass
class Run:
    """What a run of `dprobe run` with one example came to."""

    records: list[Record]
    probes: list[Record]
    stdout: bytes
    stderr: bytes

    @property
    def words(self) -> list[list[int]]:
        """The words of each record."""
        return [words(record) for record in self.records]

    @property
    def strings(self) -> list[str]:
        """All strings logged."""
        return [
            item["string"] for record in self.records for item in record["log"] if "string" in item
        ]


def words(record: Record) -> list[int]:
    return [word for item in record["log"] for word in item.get("words", [])]


def run(
    example: str, *command: str | Path, options: Sequence[str] = (), tmp: Path, stdin: bytes = b""
) -> Run:
    """Run a command under one example; it must end with status 0."""
    report = tmp / "report"
    program = EXAMPLES / f"{example}.rpn"
    done = subprocess.run(
        [DPROBE, "run", "--format", "json", "-o", report, *options, program, "--", *command],
        input=stdin,
        capture_output=True,
        cwd=tmp,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    lines = [json.loads(line) for line in report.read_text().splitlines()]
    assert lines[-1]["type"] == "summary"
    records = [line for line in lines if line["type"] == "record"]
    return Run(records, lines[-1]["probes"], done.stdout, done.stderr)


def test_opens_logs_each_path(tmp_path: Path) -> None:
    got = run("opens", "cat", "/etc/hostname", "/etc/passwd", tmp=tmp_path)
    assert [path for path in got.strings if path.startswith("/etc/")][-2:] == [
        "/etc/hostname",
        "/etc/passwd",
    ]
    assert all(record["comm"] == "cat" for record in got.records)
    assert got.stdout == Path("/etc/hostname").read_bytes() + Path("/etc/passwd").read_bytes()


def test_big_malloc_logs_what_is_at_least_min(tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_bytes(GPL.read_bytes() * 5)
    got = run("big_malloc", "sort", "-S", "2M", text, options=["-D", "MIN=100000"], tmp=tmp_path)
    sizes = [size for size, _ in got.words]
    assert sizes and all(size >= 100_000 for size in sizes)
    (probe,) = got.probes
    assert probe["ran"] == probe["hits"] > len(sizes)
    assert got.stdout.splitlines() == sorted(text.read_bytes().splitlines())


def _maps(stderr_json: Path) -> dict[str, Record]:
    """The maps of the summary, by name."""
    summary = json.loads(stderr_json.read_text().splitlines()[-1])
    return {each["map"]: each for each in summary["maps"]}


def test_malloc_sizes_makes_a_histogram(tmp_path: Path) -> None:
    script = (
        "import ctypes; c = ctypes.CDLL(None); c.malloc.restype = ctypes.c_void_p;"
        "[c.malloc(size) for size in [1 << 29] * 2 + [3 << 28] * 5 + [1 << 30]]"
    )
    got = run("malloc_sizes", "/usr/bin/python3", "-c", script, tmp=tmp_path)
    assert not got.records
    maps = _maps(tmp_path / "report")
    (entry,) = maps["sizes"]["entries"]
    counts = {bucket["from"]: bucket["count"] for bucket in entry["buckets"]}
    assert (counts[1 << 29], counts[1 << 30]) == (7, 1)
    (by_name,) = maps["by_name"]["entries"]
    assert by_name["key"] == ["python3"]
    assert by_name["max"] == 1 << 30
    (probe,) = got.probes
    assert probe["hits"] == entry["count"] == by_name["count"]


def test_calls_by_name_counts_each_program(tmp_path: Path) -> None:
    script = "echo a; echo b; cat x"
    (tmp_path / "x").write_text("hello")
    got = run("calls_by_name", "sh", "-c", script, options=["-f"], tmp=tmp_path)
    entries = _maps(tmp_path / "report")["calls"]["entries"]
    assert {entry["key"][0]: entry["value"] for entry in entries} == {"sh": 2, "cat": 1}
    assert got.stdout == b"a\nb\nhello"


def test_largest_write_logs_only_new_maxima(tmp_path: Path) -> None:
    script = "for n in 3 1 4 1 5 9 2 6; do printf '%*s' $n; done"
    got = run("largest_write", "bash", "-c", script, tmp=tmp_path)
    assert got.words == [[3, 1, 1], [4, 1, 3], [5, 1, 5], [9, 1, 6]]
    assert got.stdout == b" " * 31


def test_fake_uid_alters_what_the_function_returns(tmp_path: Path) -> None:
    got = run("fake_uid", "id", "-u", options=["-D", "UID=4711"], tmp=tmp_path)
    assert got.stdout == b"4711\n"
    assert got.words and all(logged == [4711] for logged in got.words)


def test_callers_shows_by_whom(tmp_path: Path) -> None:
    got = run("callers", "sort", "/etc/passwd", tmp=tmp_path)
    assert got.records
    for record in got.records:
        (item,) = record["log"]
        names = [frame.get("function") for frame in item["ustack"]]
        assert names[0] in ("write", "__write", "__libc_write")
        assert "__libc_start_main" in names
        assert item["ustack"][-1]["module"] == os.path.realpath("/usr/bin/sort")
        assert "ended" not in item
    got = run("callers", "sort", "/etc/passwd", options=["-D", "DEPTH=2"], tmp=tmp_path)
    assert [len(record["log"][0]["ustack"]) for record in got.records] == [2] * len(got.records)


def test_who_writes_names_the_writer(tmp_path: Path) -> None:
    got = run("who_writes", "bash", "-c", "true; false; (exit 3); true", tmp=tmp_path)
    logged = [{item["name"]: item for item in record["log"]} for record in got.records]
    assert [each["write"]["value"] for each in logged] == list(range(1, len(logged) + 1))
    assert len(logged) >= 4
    assert all(each["by"]["kind"] == "ptr" and each["by"]["value"] for each in logged)
    assert all(record["place"].startswith("last_command_exit_value") for record in got.records)


def test_freed_handles_what_it_cannot_read(tmp_path: Path) -> None:
    script = (
        "import ctypes; c = ctypes.CDLL(None); c.free(None); c.malloc.restype = ctypes.c_void_p;"
        "c.free(ctypes.c_void_p(c.malloc(5000)))"
    )
    got = run("freed", "/usr/bin/python3", "-c", script, tmp=tmp_path)
    unreadable = [words(record) for record in got.records if record["minor"] == 2]
    sizes = [words(record)[1] for record in got.records if record["minor"] == 1]
    assert [1, 0xFFFFFFFFFFFFFFF8] in unreadable
    assert 5008 + 8 in [size // 16 * 16 for size in sizes] or 5008 in sizes
    assert all(size % 16 == 0 for size in sizes)


def test_write_sizes_makes_a_histogram(tmp_path: Path) -> None:
    script = "for n in 1 2 3 100 3000; do printf '%*s' $n >&2; done"
    got = run("write_sizes", "bash", "-c", script, tmp=tmp_path)
    (record,) = got.records
    (item,) = record["log"]
    table = item["globals"]
    assert len(table) == 32
    assert {n: count for n, count in enumerate(table) if count} == {0: 1, 1: 2, 6: 1, 11: 1}


def test_read_times_are_those_of_each_read(tmp_path: Path) -> None:
    given = b"x" * 1000
    got = run("read_times", "cat", "-", tmp=tmp_path, stdin=given)
    assert got.stdout == given
    values = [
        {item["name"]: item["value"] for item in record["log"]}
        for record in got.records
        if any(item.get("name") == "fd" and item["value"] == 0 for item in record["log"])
    ]
    # All of standard input, then its end.
    assert sum(value["result"] for value in values) == len(given)
    assert values[-1]["result"] == 0
    assert all(0 < value["ns"] < record_limit for value in values for record_limit in (60e9,))
    (probe,) = got.probes
    assert probe["place"] == "read+0x0:return"
    assert probe["hits"] == len(got.records)


def test_sampled_passes_over_and_then_stops(tmp_path: Path) -> None:
    got = run("sampled", "bash", "-c", "for n in {1..500}; do x=$n$x; done", tmp=tmp_path)
    assert [record["hit"] for record in got.records] == [101, 102, 103, 104, 105]
    (probe,) = got.probes
    assert (probe["state"], probe["ran"]) == ("disabled", 5)


def test_line_of_a_source_file(tmp_path: Path) -> None:
    collatz = tmp_path / "collatz"
    subprocess.run(["gcc", "-g", "-o", collatz, EXAMPLES / "collatz.c"], check=True, timeout=60)
    got = run("line", collatz, "27", tmp=tmp_path)
    assert got.stdout == b"111 steps\n"
    # Of the 111 steps from 27 down to 1, 41 start at an odd number.
    assert got.words == [[n] for n in range(1, 42)]


@pytest.mark.parametrize(("given", "state"), [("0xb8", "active"), ("0x90", "mismatch")])
def test_guarded_looks_at_the_instruction(tmp_path: Path, given: str, state: str) -> None:
    got = run("guarded", "id", "-u", options=["-D", f"BYTES={given}"], tmp=tmp_path)
    assert got.stdout == f"{os.getuid()}\n".encode()
    assert got.probes[0]["state"] == state
    assert bool(got.records) == (state == "active")


@pytest.mark.parametrize(
    ("options", "minors"),
    [
        ((), {1, 2, 3, 4}),
        (("--group", "1"), {1, 2}),
        (("--group", "2"), {3, 4}),
        (("--group", "2", "--type", "1"), {3}),
    ],
)
def test_files_selects_groups_and_types(
    tmp_path: Path, options: tuple[str, ...], minors: set[int]
) -> None:
    got = run("files", "cat", "-", "/etc/hostname", options=options, stdin=b"in\n", tmp=tmp_path)
    assert {record["minor"] for record in got.records} == minors
    assert {probe["minor"] for probe in got.probes} == minors


def test_first_open_removes_itself(tmp_path: Path) -> None:
    got = run("first_open", "cat", "/etc/hostname", "/etc/passwd", tmp=tmp_path)
    (record,) = got.records
    assert got.strings == ["/etc/hostname"]
    assert words(record) == [record["tid"], os.getuid(), os.getgid()]
    assert record["exit"] == "rem"
    assert (got.probes[0]["state"], got.probes[0]["hits"]) == ("removed", 1)


def test_redact_alters_what_is_written(tmp_path: Path) -> None:
    got = run("redact", "bash", "-c", "echo card 4000 1200; echo none", tmp=tmp_path)
    assert got.stdout == b"card 4*** 12**\nnone\n"
    assert got.words == [[5], [5]]


def test_head_bytes_logs_memory(tmp_path: Path) -> None:
    got = run("head_bytes", "gzip", "-c", GPL, tmp=tmp_path)
    first = got.records[0]["log"][0]
    assert first["memory"] == got.stdout[:16].hex()
    assert first["memory"].startswith("1f8b")


def test_common_byte_counts_on_the_heap(tmp_path: Path) -> None:
    got = run("common_byte", "bash", "-c", "printf abacadae; printf zz", tmp=tmp_path)
    assert got.words == [[ord("a"), 4], [ord("z"), 2]]


def test_relative_paths_traces_an_exception_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "here").write_text("x")
    got = run("relative_paths", "cat", "here", "/etc/hostname", tmp=tmp_path)
    assert got.strings == ["here"]
    assert "trace" in json.dumps(got.records[0]["log"]) or "stack" in json.dumps(got.records[0])


def test_every_example_is_tested() -> None:
    """A new example comes with a test that runs it."""
    tests = Path(__file__).read_text()
    for example in EXAMPLES.glob("*.rpn"):
        assert f'run("{example.stem}"' in tests, f"no test runs {example.name}"


def test_every_example_has_a_command_to_try() -> None:
    for example in EXAMPLES.glob("*.rpn"):
        comment = example.read_text().split("\n\n")[0]
        assert re.search(rf"dprobe run .*{example.name}", comment), example.name


def test_full_disk_makes_write_fail_as_a_full_disk_does(tmp_path: Path) -> None:
    code = (
        "import os, sys, threading\n"
        "def fill():\n"
        "    try: os.write(1, b'more')\n"
        "    except OSError as error: os.write(2, os.strerror(error.errno).encode() + b'\\n')\n"
        "thread = threading.Thread(target=fill); thread.start(); thread.join(); fill()\n"
    )
    got = run("full_disk", sys.executable, "-c", code, options=["-D", "FD=1"], tmp=tmp_path)
    assert got.stdout == b""
    assert got.stderr == b"No space left on device\n" * 2
    logged = [[(item["name"], item["value"]) for item in record["log"]] for record in got.records]
    assert logged == [[("fd", 1), ("size", 4)]] * 2
    assert {record["tid"] == record["pid"] for record in got.records} == {True, False}


def test_gc_pauses(tmp_path: Path) -> None:
    """The last collection is the one that was asked for: of a thousand lists in circles."""
    code = (
        "import gc\ngc.disable()\n"
        "for _ in range(1000):\n  each = []\n  each.append(each)\n"
        "del each\nprint(gc.collect())"
    )
    found = run("gc_pauses", "/usr/bin/python3", "-c", code, tmp=tmp_path)
    collected = int(found.stdout)
    assert collected >= 1000
    logged = [[item["value"] for item in record["log"]] for record in found.records]
    # The interpreter collects once more when it ends.
    assert [2, collected] in [each[:2] for each in logged]
    assert all(generation in (0, 1, 2) and 0 < ns < 60e9 for generation, _, ns in logged)


def test_alloc_stacks(tmp_path: Path) -> None:
    """The stacks of a program's own allocations, each with its callers and what they ask for."""
    code = tmp_path / "asks.c"
    code.write_text(
        "#include <stdlib.h>\n"
        "__attribute__((noipa)) static void *small(void) { return malloc(100) ?: (void *)1; }\n"
        "__attribute__((noipa)) static void *large(void) { return malloc(5000) ?: (void *)1; }\n"
        "int main(void)\n"
        "{ for (volatile int n = 0; n < 3; n++) small(); large(); return 0; }\n"
    )
    binary = tmp_path / "asks"
    subprocess.run(["gcc", "-O2", "-o", binary, code], check=True, timeout=60)
    run("alloc_stacks", binary, tmp=tmp_path)
    maps = _maps(tmp_path / "report")
    for name, small, large in (("bytes", 300, 5000), ("calls", 3, 1)):
        found = {
            tuple(frame.get("function") for frame in entry["key"][0]["ustack"][:3]): entry["value"]
            for entry in maps[name]["entries"]
        }
        assert found["malloc", "small", "main"] == small
        assert found["malloc", "large", "main"] == large


@pytest.mark.parametrize(("least", "all_of_them"), [(1, True), (10**12, False)])
def test_slow_calls_logs_who_waited(tmp_path: Path, least: int, all_of_them: bool) -> None:
    options, command = ["-D", f"LEAST={least}"], ("bash", "-c", "read x; echo $x")
    got = run("slow_calls", *command, options=options, tmp=tmp_path, stdin=b"hi\n")
    assert got.stdout == b"hi\n"
    (probe,) = got.probes
    (took,) = _maps(tmp_path / "report")["took"]["entries"]
    assert took["count"] == probe["hits"] >= 1
    assert len(got.records) == (probe["hits"] if all_of_them else 0)
    read = [
        [frame.get("function") for frame in stack["ustack"]]
        for ns, result, stack in (record["log"] for record in got.records)
        if ns["value"] >= least and result["value"] == 1
    ]
    # bash reads byte by byte, the end of the line included.
    assert len([each for each in read if "read_builtin" in each]) == (3 if all_of_them else 0)


def test_errors_are_counted_by_function_and_number(tmp_path: Path) -> None:
    script = (
        "import os, socket\n"
        "def tried(call, *given):\n"
        "    try: call(*given)\n"
        "    except OSError as error: print(call.__name__, error.errno)\n"
        "tried(os.open, '/nowhere/x', os.O_RDONLY)\n"
        "tried(os.open, '/', os.O_WRONLY)\n"
        "tried(os.open, '/', os.O_RDONLY)\n"
        "for _ in range(3): tried(os.read, 999, 1)\n"
        "tried(os.write, os.open('/dev/full', os.O_WRONLY), b'x')\n"
        "tried(socket.socket(socket.AF_UNIX).connect, '/nowhere/x')\n"
        "tried(os.unlink, '/nowhere/x')\n"
        "tried(os.kill, 1 << 30, 0)\n"
    )
    got = run("errors", "/usr/bin/python3", "-I", "-S", "-c", script, tmp=tmp_path)
    maps = _maps(tmp_path / "report")
    found = {
        name: {entry["key"][0]: entry["value"] for entry in each["entries"]}
        for name, each in maps.items()
    }
    assert found["open"][errno.EISDIR] == 1
    assert found["open"][errno.ENOENT] >= 1  # the interpreter looks for files that are not there
    assert found["read"][errno.EBADF] == 3
    assert found["write"] == {errno.ENOSPC: 1}
    assert (found["connect"], found["unlink"]) == ({errno.ENOENT: 1}, {errno.ENOENT: 1})
    assert found["kill"] == {errno.ESRCH: 1}
    assert got.stdout.split()[-1] == b"%d" % errno.ESRCH


def _by_function(entries: list[Record], function: str) -> int:
    """The sum of what is at stacks with this function in them."""
    return sum(
        entry["value"]
        for entry in entries
        if function in [frame.get("function") for frame in entry["key"][0]["ustack"]]
    )


def test_heap_growth_is_what_was_not_freed(tmp_path: Path) -> None:
    code = tmp_path / "grows.c"
    code.write_text(
        "#include <stdlib.h>\n"
        "static void *volatile kept[4];\n"
        "__attribute__((noipa)) void keeps(int n) { kept[n] = malloc(1000); }\n"
        "__attribute__((noipa)) void zeroed(void) { kept[3] = calloc(10, 50); }\n"
        "__attribute__((noipa)) void passing(void)\n"
        "{ void *volatile block = malloc(300); free(block); free(0); }\n"
        "__attribute__((noipa)) void larger(void) { kept[0] = realloc(kept[0], 300000); }\n"
        "__attribute__((noipa)) void from_none(void) { kept[2] = realloc(0, 70); }\n"
        "int main(void)\n"
        "{ keeps(0); keeps(1); zeroed(); passing(); passing(); larger(); from_none();\n"
        "  return 0; }\n"
    )
    binary = tmp_path / "grows"
    subprocess.run(["gcc", "-O1", "-o", binary, code], check=True, timeout=60)
    run("heap_growth", binary, tmp=tmp_path)
    maps = _maps(tmp_path / "report")
    allocated, freed = maps["allocated"]["entries"], maps["freed"]["entries"]
    sizes = {"keeps": 2000, "zeroed": 500, "passing": 600, "larger": 300_000, "from_none": 70}
    assert {name: _by_function(allocated, name) for name in sizes} == sizes
    gone = {"keeps": 0, "zeroed": 0, "passing": 600, "larger": 1000, "from_none": 0}
    assert {name: _by_function(freed, name) for name in gone} == gone
    (growth,) = maps["growth"]["entries"]
    live = [entry["value"] for entry in maps["live"]["entries"]]
    assert sorted(live)[-4:] == [70, 500, 1000, 300_000]
    assert growth["value"] == sum(live)
    assert growth["value"] == sum(each["value"] for each in allocated) - sum(
        each["value"] for each in freed
    )


def test_lock_contention_counts_who_waits(build_target: BuildTarget, tmp_path: Path) -> None:
    got = run("lock_contention", build_target("contends.c", "-pthread"), tmp=tmp_path)
    maps = _maps(tmp_path / "report")
    assert _by_function(maps["calls"]["entries"], "waits") == 3
    assert _by_function(maps["calls"]["entries"], "main") == 0
    assert _by_function(maps["waited"]["entries"], "waits") > 0
    (times,) = maps["times"]["entries"]
    (probe,) = got.probes
    assert times["count"] == probe["hits"] == 3
