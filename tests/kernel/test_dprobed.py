"""The real daemon and the real command in the virtual machine, with the real module."""

from __future__ import annotations

import errno
import json
import re
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.kernel import image, sample
from tests.kernel.device import (
    GETPPID,
    KILL,
    check,
    insert_module,
    path,
    remove_module,
    text_of,
    write_text,
)
from tests.kernel.machine import AREA, BRIDGE, LOG, PATIENCE, Machine
from tests.kernel.test_files import assembled

#: Python starts some thirty times, on an emulated processor.
pytestmark = pytest.mark.timeout(1200)

SOCKET = "/d.sock"
SIGINT, SIGKILL = 2, 9
PROGRAM = """\
name = kernel
modtype = kernel
vars = 1
gvars = 1
offset = __x64_sys_getppid
inc lv,0
inc gv,0
push u,rax
log i64 number
exit trace
"""


#: Of a module that comes later, and its data.
KMOD = """\
name = dpsample
modtype = kmod
offset = dpsample_step
push r,rdi
log i32 by
exit trace
"""
WATCH = """\
name = dpsample
modtype = kmod
address = dpsample_total:4
watchpoint = w
exit trace
"""

TRACEPOINT = """\
name = kernel
modtype = kernel
offset = tracepoint:task_rename
push r,rdi
push task
sub
log i64 same
exit trace
"""

DUMPS = """\
name = kernel
modtype = kernel
offset = __x64_sys_getppid
max_hits = 1
push 5
log i32 own
exit dump
"""

#: A process that lives for 10 ms.
BRIEF = """.globl _start
_start: mov $35, %eax
 lea ten(%rip), %rdi
 xor %esi, %esi
 syscall
 mov $60, %eax
 mov $7, %edi
 syscall
ten: .quad 0, 10000000
"""
STARTS = "name = brief\nvars = 1\noffset = _start\ninc lv,0\npush pid\nlog i32 who\nexit trace\n"
#: It is in the file of the daemon and of the command themselves as well.
READS = "name = libc.so.6\nvars = 1\noffset = read\ninc lv,0\npush a,0\nlog i32 fd\nexit trace\n"
TIMES = 10
MAPS = """\
name = kernel
modtype = kernel
map = calls, count, keys=2
offset = __x64_sys_getppid
key comm
key kstack,2
minc calls
abort
"""

#: What has to be 0 at each booking of the sample: all accounts together (`docs/kernel-hooks.md`).
ASSERTION = (BRIDGE / "samples" / "ledger.rpn").read_text()
#: Who overwrites the limit of the other sample (`kernel_bridge/README.md`).
GUILTY = (BRIDGE / "samples" / "pool_guilty.rpn").read_text()


