"""Scripts on real processes: what they print, to the byte, and what they leave alone."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.client_support import PATIENCE, Cat, cat, dprobe, tracer_of
from tests.integration.script_support import bpftrace, built, started


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program that scripts are about."""
    return built(tmp_path_factory.mktemp("script"))


@pytest.fixture
def worker(work: Path) -> Iterator[Cat]:
    """One that calls when it is told to."""
    with cat((work, "3")) as one:
        yield one


def printed(work: Path, script: str, *options: object) -> str:
    """What a script prints of the program's run; nothing goes to standard error."""
    done = bpftrace("-q", *options, "-e", script.replace("WORK", str(work)), "-c", work)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.removesuffix("\n\n") if done.stdout.endswith("\n\n\n") else done.stdout


@pytest.mark.parametrize(
    ("script", "wanted"),
    [
        (
            'uprobe:WORK:inner { printf("%d %s %s\\n", arg0, str(arg1), func); }',
            "0 zero inner\n1 one inner\n2 two inner\n",
        ),
        ("uprobe:WORK:inner /arg0 > 0/ { print(arg0); }", "1\n2\n"),
        ('uprobe:WORK:inner /str(arg1) == "one"/ { print(arg0); }', "1\n"),
        ("uprobe:WORK:inner { print((arg0, str(arg1))); }", "(0, zero)\n(1, one)\n(2, two)\n"),
        ("uretprobe:WORK:outer { print(retval); }", "10\n20\n30\n"),
        (
            "uprobe:WORK:inner { if (arg0 == 1) { print(1); } else { print(0); } }",
            "0\n1\n0\n",
        ),
        (
            'uprobe:WORK:inner { $i = 0; while ($i < arg0) { printf("%d,", $i); $i++; } }',
            "0,0,1,",
        ),
        (
            'BEGIN { print("first"); } uprobe:WORK:inner { print(arg0); } END { print("last"); }',
            "first\n0\n1\n2\nlast\n",
        ),
        ("uprobe:WORK:inner { print(comm); }", "work\n" * 3),
        (
            "uprobe:WORK:outer { print((number, total, str(names[number]))); }",
            "(0, 5, zero)\n(1, 5, one)\n(2, 6, two)\n",
        ),
        ("uprobe:WORK:take { print((at->x, at->tag, args.at->y)); }", "(-3, 7, 500)\n"),
        (
            "uprobe:WORK:outer /number == 2/ { total = 7; } uprobe:WORK:take { print(total); }",
            "9\n",
        ),
        ("uprobe:WORK:inner /pid == cpid/ { print(arg0); }", "0\n1\n2\n"),
        ("uprobe:WORK:inner { print(probe); exit(); }", "uprobe:WORK:inner\n"),
        (
            "struct point { int x; unsigned char tag; short y; }; uprobe:WORK:take "
            '{ $p = (struct point *)arg0; printf("%d %d %d\\n", $p->x, $p->tag, $p->y); }',
            "-3 7 500\n",
        ),
        (
            "struct point { int x; unsigned char tag; short y; }; uprobe:WORK:take "
            "{ print(*(struct point *)arg0); }",
            "{ .x = -3, .tag = 7, .y = 500 }\n",
        ),
    ],
)
def test_what_is_printed_at_hits(work: Path, script: str, wanted: str) -> None:
    assert printed(work, script).rstrip("\n") == wanted.replace("WORK", str(work)).rstrip("\n")


