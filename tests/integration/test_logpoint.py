"""``dprobe logpoint``: lines with values of a running program, and its own end."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.client_support import PATIENCE, Cat, cat, dprobe, running_daemon
from tests.integration.script_support import built, started

SOURCE = """
#include <stdio.h>
struct account { const char *user; char password[16]; };
struct job { int size; const char *path; struct account of; };
__attribute__((noinline)) int work(struct job *job, int n)
{
    int cost = job->size * n;
    return cost + 1;                    /* the line */
}
int main(void)
{
    char line[100];
    struct job job = {3, "/a/path", {"me\\033", "hidden"}};
    while (fgets(line, sizeof line, stdin)) {
        for (int i = 0; i < 5; i++)
            work(&job, i);
        fputs(line, stdout);
        fflush(stdout);
    }
    return 0;
}
"""
LINE = SOURCE[: SOURCE.index("/* the line */")].count("\n") + 1


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("jobs")
    (folder / "jobs.c").write_text(SOURCE)
    command = ["gcc", "-g", "-O0", "-o", str(folder / "jobs"), str(folder / "jobs.c")]
    subprocess.run(command, check=True, timeout=PATIENCE)
    return folder / "jobs"


@pytest.fixture
def worker(jobs: Path) -> Iterator[Cat]:
    with cat([jobs]) as target:
        yield target


def shown(
    worker: Cat, *arguments: object, before: tuple[object, ...] = ()
) -> tuple[list[str], str]:
    """What a logpoint shows, which ends itself, of the five calls of one line; and its first word
    to the user."""
    traced = started(*before, "logpoint", worker.pid, *arguments)
    assert traced.stderr is not None
    said = traced.stderr.readline()
    assert "until" in said, said + traced.stderr.read()
    worker.say("go")
    out, err = traced.communicate(timeout=PATIENCE)
    assert (traced.returncode, err) == (0, "")
    return out.splitlines(), said


def test_values_at_a_line_where_a_condition_holds(worker: Cat) -> None:
    message = "n={n} cost={cost} path={job->path} {{as it is}}"
    lines, said = shown(worker, f"jobs.c:{LINE}", message, "--if", "n > 1", "--hits", 2)
    assert f"logpoint at jobs.c:{LINE} in process {worker.pid}, until " in said
    assert [line.partition("] ")[2] for line in lines] == [
        "n=2 cost=6 path=/a/path {as it is}",
        "n=3 cost=9 path=/a/path {as it is}",
    ]
    assert all(f" jobs[{worker.pid}] " in line for line in lines)


def test_json_has_each_value_by_its_name_and_no_secrets(worker: Cat) -> None:
    message = "{job->of.user} {job->of.password} {job->of} {job->size}"
    (line,), _ = shown(worker, "work", message, "--hits", 1, "--json", "--redact", "SIZE")
    data = json.loads(line)["data"]
    assert data["values"] == {
        "job->of.user": "me\033",
        "job->of.password": "<redacted>",
        "job->of": {"user": data["values"]["job->of"]["user"], "password": "<redacted>"},
        "job->size": "<redacted>",
    }
    assert "hidden" not in line and "\033" not in data["message"]
    assert (data["pid"], data["tid"], data["comm"]) == (worker.pid, worker.pid, "jobs")


def test_what_is_over_the_rate_is_counted(worker: Cat) -> None:
    traced = started("logpoint", worker.pid, "work", "n={n}", "--rate", "1/s")
    assert traced.stderr is not None
    assert "until 1h are over" in traced.stderr.readline()
    worker.say("go")
    traced.send_signal(signal.SIGINT)
    out, err = traced.communicate(timeout=PATIENCE)
    assert (traced.returncode, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].endswith("] n=0")
    # Where five calls take longer than a second, more are shown.
    more = 0
    if "more, over the rate of 1/s" in lines[-1]:
        more = int(lines.pop().split(" ")[0])
    assert len(lines) + more == 5


def test_it_ends_when_its_time_is_over(worker: Cat) -> None:
    done = dprobe("logpoint", worker.pid, "work", "n={n}", "--for", "100ms")
    assert done.returncode == 0 and "until 100ms are over" in done.stderr
    worker.say("goes on")


def test_the_daemon_lists_it_with_its_owner_and_logs_who_put_it_where(
    worker: Cat, tmp_path: Path
) -> None:
    with running_daemon(tmp_path) as daemon:
        before = ("--socket", daemon.socket)
        traced = started(*before, "logpoint", worker.pid, "work", "n={n}", "--for", "1h")
        assert traced.stderr is not None
        assert "until 1h are over" in traced.stderr.readline()
        (row,) = daemon.json("programs")
        assert (row["program"], row["pid"], row["uid"]) == ("logpoint:work", worker.pid, 0)
        assert 0 < row["left_seconds"] <= 3600
        (probe,) = daemon.query()
        assert probe["state"] == "active"
        assert daemon.dprobe("remove", "logpoint:work").returncode == 0
        traced.communicate(timeout=PATIENCE)
        daemon.process.terminate()
        assert daemon.process.stderr is not None
        logged = [line for line in daemon.process.stderr if "inserted logpoint:work" in line]
        daemon.process.wait(PATIENCE)
    assert (
        len(logged) == 1 and f"process {worker.pid}: user 0" in logged[0] and "until" in logged[0]
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("work", "{jb->size}"), "jb"),
        (("work", "{job->sise}"), "did you mean `size`?"),
        (("work", "{n"), "this brace has no end"),
        (("work", "n}"), "this brace ends nothing"),
        (("work", "{}"), "there is nothing in braces"),
        (("work", "{n n}"), "stands behind an expression"),
        (("nowhere", "n"), "which module has `nowhere` is not known"),
        (("work", "{n}", "--if", "n >"), "error"),
        (("work", "{n}", "--rate", "fast"), "fast is no rate"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_touched(
    worker: Cat, arguments: tuple[str, ...], said: str
) -> None:
    done = dprobe("logpoint", worker.pid, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr and "Traceback" not in done.stderr


def test_scripts_log_as_well(tmp_path: Path) -> None:
    work = built(tmp_path)
    script = f'uprobe:{work}:inner {{ log("{{args.number}}: {{args.name}}, {{1 + 1}}"); }}'
    done = dprobe("run", "-e", script, "--", work)
    assert (done.returncode, done.stderr) == (0, "0: zero, 2\n1: one, 2\n2: two, 2\n")


def test_several_processes_by_their_name(jobs: Path, tmp_path: Path) -> None:
    own = tmp_path / f"jobs-{os.getpid()}"
    shutil.copy(jobs, own)
    with cat([own]) as one, cat([own]) as other:
        traced = started("logpoint", own.name[:15], "work", "n={n}", "--hits", 7)
        assert traced.stderr is not None
        said = traced.stderr.readline()
        assert str(one.pid) in said and str(other.pid) in said
        one.say("go")
        other.say("go")
        out, err = traced.communicate(timeout=PATIENCE)
        assert (traced.returncode, err) == (0, "")
    lines = out.splitlines()
    # So many in all, of both; each has five.
    assert len(lines) == 7
    assert {line.partition("[")[2].partition("]")[0] for line in lines} == {
        str(one.pid),
        str(other.pid),
    }