class Dprobed:
    """A machine in which ``dprobed`` runs."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self._python = [str(image.PYTHON), "-m"]
        self.pid = 0

    def start(self) -> None:
        """Start the daemon, and wait until it answers."""
        deadline = time.monotonic() + PATIENCE
        for is_last in (False, False, True):
            self.pid = self.machine.start(*self._python, "dprobed", "--socket", SOCKET)
            while self.dprobe("query")[0]:
                state = text_of(self.machine, f"/proc/{self.pid}/stat")
                said = text_of(self.machine, LOG)
                assert time.monotonic() < deadline, said
                if ") Z " in state:
                    break
            else:
                return
            # Under emulation a process may be ended by SIGSEGV before its `execve` is through: not
            # explained. What ends later has said why.
            assert not is_last and state.split()[1] == "(init)" and not said, (state, said)

    @property
    def command(self) -> list[str]:
        """The command, as far as its options."""
        return [*self._python, "dprobe", "--socket", SOCKET]

    def dprobe(self, *arguments: str) -> tuple[int, str]:
        """The exit status of the command, and what it prints."""
        return self.machine.run(*self.command, *arguments)

    def insert_in_file(self, file: str) -> dict[str, Any]:
        """Have the kernel place a program in a file: its one probe.

        Who reads that has seconds for it, and just begins: here that may not do.
        """
        for _ in range(20):
            status, text = self.dprobe("insert", file, "--engine", "kernel", "--all", "--json")
            if "did not answer" not in text:
                assert status == 0, text
                break
        (line,) = [each for each in text.splitlines() if each.startswith("{")]
        found: dict[str, Any] = json.loads(line)
        return found

    def json(self, *arguments: str) -> list[dict[str, Any]]:
        """What the command prints as JSON, a line each."""
        status, text = self.dprobe(*arguments, "--json")
        assert status == 0, text
        # Standard error is there, too.
        lines = text.splitlines()
        return [json.loads(line) for line in lines if not line.startswith("dprobe: ")]


@pytest.fixture(scope="module")
def dprobed(
    release: str, modules: list[Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Dprobed]:
    """It runs, and loads the module when it needs it."""
    folder = tmp_path_factory.mktemp("dprobed")
    sources = {"x.rpn": PROGRAM, "loop.rpn": PROGRAM.replace("__x64_sys_getppid", "vfs_read")}
    sources |= {"kmod.rpn": KMOD, "watch.rpn": WATCH, "tp.rpn": TRACEPOINT}
    sources |= {"dump.rpn": DUMPS, "maps.rpn": MAPS}
    sources |= {"ledger.rpn": ASSERTION}
    sources |= {"starts.rpn": STARTS, "reads.rpn": READS, "pool_guilty.rpn": GUILTY}
    for name, text in sources.items():
        (folder / name).write_text(text)
    (folder / "dprobed.toml").write_text("load_kernel_module = true\n")
    more = image.files() | {name: folder / name for name in sources}
    more |= image.modprobe(folder, release, modules[0])
    more["etc/dprobed/dprobed.toml"] = folder / "dprobed.toml"
    more["bin/brief"] = assembled(BRIEF, folder / "brief")
    machine = Machine(folder, release, modules, more, image.ENVIRONMENT)
    try:
        running = Dprobed(machine)
        running.start()
        yield running
        assert not machine.complaints(), machine.console()[-6000:]
    finally:
        machine.close()


def test_insert_hit_query_remove(dprobed: Dprobed) -> None:
    assert path(dprobed.machine, "/sys/module/dprobes/refcnt", 0) == -errno.ENOENT
    (probe,) = dprobed.json("insert", "/x.rpn")
    assert (probe["pid"], probe["state"], probe["engine"]) == (0, "active", "kprobe")
    check(dprobed.machine.call(GETPPID, count=3))
    probes = [each for each in dprobed.json("query") if each["type"] == "probe"]
    # The daemon and the command may ask for their parent as well.
    assert [each["hits"] >= 3 for each in probes] == [True]
    # The daemon reads them as they come, not before it answers.
    while len(records := [each for each in dprobed.json("log") if each["comm"] == "init"]) < 3:
        pass
    assert [each["hit"] for each in records] == sorted(each["hit"] for each in records)
    assert {(each["exit"], each["pid"], each["backend"]) for each in records} == {
        ("trace", 1, "kernel")
    }
    for variables in (["vars", str(probe["number"])], ["vars", "--global", "0"]):
        (variable,) = dprobed.json(*variables)
        assert variable["value"] >= 3
    status, text = dprobed.dprobe("remove", "--all")
    assert status == 0, text
    assert text_of(dprobed.machine, "/sys/module/dprobes/refcnt") == "0\n"


def test_no_process_is_missed_in_a_file(dprobed: Dprobed) -> None:
    """Beside the daemon's own way, which hears of a process when that has begun."""
    machine = dprobed.machine
    probe = dprobed.insert_in_file("/starts.rpn")
    assert (probe["pid"], probe["state"], probe["engine"]) == (0, "active", "uprobe")
    assert (probe["module"], probe["place"]) == ("/bin/brief", "_start")
    for _ in range(TIMES):
        assert machine.run("/bin/brief") == (7, "")
    probes = [each for each in dprobed.json("query") if each["type"] == "probe"]
    assert [(each["hits"], each["ran"], each["missed"]) for each in probes] == [(TIMES, TIMES, 0)]
    while len(found := [each for each in dprobed.json("log") if each["place"] == "_start"]) < TIMES:
        pass
    assert {(each["comm"], each["backend"]) for each in found} == {("brief", "kernel")}
    assert len({each["pid"] for each in found}) == TIMES
    assert [each["log"][0]["value"] for each in found] == [each["pid"] for each in found]
    status, text = dprobed.dprobe("remove", "--all")
    assert status == 0, text
    assert machine.run("/bin/brief") == (7, "")
    assert text_of(machine, "/sys/module/dprobes/refcnt") == "0\n"

    status, text = dprobed.dprobe("insert", "/starts.rpn", "--exe", "/bin/brief")
    assert status == 0, text
    for _ in range(TIMES):
        assert machine.run("/bin/brief") == (7, "")
    caught = {each["pid"] for each in dprobed.json("log")
              if each["place"].startswith("_start") and each["backend"] != "kernel"}  # fmt: skip
    print(f"of {TIMES} processes that lived for 10 ms the daemon itself caught {len(caught)}")
    assert len(caught) <= TIMES
    status, text = dprobed.dprobe("remove", "--all")
    assert status == 0, text