@pytest.mark.parametrize(
    ("script", "wanted"),
    [
        ("uprobe:WORK:inner { @ = count(); }", "@: 3\n"),
        ("uprobe:WORK:inner { @[str(arg1)] = sum(arg0); }", "@[zero]: 0\n@[one]: 1\n@[two]: 2\n"),
        ("uprobe:WORK:inner { @x++; }", "@x: 3\n"),
        ("uprobe:WORK:inner { @s[comm] = stats(arg0); }",
         "@s[work]: count 3, average 1, total 3\n\n"),
        ("uprobe:WORK:inner { @[arg0, comm] = max(arg0 * 2); }",
         "@[0, work]: 0\n@[1, work]: 2\n@[2, work]: 4\n"),
        ("uretprobe:WORK:outer { @ = lhist(retval, 0, 100, 10); }",
         "".join(["@:\n",
                  f"[10, 20)               1 |{'@' * 52}|\n",
                  f"[20, 30)               1 |{'@' * 52}|\n",
                  f"[30, 40)               1 |{'@' * 52}|\n\n"])),
        ("BEGIN { @t = 10; } uprobe:WORK:inner { @t++; @n = @t; }", "@n: 13\n@t: 13\n"),
        ("uprobe:WORK:inner { @f[arg0] = str(arg1); @c = comm; @n[(comm, @f[arg0])] = count(); }",
         "@c: work\n@f[0]: zero\n@f[1]: one\n@f[2]: two\n"
         "@n[work, one]: 1\n@n[work, two]: 1\n@n[work, zero]: 1\n"),
        ('uprobe:WORK:inner { @t[arg0] = (arg0 > 0, comm, str(arg1), "x"); } END '
         '{ @t[5] = (@t[1].0, "of", @t[2].2, "the block"); delete(@t, 0); }',
         "@t[1]: (true, work, one, x)\n@t[2]: (true, work, two, x)\n"
         "@t[5]: (true, of, two, the block)\n"),
        ("uprobe:WORK:inner { @a = count(); @b = count(); } END { clear(@a); }", "@a: 0\n@b: 3\n"),
    ],
)  # fmt: skip
def test_what_maps_have_at_the_end(work: Path, script: str, wanted: str) -> None:
    assert printed(work, script) == "\n\n" + wanted


def test_a_stack_is_shown_by_its_functions(work: Path) -> None:
    shown = printed(work, "uprobe:WORK:inner { @[ustack(3)] = count(); }")
    lines = shown.strip("\n").split("\n")
    assert lines[0] == "@["
    assert lines[1] == "    inner+0"
    assert lines[2].startswith("    outer+")
    assert lines[3].startswith("    main+")
    assert lines[4] == "]: 3"


def test_what_was_kept_at_the_entry_is_there_at_the_return(work: Path) -> None:
    script = (
        "uprobe:WORK:inner { @name[tid] = str(arg1); } "
        'uretprobe:WORK:inner /@name[tid] != "one"/ '
        '{ printf("%s %d\\n", @name[tid], retval); delete(@name, tid); }'
    )
    assert printed(work, script).startswith("zero 1\ntwo 3\n")


def test_loops_go_over_keys_of_all_kinds(work: Path) -> None:
    script = (
        "uprobe:WORK:inner /arg0 == 1/ { @s[ustack(1), str(arg1)] = count(); "
        '@n[usym(reg("ip")), comm, (1, str(arg1))] = (7, str(arg1)); } END { '
        'for ($kv : @s) { print($kv); printf("%s %d\\n", $kv.0.1, $kv.1); } '
        "for ($kv : @n) { print($kv.0); print($kv.1.1); } clear(@s); clear(@n); }"
    )
    assert printed(work, script).rstrip("\n") == (
        "((\n        inner+0\n, one), 1)\none 1\n(inner+0, work, (1, one))\none"
    )
    script = "uprobe:WORK:inner { @s[ustack(1)] = count(); } END { for ($kv : @s) { print($kv); } }"
    shown = printed(work, script, "-f", "json").splitlines()[0]
    assert json.loads(shown) == {"type": "value", "data": ["\n        inner+0\n", 3]}


def test_json_has_an_object_a_line(work: Path) -> None:
    script = (
        'uprobe:WORK:inner /arg0 == 1/ { printf("%s\\n", str(arg1)); print((1, "a")); '
        "@ = count(); }"
    )
    shown = [json.loads(line) for line in printed(work, script, "-f", "json").split("\n") if line]
    assert shown == [
        {"type": "printf", "data": "one\n"},
        {"type": "value", "data": [1, "a"]},
        {"type": "map", "data": {"@": 1}},
    ]


def test_a_script_ends_itself_and_the_command_with_it(work: Path) -> None:
    script = f"uprobe:{work}:inner {{ exit(7); }}"
    done = bpftrace("-e", script, "-c", f"{work} 3", stdin=subprocess.DEVNULL)
    assert done.stdout.startswith("Attached 1 probe\n")
    done = bpftrace("-e", "BEGIN { exit(69); }")
    assert (done.returncode, done.stdout) == (69, "Attached 1 probe\n\n\n")


