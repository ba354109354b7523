"""The real daemon and the real command in the virtual machine, with the real module."""

from __future__ import annotations

import errno
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.kernel import image, sample
from tests.kernel.device import GETPPID, KILL, check, path, text_of
from tests.kernel.machine import LOG, Machine

#: Python starts some thirty times, on an emulated processor.
pytestmark = pytest.mark.timeout(1200)

SOCKET = "/d.sock"
SIGKILL = 9
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


class Dprobed:
    """A machine in which ``dprobed`` runs."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self._python = [str(image.PYTHON), "-m"]
        self.pid = 0

    def start(self) -> None:
        """Start the daemon, and wait until it answers."""
        self.pid = self.machine.start(*self._python, "dprobed", "--socket", SOCKET)
        for _ in range(60):
            if self.dprobe("query")[0] == 0:
                return
            assert self.machine.call(KILL, self.pid, 0) == 0, text_of(self.machine, LOG)
        raise AssertionError(text_of(self.machine, LOG))

    def dprobe(self, *arguments: str) -> tuple[int, str]:
        """The exit status of the command, and what it prints."""
        return self.machine.run(*self._python, "dprobe", "--socket", SOCKET, *arguments)

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
    sources |= {"kmod.rpn": KMOD, "watch.rpn": WATCH}
    for name, text in sources.items():
        (folder / name).write_text(text)
    (folder / "dprobed.toml").write_text("load_kernel_module = true\n")
    more = image.files() | {name: folder / name for name in sources}
    more |= image.modprobe(folder, release, modules[0])
    more["etc/dprobed/dprobed.toml"] = folder / "dprobed.toml"
    machine = Machine(folder, release, modules, more, image.ENVIRONMENT)
    try:
        yield Dprobed(machine)
        assert not machine.complaints(), machine.console()[-6000:]
    finally:
        machine.close()


def test_insert_hit_query_remove(dprobed: Dprobed) -> None:
    dprobed.start()
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


def test_a_daemon_that_is_killed_leaves_nothing_in_the_kernel(dprobed: Dprobed) -> None:
    dprobed.json("insert", "/x.rpn")
    assert text_of(dprobed.machine, "/sys/module/dprobes/refcnt") != "0\n"
    check(dprobed.machine.call(KILL, dprobed.pid, SIGKILL))
    dprobed.machine.wait(dprobed.pid)
    assert text_of(dprobed.machine, "/sys/module/dprobes/refcnt") == "0\n"
    dprobed.start()
    assert [each for each in dprobed.json("query") if each["type"] == "probe"] == []