def test_a_library_that_dprobed_itself_maps(dprobed: Dprobed) -> None:
    probe = dprobed.insert_in_file("/reads.rpn")
    assert (probe["state"], probe["engine"]) == ("active", "uprobe")
    (probe,) = [each for each in dprobed.json("query") if each["type"] == "probe"]
    assert probe["hits"] > 0
    status, text = dprobed.dprobe("remove", "--all")
    assert status == 0, text
    assert text_of(dprobed.machine, "/sys/module/dprobes/refcnt") == "0\n"


def test_a_probe_in_what_the_daemon_itself_does(dprobed: Dprobed) -> None:
    """Each reading of records makes a record."""
    (probe,) = dprobed.json("insert", "/loop.rpn")
    assert probe["state"] == "active"
    (probe,) = [each for each in dprobed.json("query") if each["type"] == "probe"]
    assert probe["hits"] > 0
    status, text = dprobed.dprobe("remove", "--all")
    assert status == 0, text
    assert text_of(dprobed.machine, "/sys/module/dprobes/refcnt") == "0\n"


def test_a_module_that_comes_later_and_its_data(dprobed: Dprobed) -> None:
    machine = dprobed.machine
    (probe,) = dprobed.json("insert", "/kmod.rpn")
    assert (probe["state"], probe["addresses"]) == ("pending", [])
    assert probe["reason"] == "the module dpsample is not loaded"
    with sample.loaded(machine):
        (probe,) = dprobed.json("insert", "/watch.rpn")
        assert (probe["state"], probe["engine"]) == ("active", "watch")
        sample.step(machine, 20)
        probes = [each for each in dprobed.json("query") if each["type"] == "probe"]
        assert [(each["state"], each["hits"]) for each in probes] == [("active", 2), ("active", 1)]
    probes = [each for each in dprobed.json("query") if each["type"] == "probe"]
    assert [(each["state"], each["hits"]) for each in probes] == [("pending", 3), ("failed", 2)]
    assert "the module that had it was removed" in probes[1]["reason"]
    while len(records := [each for each in dprobed.json("log") if each["comm"] == "init"
                          and each["place"] == "dpsample_step"]) < 3:  # fmt: skip
        pass
    assert [each["log"][0]["value"] for each in records] == [1, 20, -1]
    status, text = dprobed.dprobe("remove", "--all")
    assert status == 0, text
    assert text_of(machine, "/sys/module/dprobes/refcnt") == "0\n"