def test_a_command_that_is_run_keeps_its_output_and_status(work: Path) -> None:
    script = f"uprobe:{work}:inner {{ @ = count(); }}"
    done = dprobe("run", "-e", script, "--", "sh", "-c", f"echo out; exec {work}")
    assert (done.returncode, done.stdout, done.stderr) == (0, "out\n", "@: 3\n")


def test_a_script_from_its_file_with_parameters(work: Path, tmp_path: Path) -> None:
    path = tmp_path / "many.bt"
    path.write_text(
        f'uprobe:{work}:inner /arg0 >= $1/ {{ printf("%s %d %d\\n", str($2), arg0, $#); }}\n'
    )
    done = dprobe("run", path, "1", "text", "--", work)
    assert (done.returncode, done.stderr) == (0, "text 1 2\ntext 2 2\n")


def test_a_running_process_goes_on_without_probes(worker: Cat, work: Path) -> None:
    script = f"uprobe:{work}:inner {{ @[arg0] = count(); }} interval:ms:10 {{ @t = 1; }}"
    script += f' uprobe:{work}:outer /arg0 == 2/ {{ printf("all\\n"); }}'
    traced = started("attach", "-e", script, "-p", worker.pid)
    assert traced.stderr is not None
    assert traced.stdout is not None
    assert "until Ctrl-C" in traced.stderr.readline()
    worker.say("go")
    assert traced.stdout.readline() == "all\n"
    traced.send_signal(signal.SIGINT)
    out, err = traced.communicate(timeout=PATIENCE)
    assert (traced.returncode, err) == (0, "")
    counts = [line for line in out.split("\n") if line.startswith("@[")]
    # The last call may not have got to its inner one when the signal came; ``say`` waited for it.
    assert counts == ["@[0]: 1", "@[1]: 1", "@[2]: 1"]
    assert tracer_of(worker.pid) == 0
    worker.say("still there")


def test_blocks_see_what_hits_have_set_and_hits_what_blocks_have(worker: Cat, work: Path) -> None:
    script = (
        f"uprobe:{work}:inner {{ @seen = arg0; if (@want == 5) {{ @done = 1; }} }} "
        "interval:ms:20 { if (@seen == 2) { @want = 5; } "
        'if (@done == 1) { printf("done\\n"); exit(); } if (!@told) { print("in"); @told = 1; } }'
    )
    traced = started("attach", "-e", script, "-p", worker.pid)
    assert traced.stdout is not None
    assert traced.stdout.readline() == "in\n"
    while traced.poll() is None:
        worker.say("go")
    out, _ = traced.communicate(timeout=PATIENCE)
    assert traced.returncode == 0
    assert out.startswith("done\n")
    assert "@want: 5\n" in out


