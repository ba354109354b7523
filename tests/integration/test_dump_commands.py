"""`dprobe dump`, `dprobe dumps` and `exit dump` through the daemon."""

from __future__ import annotations

import os
import re
import select
import socket
import subprocess
from array import array
from pathlib import Path

from elftools.elf.elffile import ELFFile

from tests.integration.client_support import Cat, cat, dprobe, parsed, program, running_daemon
from tests.integration.dump_support import about, gdb

DUMPS = """
name = libc.so.6
major = 7
offset = write
minor = 3
    push r,rdx
    log 1
    exit dump
"""


def environment(tmp_path: Path, **more: str) -> dict[str, str]:
    return {
        **os.environ,
        "DPROBED_DUMPS": str(tmp_path / "cores"),
        "DPROBED_JOURNAL_SOCKET": str(tmp_path / "journal"),
        **more,
    }


def test_dump_list_and_remove_without_a_daemon(tmp_path: Path) -> None:
    env = environment(tmp_path)
    with cat() as target:
        done = dprobe("dump", target.pid, env=env)
        assert done.returncode == 0, done.stderr
        core = Path(done.stdout.strip())
        assert "read" in gdb("/usr/bin/cat", core, "backtrace 1")
        target.say("goes on")
        done = dprobe("dump", "--json", target.pid, env=env)
        [second] = parsed(done.stdout)
        assert second["how"] == "snapshot"
    [first, other] = parsed(dprobe("dumps", "--json", env=env).stdout)
    assert (first["path"], other["path"]) == (str(core), second["path"])
    assert (first["pid"], first["command"], first["threads"]) == (target.pid, "cat", 1)
    assert core.stem in dprobe("dumps", env=env).stdout
    assert dprobe("dumps", "remove", core.stem, env=env).returncode == 0
    assert not core.exists()
    done = dprobe("dumps", "remove", core.stem, env=env)
    assert done.returncode == 2
    assert "there is no core" in done.stderr
    assert dprobe("dumps", "remove", env=env).returncode == 2
    assert dprobe("dumps", "remove", "--all", env=env).returncode == 0
    assert not list((tmp_path / "cores").glob("[!.]*"))
    assert "there are no cores" in dprobe("dumps", env=env).stderr


def test_exit_dump_and_the_journal(tmp_path: Path) -> None:
    """The core is entered in the journal as systemd-coredump enters its own."""
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journal,
        running_daemon(tmp_path, env=environment(tmp_path)) as daemon,
        cat() as target,
    ):
        journal.bind(str(tmp_path / "journal"))
        done = daemon.dprobe("insert", "--pid", target.pid, program(tmp_path, DUMPS, "dumping"))
        assert done.returncode == 0, done.stderr
        target.say("line")
        assert select.select([journal], [], [], 30)[0]
        fields = dict(
            line.split(b"=", 1) for line in journal.recv(1 << 20).split(b"\n") if b"=" in line
        )
        assert fields[b"MESSAGE_ID"] == b"fc2e22bc6ee647b6b90729ab34a250b1"
        assert fields[b"COREDUMP_PID"] == str(target.pid).encode()
        assert fields[b"COREDUMP_COMM"] == b"cat"
        assert fields[b"COREDUMP_SIGNAL"] == b"5"
        assert fields[b"COREDUMP_EXE"] == os.fsencode(Path("/usr/bin/cat").resolve())
        core = Path(os.fsdecode(fields[b"COREDUMP_FILENAME"]))
        told = about(core)
        assert told["probe"]["program"] == "dumping"
        assert told["probe"]["place"] == "write+0x0"
        assert told["record"]["log"] == [{"words": [5]}]
        [row] = parsed(daemon.dprobe("dumps", "--json", env=environment(tmp_path)).stdout)
        assert row["probe"] == "dumping write+0x0"
        [handler] = [each for each in daemon.json("handlers") if each["facility"] == "dump"]
        assert (handler["handler"], handler["reports"], handler["armed"]) == ("dump", 1, True)
        _disarmed(daemon.dprobe, target, tmp_path)
        daemon.dprobe("remove", "--all")


def test_where_the_core_is_of_a_command_that_is_run(tmp_path: Path) -> None:
    """Also of one that ends before its core is written; and why there is no second one."""
    env = environment(tmp_path, DPROBED_DUMPS_COUNT="1")
    source = program(tmp_path, DUMPS, "dumping")
    done = dprobe("run", source, "--", "cat", "/etc/hostname", env=env)
    assert done.returncode == 0
    [core] = (tmp_path / "cores").glob("*.core")
    assert f"\ndprobe: core: {core}\n" in done.stderr
    done = dprobe("run", source, "--", "cat", "/etc/hostname", env=env)
    assert done.returncode == 0
    assert re.search(r"^dprobe: no dump: .* has 1 core \(limit 1\)", done.stderr, re.MULTILINE)


def _disarmed(run: object, target: Cat, tmp_path: Path) -> None:
    """Nothing is dumped while the handler is disarmed."""
    assert callable(run)
    assert run("handlers", "disarm", "dump").returncode == 0
    assert run("query").returncode == 0  # behind what the tracer was told
    target.say("not dumped")
    assert run("handlers", "arm", "dump").returncode == 0
    assert len(list((tmp_path / "cores").glob("*.core"))) == 1


def test_refusals(tmp_path: Path) -> None:
    with cat() as target:
        env = environment(tmp_path, DPROBED_DUMPS_COUNT="x")
        done = dprobe("dump", target.pid, env=env)
        assert done.returncode == 2
        assert "DPROBED_DUMPS_COUNT=x is not a number" in done.stderr
        (tmp_path / "cores").write_text("no folder")
        done = dprobe("dump", target.pid, env=environment(tmp_path))
        assert done.returncode == 2
        assert "cores" in done.stderr
    done = dprobe("dump", 1 << 22, env=environment(tmp_path))
    assert done.returncode == 2
    assert "no such process" in done.stderr


#: Prints where 160 MiB are, of which every third page is zero and every other one has its number.
LARGE = """
import array, sys
count = 40960
words = array.array("Q", bytes(count * 4096))
for page in range(count):
    if page % 3:
        words[page * 512 + 7] = page
print(words.buffer_info()[0], flush=True)
sys.stdin.read()
"""


def test_a_large_core_is_whole(tmp_path: Path) -> None:
    """Two processes write it, each what the other has not begun."""
    target = subprocess.Popen(
        ["/usr/bin/python3", "-c", LARGE], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with target:
        assert target.stdout is not None
        start = int(target.stdout.readline())
        done = dprobe("dump", target.pid, env=environment(tmp_path))
        assert target.stdin is not None
        target.stdin.close()
    assert (done.returncode, target.returncode) == (0, 0), done.stderr
    with Path(done.stdout.strip()).open("rb") as core:
        [segment] = [
            each
            for each in ELFFile(core).iter_segments("PT_LOAD")
            if each["p_vaddr"] <= start < each["p_vaddr"] + each["p_filesz"]
        ]
        core.seek(segment["p_offset"] + start - segment["p_vaddr"])
        words = array("Q", core.read(40960 * 4096))
        status = os.fstat(core.fileno())
    assert words[7::512].tolist() == [page if page % 3 else 0 for page in range(40960)]
    assert not any(words[0::512]) and not any(words[8::512])
    assert status.st_size - status.st_blocks * 512 > 40960 // 3 * 4096 * 0.9