def test_a_tracepoint(dprobed: Dprobed) -> None:
    (place,) = dprobed.json("places", "--kernel", "task_rename")
    assert (place["place"], place["kind"]) == ("tracepoint:task_rename", "tracepoint")
    (probe,) = dprobed.json("insert", "/tp.rpn")
    assert (probe["state"], probe["engine"]) == ("active", "tracepoint")
    assert probe["addresses"] == [int(place["address"], 16)]
    prctl, set_name = 157, 15
    dprobed.machine.write(AREA, b"init\0")
    check(dprobed.machine.call(prctl, set_name, AREA))
    # Others take other names, too: kernel threads, and who executes a program.
    while not (own := [each for each in dprobed.json("log") if each["pid"] == 1
                       and each["place"] == "tracepoint:task_rename"]):  # fmt: skip
        pass
    assert [each["log"][0]["value"] for each in own] == [0]
    status, text = dprobed.dprobe("remove", "--all")
    assert status == 0, text


def test_a_dump(dprobed: Dprobed) -> None:
    (probe,) = dprobed.json("insert", "/dump.rpn")
    assert probe["state"] == "active"
    check(dprobed.machine.call(GETPPID))
    while not (records := [each for each in dprobed.json("log") if each["exit"] == "dump"]):
        pass
    (record,) = records
    values = {each["name"]: each["value"] for each in record["log"] if "name" in each}
    assert values["own"] == 5
    assert values["rip"] == probe["addresses"][0]
    frames = [each["string"] for each in record["log"] if "string" in each]
    assert "sys_getppid+0x" in frames[0]
    assert any(frame.startswith("do_syscall_64+0x") for frame in frames)
    status, text = dprobed.dprobe("remove", "--all")
    assert status == 0, text


def _of_init(dprobed: Dprobed) -> dict[str, Any]:
    """What the map has at the agent's key; others may ask for their parent as well."""
    (one,) = dprobed.json("maps", "calls")
    (entry,) = [each for each in one["entries"] if each["key"][0] == "init"]
    found: dict[str, Any] = entry
    return found


def test_maps_and_stacks(dprobed: Dprobed) -> None:
    (probe,) = dprobed.json("insert", "/maps.rpn")
    assert probe["state"] == "active"
    check(dprobed.machine.call(GETPPID, count=3))
    entry = _of_init(dprobed)
    assert entry["value"] == 3
    frames = entry["key"][1]["ustack"]
    assert [frame["module"] for frame in frames] == ["[kernel]"] * 2
    assert [frame["function"] for frame in frames] == ["__x64_sys_getppid", "do_syscall_64"]
    assert frames[0]["plus"] == 0
    # How far it is from the kernel's beginning, and not where it is.
    assert frames[0]["offset"] < 1 << 32
    status, text = dprobed.dprobe("maps", "--clear")
    assert status == 0, text
    check(dprobed.machine.call(GETPPID, count=2))
    assert _of_init(dprobed)["value"] == 2
    status, text = dprobed.dprobe("remove", "--all")
    assert status == 0, text
    assert "__x64_sys_getppid" in text


SCRIPT = """
kprobe:__x64_sys_getppid /pid == 1/ { @calls[comm, kstack(2)] = count(); @begun[tid] = nsecs; }
kretprobe:__x64_sys_getppid /@begun[tid]/
{ @results[retval] = count(); @times = hist(nsecs - @begun[tid]); delete(@begun[tid]); }
rawtracepoint:task_rename /pid == 1/ { printf("renamed %s\\n", comm); }
"""


def _said(machine: Machine, pid: int, text: str) -> str:
    """What the log of the machine has, as soon as that is there; a process goes on until then."""
    while text not in (said := text_of(machine, LOG)):
        assert ") Z " not in text_of(machine, f"/proc/{pid}/stat"), said
    return said