@pytest.mark.parametrize("engine", ["trap", "inline"])
def test_what_hits_set_is_not_lost_when_blocks_set_other_keys(
    work: Path, engine: str, tmp_path: Path
) -> None:
    times = 3000 if engine == "trap" else 300_000
    script = (
        f"uprobe:{work}:outer {{ @v[arg0 % 3] = @v[arg0 % 3] + 1 }} interval:ms:2 "
        "{ @v[9] += 1; @v[@v[9] + 100] = 3; delete(@v[@v[9] + 99]); @other[@v[9]] = 1; }"
    )
    lines = tmp_path / "lines"
    lines.write_text("a\nb\n")
    command = ("run", "--engine", engine, "-e", script, "--", work, times)
    with lines.open() as file:
        done = dprobe(*command, stdin=file)
    assert (done.returncode, done.stdout) == (0, "a\nb\n")
    found = dict(re.findall(r"^(@.*): (.*)$", done.stderr, re.MULTILINE))
    assert [found[f"@v[{n}]"] for n in range(3)] == [str(2 * times // 3)] * 3
    blocks = int(found.get("@v[9]", "0"))
    assert blocks > 0
    assert [name for name in found if re.fullmatch(r"@v\[\d{3,}\]", name)] == [
        f"@v[{blocks + 100}]"
    ]


def test_what_the_last_block_sets_is_shown(work: Path) -> None:
    script = (
        "uprobe:WORK:outer { @v[arg0] = 5; @s[arg0] = 1; @n[arg0]++; } "
        'END { delete(@v, 1); @v[7] = 3; zero(@s); printf("%d\\n", @n[2]); zero(@n); '
        "delete(@c, 1); } uprobe:WORK:inner { @c[arg0] = count(); }"
    )
    assert printed(work, script) == (
        "1\n\n\n@c[0]: 1\n@c[2]: 1\n@n[0]: 0\n@n[1]: 0\n@n[2]: 0\n@s[0]: 0\n@s[1]: 0\n@s[2]: 0\n"
        "@v[7]: 3\n@v[0]: 5\n@v[2]: 5\n"
    )


def of_two(script: str, worker: Cat, work: Path) -> list[str]:
    """The lines of a script in all processes, while two of them call; it prints of each call in
    which process and with what, and a dot now and then."""
    with cat((work, "3")) as other:
        traced = started("bpftrace", "-q", "-e", script)
        assert traced.stdout is not None
        lines: list[str] = []
        while {f"{worker.pid} 2\n", f"{other.pid} 2\n"} - {*lines}:
            lines.append(traced.stdout.readline())
            assert lines[-1]
            if lines[-1] == ".\n":
                worker.say("go")
                other.say("go")
        for _ in range(3):
            worker.say("go")
            other.say("go")
        traced.send_signal(signal.SIGINT)
        # Not by communicate(): some of it has been read into memory already.
        lines += traced.stdout.readlines()
        assert traced.wait(PATIENCE) == 0
    return lines


def test_the_last_block_of_a_script_in_several_processes(worker: Cat, work: Path) -> None:
    script = (
        f'uprobe:{work}:inner {{ printf("%d %d\\n", pid, arg0); @n[arg0]++; @c[arg0] = count(); '
        '@v[pid] = arg0; } END { printf("end %d %d\\n", @n[1], len(@v)); zero(@n); clear(@c); '
        'for ($kv : @v) { delete(@v, $kv.0); } @v[1] = 8; } interval:ms:20 { printf(".\\n"); } '
        f"uprobe:{work}:outer {{ @d[arg0] = count(); @e[arg0] = hist(arg0); }} "
        "END { delete(@d, 0); delete(@d, 2); print(@d); clear(@d); delete(@e, 0); clear(@e); }"
    )
    hits, end, shown = "".join(of_two(script, worker, work)).partition("end ")
    assert end
    total = int(shown.split()[0])
    assert total == hits.count(" 1\n") >= 2
    assert shown == f"{total} 2\n@d[1]: {total}\n\n\n@n[0]: 0\n@n[1]: 0\n@n[2]: 0\n@v[1]: 8\n"


def test_values_that_several_processes_had_at_last(worker: Cat, work: Path) -> None:
    script = (
        f"uprobe:{work}:inner {{ @v[pid, arg0] = @v[pid, arg0] + 1; "
        'printf("%d %d\\n", pid, arg0); } '
        'END { for ($kv : @v) { printf("%d %d: %d\\n", $kv.0.0, $kv.0.1, $kv.1); } clear(@v); } '
        'interval:ms:20 { printf(".\\n"); }'
    )
    lines = of_two(script, worker, work)
    hits = Counter(line.strip() for line in lines if line.count(" ") == 1 and ":" not in line)
    assert dict(line.strip().split(": ") for line in lines if ": " in line) == {
        key: str(count) for key, count in hits.items()
    }


def test_of_what_several_processes_and_blocks_set_the_latest_is_shown(
    worker: Cat, work: Path
) -> None:
    script = (
        'BEGIN { @x = 1; @who[0] = (0, "nobody"); } '
        f"uprobe:{work}:inner {{ @x = arg0 + 5; @who[arg0] = (pid, str(arg1)); @n++; $n = @n; "
        'printf("%d %d\\n", pid, arg0); } '
        'interval:ms:20 { printf(".\\n"); } END { @who[1] = (1, "the last"); }'
    )
    traced = started("bpftrace", "-q", "-e", script)
    assert traced.stdout is not None
    lines: list[str] = []
    with cat((work, "3")) as other:
        # It may have been there before the probes were.
        while f"{other.pid} 2\n" not in lines:
            lines.append(traced.stdout.readline())
            assert lines[-1]
            if lines[-1] == ".\n":
                other.say("go")
        pid = other.pid
    # It has ended; the worker still has what the first block set.
    traced.send_signal(signal.SIGINT)
    shown = traced.stdout.readlines()
    assert traced.wait(PATIENCE) == 0
    shown = [line for line in shown if line.startswith("@")]
    assert shown.pop(0).startswith("@n: ")
    assert shown == [
        f"@who[0]: ({pid}, zero)\n",
        "@who[1]: (1, the last)\n",
        f"@who[2]: ({pid}, two)\n",
        "@x: 7\n",
    ]
    worker.say("go")


def test_what_had_no_room_in_a_map_is_told(work: Path) -> None:
    script = (
        f"let @m = hash(2); let @c = hash(1); let @b = hash(1); uprobe:{work}:inner {{ "
        "@m[arg0] = str(arg1); @c[arg0] = count(); @ok[arg0] = count(); } "
        "END { clear(@c); @b[1] = 1; @b[2] = 2; }"
    )
    done = bpftrace("-q", "-e", script, "-c", work)
    assert done.returncode == 0
    assert "@m[1]: one" in done.stdout
    assert "@m[2]" not in done.stdout
    said = done.stderr.splitlines()
    assert [re.sub(r"^dprobe: |, as .*", "", line) for line in said] == [
        "@b: 1 update was lost",
        "@c: 2 updates were lost",
        "@m: 1 update was lost",
    ]


def test_blocks_alone_go_with_a_command() -> None:
    done = dprobe("run", "-e", "BEGIN { print(1); } END { print(2); }", "--", "echo", "out")
    assert (done.returncode, done.stdout, done.stderr) == (0, "out\n", "1\n2\n")
    # The command ends with the script.
    script = "interval:ms:10 { @++; if (@ == 2) { exit(); } }"
    done = bpftrace("-e", script, "-c", "sleep 1000")
    assert (done.returncode, done.stdout) == (0, "Attached 1 probe\n\n\n@: 2\n")


def test_a_signal_is_a_block_of_its_own(worker: Cat, work: Path) -> None:
    script = (
        f'uprobe:{work}:inner {{ @ = count(); }} self:signal:SIGUSR1 {{ print("user"); exit(); }} '
        'interval:ms:10 { if (!@said) { @said = 1; printf("in\\n"); } }'
    )
    traced = started("attach", "-e", script, "-p", worker.pid)
    assert traced.stdout is not None
    assert traced.stdout.readline() == "in\n"
    worker.say("go")
    traced.send_signal(signal.SIGUSR1)
    out, _ = traced.communicate(timeout=PATIENCE)
    assert (traced.returncode, out) == (0, "user\n@: 3\n@said: 1\n")


def test_every_process_that_maps_the_module_now_or_later(worker: Cat, work: Path) -> None:
    script = (
        f'uprobe:{work}:inner {{ printf("%d %d\\n", pid, arg0); @[pid] = count(); }} '
        'interval:ms:20 { printf(".\\n"); }'
    )
    traced = started("bpftrace", "-e", script)
    assert traced.stdout is not None
    seen: set[int] = set()

    def wait_for(pid: int, one: Cat) -> None:
        while pid not in seen:
            one.say("go")
            line = traced.stdout.readline() if traced.stdout else ""
            assert line
            if line[0].isdigit():
                seen.add(int(line.split()[0]))

    assert traced.stdout.readline() == "Attached 2 probes\n"
    wait_for(worker.pid, worker)
    with cat((work, "3")) as later:
        wait_for(later.pid, later)
        traced.send_signal(signal.SIGINT)
        out, _ = traced.communicate(timeout=PATIENCE)
        assert traced.returncode == 0
        assert f"@[{worker.pid}]: " in out
        assert f"@[{later.pid}]: " in out
        assert (tracer_of(worker.pid), tracer_of(later.pid)) == (0, 0)


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["--version"], 0, "bpftrace v0.26.0"),
        (["-h"], 0, "USAGE:"),
        (["-idonotexist"], 1, "USAGE:"),
        ([], 1, "USAGE:"),
        (["--info"], 0, "uprobe: yes"),
        (["nofile.bt"], 1, "ERROR: failed to open file 'nofile.bt': No such file or directory"),
        (["-p", "a1", "x.bt"], 1, "ERROR: Failed to parse pid: pid 'a1' is not a valid decimal"),
        (["-p", "5000000", "x.bt"], 1, "out of valid pid range [1,4194304]"),
        (["-f", "jsonx", "-e", "BEGIN { }"], 1, 'ERROR: Invalid output format "jsonx"'),
        (["-e", "BEGIN { x }"], 1, "stdin:1:9: error: "),
        (["-e", "kprobe:do_nanosleep { }"], 1, "need root's dprobed, which does not run"),
        (["-e", "fentry:do_nanosleep { }"], 1, "error: "),
        (["--dry-run", "-e", 'BEGIN { printf("hello"); @ = 0; }'], 0, "Attached 1 probe\n"),
        (["-l", "interval:*"], 0, "interval:hz:\ninterval:us:\ninterval:ms:\ninterval:s:\n"),
        (["-l", "uprobe:libc:mallo?"], 0, "libc.so.6:malloc\n"),
        (["-e", 'BEGIN { system("echo hi"); }'], 1, "unsafe"),
    ],
)
def test_what_bpftrace_would_say(arguments: list[str], status: int, said: str) -> None:
    done = bpftrace(*arguments)
    assert done.returncode == status
    assert said in done.stdout + done.stderr
    assert "hello" not in done.stdout
    assert "Traceback" not in done.stderr


IN_KERNEL = "kprobe:vfs_read { @ = count() }"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["attach", "-e", IN_KERNEL], "probes in the kernel need root's dprobed"),
        (["attach", "-e", "k:f { @ = nothing() }"], "there is no function `nothing`"),
        (["attach", "-e", IN_KERNEL, "-p", str(os.getpid())], "are in no process: name none"),
        (["attach", "-e", IN_KERNEL, "--exe", "cat"], "are in no process: name none"),
        (["run", "-e", IN_KERNEL, "--", "cat"], "are not those of a command"),
        (["attach", "-e", IN_KERNEL + " uprobe:libc:open { @ = count() }", "--exe", "cat"],
         "some probes are in the kernel and some in processes"),
        (["attach", "-e", "uprobe:libc:open { @ = count() }"], "say which processes, by -p"),
    ],
)  # fmt: skip
def test_probes_in_the_kernel_are_refused_where_they_cannot_be(
    arguments: list[str], said: str
) -> None:
    done = dprobe(*arguments)
    assert done.returncode == 2
    assert said in done.stderr.splitlines()[0]


def test_files_are_included_from_where_the_command_line_says(tmp_path: Path) -> None:
    folders = [tmp_path / "one", tmp_path / "two"]
    for number, folder in enumerate(folders):
        folder.mkdir()
        (folder / f"only{number}.h").write_text(f"#define N{number} {number + 5}\n")
        (folder / "both.h").write_text(f"#define FIRST {number + 1}\n")
    (tmp_path / "beside.h").write_text("#define FIRST 3\n")
    script = tmp_path / "script.bt"
    script.write_text(
        '#include <only1.h>\n#include "both.h"\n#include "beside.h"\n'
        'begin { printf("%d %d %d\\n", N0, N1, FIRST); exit() }\n'
    )
    where = ["-I", folders[0], "-I", folders[1]]
    done = bpftrace("-q", *where, "--include", "only0.h", script)
    assert (done.returncode, done.stdout, done.stderr) == (0, "5 6 3\n\n\n", "")
    begin = "begin { print(FIRST); exit() }"
    done = bpftrace("-q", "-I", folders[1], "-I", folders[0], "--include", "both.h", "-e", begin)
    assert (done.returncode, done.stdout) == (0, "2\n\n\n")
    done = bpftrace("-l", "--include", folders[0] / "both.h", "-e", begin)
    assert (done.returncode, done.stdout) == (0, "begin\n")
    done = bpftrace("--include", "only0.h", "-e", begin)
    assert done.returncode == 1
    assert "--include:1:1: error: there is no file `only0.h`" in done.stderr