def test_a_script(dprobed: Dprobed) -> None:
    machine = dprobed.machine
    pid = machine.start(*dprobed.command, "bpftrace", "-e", SCRIPT)
    _said(machine, pid, "Attached 3 probes")
    check(machine.call(GETPPID, count=5))
    prctl, set_name = 157, 15
    machine.write(AREA, b"init\0")
    check(machine.call(prctl, set_name, AREA))
    _said(machine, pid, "renamed init\n")
    check(machine.call(KILL, pid, SIGINT))
    machine.wait(pid)
    said = text_of(machine, LOG)
    calls = said[said.index("@calls[init") :]
    assert re.match(
        r"@calls\[init, \n\s*__x64_sys_getppid\+0\n\s*do_syscall_64\+\d+\n\]: 5\n", calls
    )
    assert "@results[0]: 5\n" in said
    assert "@begun" not in said
    assert text_of(machine, "/sys/module/dprobes/refcnt") == "0\n"


def test_an_assertion_on_a_hook(dprobed: Dprobed) -> None:
    machine = dprobed.machine
    status, text = dprobed.dprobe("insert", "/ledger.rpn")
    assert "no module has declared a hook of that name" in text, (status, text)
    dprobed.dprobe("remove", "--all")
    insert_module(machine, name="dprobes_ledger")
    (probe,) = dprobed.json("insert", "/ledger.rpn")
    assert (probe["state"], probe["engine"]) == ("active", "hook")
    post = "/sys/module/dprobes_ledger/parameters/post"
    write_text(machine, post, "1 2 50")
    write_text(machine, "/sys/module/dprobes_ledger/parameters/bug", "1")
    write_text(machine, post, "2 3 999")
    write_text(machine, post, "3 4 1050")
    # The first one that failed was captured, and that was all.
    write_text(machine, post, "4 5 2099")
    while not (records := [each for each in dprobed.json("log")
                           if each["place"] == "hook:ledger_posted"]):  # fmt: skip
        pass
    (record,) = records
    values = {each["name"]: each["value"] for each in record["log"] if "name" in each}
    assert values == {"from": 3, "to": 4, "amount": 1050, "sum": -50}
    (memory,) = [each["memory"] for each in record["log"] if "memory" in each]
    accounts = struct.unpack("<8q", bytes.fromhex(memory))
    assert accounts == (0, -50, 50 - 999, 999 - 1050, 1000, 0, 0, 0)
    (probe,) = [each for each in dprobed.json("query") if each["type"] == "probe"]
    assert probe["state"] == "removed"
    status, text = dprobed.dprobe("remove", "--all")
    assert status == 0, text
    check(remove_module(machine, "dprobes_ledger"))


def test_a_hunt(dprobed: Dprobed) -> None:
    machine = dprobed.machine
    insert_module(machine, name="dprobes_pool")
    (probe,) = dprobed.json("insert", "/pool_guilty.rpn")
    assert (probe["state"], probe["engine"]) == ("active", "watch")
    write_text(machine, "/sys/module/dprobes_pool/parameters/name", "backups2024")
    while not (records := [each for each in dprobed.json("log")
                           if each["module"] == "dprobes_pool"]):  # fmt: skip
        pass
    (record,) = records
    assert record["exit"] == "dump"
    values = {each["name"]: each["value"] for each in record["log"] if "name" in each}
    assert values["limit"] == int.from_bytes(b"02", "little")
    frames = [each["string"] for each in record["log"] if "string" in each]
    assert any("pool_rename+0x" in frame for frame in frames[:2]), frames
    status, text = dprobed.dprobe("remove", "--all")
    assert status == 0, text
    check(remove_module(machine, "dprobes_pool"))


def test_a_daemon_that_is_killed_leaves_nothing_in_the_kernel(dprobed: Dprobed) -> None:
    dprobed.json("insert", "/x.rpn")
    assert text_of(dprobed.machine, "/sys/module/dprobes/refcnt") != "0\n"
    check(dprobed.machine.call(KILL, dprobed.pid, SIGKILL))
    dprobed.machine.wait(dprobed.pid)
    assert text_of(dprobed.machine, "/sys/module/dprobes/refcnt") == "0\n"
    dprobed.start()
    assert [each for each in dprobed.json("query") if each["type"] == "probe"] == []