def test_bytes_of_a_process_and_of_a_script_come_out_as_they_are(work: Path) -> None:
    script = r"""uprobe:WORK:inner { printf("%c%s\xff", 0xfe, str(arg1, 4));
        if (str(arg1, 3) == "tw" && strcontains(str(arg1), "\x77")) { printf("|%3s|", "é") } }"""
    words = ["-q", "-e", script.replace("WORK", str(work)), "-c", str(work)]
    done = bpftrace(*words, "-o", work.with_suffix(".out"))
    assert (done.returncode, done.stderr) == (0, "")
    out = work.with_suffix(".out").read_bytes().removesuffix(b"\n\n")
    assert out == b"\xfezer\xff\xfeone\xff\xfetwo\xff|  \xc3\xa9|"


def test_who_waits_for_the_probes_is_told() -> None:
    told = os.environ | {"__BPFTRACE_NOTIFY_PROBES_ATTACHED": "1"}
    done = bpftrace("-q", "-e", "BEGIN { exit(); }", env=told)
    assert done.stderr == "__BPFTRACE_NOTIFY_PROBES_ATTACHED\n"


def test_a_place_that_is_not_there_is_refused_before_the_command_runs(work: Path) -> None:
    done = dprobe("run", "-e", f"uprobe:{work}:nothing {{ }}", "--", "sh", "-c", "echo ran")
    assert (done.returncode, done.stdout) == (2, "")
    assert "nothing" in done.stderr


def test_output_goes_to_a_file_and_a_command_may_be_run(work: Path, tmp_path: Path) -> None:
    path = tmp_path / "out"
    done = bpftrace("-q", "--unsafe", "-o", path, "-e", 'BEGIN { system("echo hi"); exit(); }')
    assert (done.returncode, done.stdout) == (0, "")
    assert path.read_text() == "hi\n\n\n"


def test_a_system_call_wherever_it_is_made(work: Path, tmp_path: Path) -> None:
    """libc's wrappers, its own internal calls, ``syscall(2)`` and the loader's."""
    source = tmp_path / "calls.c"
    source.write_text(
        """
        #define _GNU_SOURCE
        #include <fcntl.h>
        #include <stdio.h>
        #include <sys/syscall.h>
        #include <unistd.h>
        int main(void)
        {
            long got;
            close(openat(AT_FDCWD, "/dev/null", O_RDONLY));
            fclose(fopen("/dev/zero", "r"));
            close(syscall(SYS_openat, AT_FDCWD, "/dev/full", O_WRONLY));
            __asm__ volatile("syscall" : "=a"(got) : "a"(SYS_getppid) : "rcx", "r11", "memory");
            return got < 0;
        }
        """
    )
    calls = tmp_path / "calls"
    subprocess.run(["gcc", "-o", calls, source], check=True, timeout=PATIENCE)
    script = 'syscall:openat { printf("= %s %d\\n", str(arg1), arg2); }'
    script += ' syscall:getppid { printf("= %s\\n", probe); } syscall:mmap { @ = max(arg3); }'
    done = dprobe("run", "-e", script, "--", calls)
    assert done.returncode == 0, done.stderr
    lines = [line[2:] for line in done.stderr.splitlines() if line.startswith("= ")]
    assert lines[-4:] == ["/dev/null 0", "/dev/zero 0", "/dev/full 1", "syscall:getppid"]
    assert any(line.startswith("/etc/ld.so.cache ") for line in lines)
    # The fourth argument of a system call, MAP_PRIVATE and others, is in another register.
    flags = next(line for line in done.stderr.splitlines() if line.startswith("@: "))
    assert int(flags.removeprefix("@: ")) & 0x2
    assert (
        "not in libraries that are loaded later nor in code that is made at run time" in done.stderr
    )


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("syscall:nosuch", "there is no system call `nosuch`"),
        ("syscall:openat:return", "where one is left is not seen"),
    ],
)
def test_system_calls_that_are_none(place: str, said: str) -> None:
    done = dprobe("run", "-e", f"{place} {{ @ = count(); }}", "--", "true")
    assert done.returncode == 2 and said in done.stderr


COUNTERS = """
#include <stdio.h>
#include <stdlib.h>
struct counter { long other, value; };
__attribute__((noinline)) void bump(int unused, long *value) { *value += 1; }
int main(void)
{
    char line[100];
    struct counter *counters = calloc(2, sizeof *counters);
    while (fgets(line, sizeof line, stdin)) {
        counters[0].other++;
        bump(0, &counters[0].value);
        bump(0, &counters[1].value);
        fputs(line, stdout);
        fflush(stdout);
    }
    return 0;
}
"""


def test_memory_is_watched_whose_address_a_function_is_given(tmp_path: Path) -> None:
    source, path = tmp_path / "counters.c", tmp_path / "counters"
    source.write_text(COUNTERS)
    subprocess.run(["gcc", "-O0", "-o", path, source], check=True, timeout=PATIENCE)
    script = 'watchpoint:bump+arg1:8:w { @[func] = count(); print("written"); }'
    with cat([path]) as target:
        traced = started("attach", "-e", script, "-p", target.pid)
        assert traced.stderr is not None and traced.stdout is not None
        assert "until Ctrl-C" in traced.stderr.readline()
        # What is written before the watchpoint is in place is not seen.
        while not select.select([traced.stdout], [], [], 0)[0]:
            target.say("go")
        for _ in range(3):
            target.say("go")
        traced.send_signal(signal.SIGINT)
        out, err = traced.communicate(timeout=PATIENCE)
    assert (traced.returncode, err) == (0, "")
    *lines, count = out.split()
    assert lines[-1] == "@[bump]:" and set(lines[:-1]) == {"written"}
    # Each write once, and nothing that is written beside the counters.
    assert int(count) == len(lines) - 1 >= 4


def test_an_argument_is_watched_in_named_processes_only(work: Path) -> None:
    done = dprobe("attach", "-e", "watchpoint:inner+arg1:8:w { @ = count(); }", "--exe", work)
    assert done.returncode == 2
    assert done.stderr == (
        "dprobe: watchpoint:FUNCTION+argN is for processes that are named: say -p\n"
    )


def test_what_is_watched_no_longer_does_not_fire(tmp_path: Path) -> None:
    source, path = tmp_path / "one.c", tmp_path / "one"
    source.write_text(
        """
        #include <stdio.h>
        static long value;
        __attribute__((noinline)) void begin(long *value) { __asm__ volatile("" ::: "memory"); }
        __attribute__((noinline)) void done(long *value) { __asm__ volatile("" ::: "memory"); }
        int main(void)
        {
            char line[100];
            while (fgets(line, sizeof line, stdin)) {
                if (line[0] == 'b')
                    begin(&value);
                if (line[0] == 'd')
                    done(&value);
                value++;
                fputs(line, stdout);
                fflush(stdout);
            }
            return 0;
        }
        """
    )
    subprocess.run(["gcc", "-O0", "-o", path, source], check=True, timeout=PATIENCE)
    script = 'watchpoint:begin+arg0:8:w { print("written"); @ = count(); } '
    script += 'done { unwatch(arg0); print("no longer"); }'
    with cat([path]) as target:
        traced = started("attach", "-e", script, "-p", target.pid)
        assert traced.stderr is not None and traced.stdout is not None
        assert "until Ctrl-C" in traced.stderr.readline()
        target.say("begin")
        while not select.select([traced.stdout], [], [], 0)[0]:
            target.say("write")
        target.say("done")
        lines = []
        while "no longer\n" not in lines:
            lines.append(traced.stdout.readline())
        for _ in range(3):
            target.say("write")
        traced.send_signal(signal.SIGINT)
        lines += traced.stdout  # not ``communicate``: what was read ahead would be lost
        _, err = traced.communicate(timeout=PATIENCE)
    assert (traced.returncode, err) == (0, "")
    at = lines.index("no longer\n")
    # That of the line that ended it may still be seen.
    assert lines[at + 1 :].count("written\n") <= 1
    assert lines[-1] == f"@: {lines.count('written' + chr(10))}\n"
