"""Places of probes: what each becomes in a program."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

import pytest

from dprobed.program import bytecode
from dprobed.program.bt.compiler import Options, compile_script
from dprobed.program.bt.world import NoWorld, SystemCallPlaces
from tests.unit.program.bt.running import Running, refused


class World(NoWorld):
    """Some modules, with functions and static probes."""

    MODULES = ("/lib/libc.so.6", "/lib/libm.so.6")
    FUNCTIONS = ("malloc", "malloc_trim", "free", "_ZN2ns3runEi")
    STATIC = ("pg:query__start", "pg:query__done", "libc:setjmp")

    def module(self, function: str) -> str | None:
        return None if function == "nowhere" else "/bin/srv"

    def system_call(self, name: str) -> SystemCallPlaces | None:
        places = (("/lib/libc.so.6", (0x10, 0x20)), ("/bin/srv", (0x4,)))
        known = {"openat": SystemCallPlaces(257, places), "unused": SystemCallPlaces(300, ())}
        return known.get(name)

    def library(self, name: str) -> str | None:
        return {"libc": "/lib/libc.so.6", "srv": "/bin/srv"}.get(name)

    def modules(self, pattern: str) -> Sequence[str]:
        return [each for each in self.MODULES if fnmatchcase(each, pattern)]

    def functions(self, module: str, pattern: str, demangled: bool) -> Sequence[str]:
        if module == "[kernel]":
            return [e for e in ("vfs_read", "vfs_write") if fnmatchcase(e, pattern)]
        if demangled:
            return ["_ZN2ns3runEi"] if pattern in ("ns::run", "ns::run(int)") else []
        return [each for each in self.FUNCTIONS if fnmatchcase(each, pattern)]

    def static_probes(self, module: str, pattern: str) -> Sequence[str]:
        if module == "/lib/libc.so.6":
            return [each for each in self.STATIC[2:] if fnmatchcase(each, pattern)]
        if module == "/bin/srv":
            return [each for each in self.STATIC[:2] if fnmatchcase(each, pattern)]
        return []


def places(place: str, body: str = "{ @ = count() }") -> list[tuple[str, str]]:
    """Module and place of each probe; of watchpoints with how, of returns with a mark."""
    bundle = compile_script(f"{place} {body}", "test.bt", Options(arguments=("free",)), World())
    found = []
    for each in bundle.programs:
        program = bytecode.decode(each.code)
        for probe in program.probes:
            where = probe.offset or f"{probe.address} {probe.watchpoint}"
            found.append((program.header.name, where + (" return" if probe.returns else "")))
    return found


KERNEL_PLACES: list[tuple[str, list[tuple[str, str, str]]]] = [
    ("kprobe:f", [("kernel", "kernel", "f")]),
    ("k:f+0x10", [("kernel", "kernel", "f+0x10")]),
    ("kprobe:vmlinux:f", [("kernel", "kernel", "f")]),
    ("kprobe:nf_tables:f", [("nf_tables", "kmod", "f")]),
    ("kprobe:vfs_*", [("kernel", "kernel", "vfs_read"), ("kernel", "kernel", "vfs_write")]),
    ("kretprobe:f", [("kernel", "kernel", "f return")]),
    ("kr:f,k:g", [("kernel", "kernel", "f return"), ("kernel", "kernel", "g")]),
    ("tracepoint:sched:sched_switch", [("kernel", "kernel", "tracepoint:sched_switch")]),
    ("rawtracepoint:sched_switch", [("kernel", "kernel", "tracepoint:sched_switch")]),
]


@pytest.mark.parametrize(("place", "wanted"), KERNEL_PLACES)
def test_in_the_kernel(place: str, wanted: list[tuple[str, str, str]]) -> None:
    bundle = compile_script(f"{place} {{ @[comm, kstack(3)] = count() }}", "t.bt", None, World())
    programs = [bytecode.decode(each.code) for each in bundle.programs]
    found = [
        (each.header.name, each.header.modtype, f"{probe.offset}{' return' * probe.returns}")
        for each in programs
        for probe in each.probes
    ]
    assert found == wanted
    names = [i.spelling for each in programs for _, i, _ in each.instructions(each.probes[0])]
    assert "key kstack" in " ".join(names)


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("kprobe:f { print(ustack) }", "`ustack` at a place in the kernel is not there yet"),
        ("kprobe:f { @[ustack(3)] = count() }", "hint: use kstack"),
        ("kprobe:f { print(caller) }", "`caller` is not there in the kernel yet"),
        ("uprobe:m:f { print(kstack(2)) }", "`kstack` is the kernel's stack"),
        ("begin { print(kstack(2)) }", "`kstack` is of a process, and a block has none"),
    ],
)
def test_what_is_of_the_kernel_or_of_processes(script: str, message: str) -> None:
    assert message in refused(script)


LIBC = "/lib/libc.so.6"
PLACES: list[tuple[str, list[tuple[str, str]]]] = [
    ("uprobe:libc:malloc", [(LIBC, "malloc")]),
    ("u:libc:malloc", [(LIBC, "malloc")]),
    ("uprobe:/bin/bash:readline", [("/bin/bash", "readline")]),
    ("uprobe:./a:f", [("./a", "f")]),
    ("uprobe:libnone.so.2:f", [("libnone.so.2", "f")]),
    ("uprobe:libc:malloc+0x4", [(LIBC, "malloc+0x4")]),
    ("uprobe:libc:0x1234", [(LIBC, "0x1234")]),
    ("uprobe:libc:src/malloc.c:120", [(LIBC, "src/malloc.c:120")]),
    ("uprobe:libc:mal*", [(LIBC, "malloc"), (LIBC, "malloc_trim")]),
    ("uprobe:/lib/*:free", [(LIBC, "free"), ("/lib/libm.so.6", "free")]),
    ("uprobe:libc:$1", [(LIBC, "free")]),
    ("uprobe:srv:cpp:ns::run", [("/bin/srv", "_ZN2ns3runEi")]),
    ('uprobe:srv:cpp:"ns::run(int)"', [("/bin/srv", "_ZN2ns3runEi")]),
    ("uprobe:srv:ns::run(int)", [("/bin/srv", "_ZN2ns3runEi")]),
    ("uretprobe:libc:malloc", [(LIBC, "malloc return")]),
    ("uprobe:libc:malloc, ur:libc:free", [(LIBC, "malloc"), (LIBC, "free return")]),
    ("usdt:/bin/srv:pg:query__start", [("/bin/srv", "usdt:pg:query__start")]),
    ("usdt:/bin/srv:query__done", [("/bin/srv", "usdt:pg:query__done")]),
    ("usdt:/bin/srv:pg:query*",
     [("/bin/srv", "usdt:pg:query__start"), ("/bin/srv", "usdt:pg:query__done")]),
    ("usdt:libc:setjmp", [(LIBC, "usdt:libc:setjmp")]),
    ("U:pg:query__start", [("/bin/srv", "usdt:pg:query__start")]),
    ("watchpoint:0x10000000:8:rw", [("/bin/srv", "0x10000000:8 rw")]),
    ("watchpoint:010:010:w", [("/bin/srv", "0x8:8 w")]),
    # Where its address is told; the watchpoint itself is put in then.
    ("watchpoint:f+arg1:4:w", [("/bin/srv", "f")]),
    ("asyncwatchpoint:f+arg1:4:w", [("/bin/srv", "f")]),
    (
        "syscall:openat",
        [("/lib/libc.so.6", "0x10"), ("/lib/libc.so.6", "0x20"), ("/bin/srv", "0x4")],
    ),
    ("w:0x10:4:w", [("/bin/srv", "0x10:4 w")]),
    ("watch counter", [("/bin/srv", "counter w")]),
    ("watch counter:4:rw", [("/bin/srv", "counter:4 rw")]),
    ("malloc", [("/bin/srv", "malloc")]),
    ("malloc+0x10", [("/bin/srv", "malloc+0x10")]),
    ("server.c:120", [("/bin/srv", "server.c:120")]),
    ("src/server.c:120", [("/bin/srv", "src/server.c:120")]),
    ("serve:return", [("/bin/srv", "serve return")]),
    ('"ns::run"', [("/bin/srv", "_ZN2ns3runEi")]),
    ("mal*", [("/bin/srv", "malloc"), ("/bin/srv", "malloc_trim")]),
]  # fmt: skip


@pytest.mark.parametrize(("place", "wanted"), PLACES, ids=[each for each, _ in PLACES])
def test_a_place_is(place: str, wanted: list[tuple[str, str]]) -> None:
    assert places(place) == wanted
    if "watch" not in place and not place.startswith("w:"):
        assert places(place, "/pid == 1/ { @ = count() }") == wanted
        assert places(place, "if pid == 1 { @ = count() }") == wanted


def test_probes_have_their_names() -> None:
    bundle = compile_script(
        "uprobe:libc:mal*, ur:libc:free, usdt:srv:pg:query__done, begin { print(probe) } "
        "serve:return { }", "test.bt", None, World(),
    )  # fmt: skip
    assert [(each.probes, each.found) for each in bundle.programs] == [
        (
            (
                f"uprobe:{LIBC}:malloc",
                f"uprobe:{LIBC}:malloc_trim",
                f"uretprobe:{LIBC}:free",
            ),
            False,
        ),
        (("usdt:/bin/srv:pg:query__done", "uretprobe:/bin/srv:serve"), True),
    ]
    assert set(bundle.strings) >= {f"uprobe:{LIBC}:malloc", "begin"}


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("fentry:f", "`fentry` needs types of the kernel"),
        ("fexit:f", "`fexit` needs types of the kernel"),
        ("kprobe:vfs_none*", "no function of the kernel is like `vfs_none*`"),
        ("kprobe:a:b:c", "`kprobe:a:b:c` is no place in the kernel"),
        ("kprobe:*:f", "`kprobe:*:f` is no place in the kernel"),
        ("kprobe:f+", "`kprobe:f+` is no function"),
        ("kprobe:0x10", "`kprobe:0x10` is no function"),
        ("kretprobe:f+4", "`kretprobe:f+4` is no function"),
        ("t:sched:", "`t:sched:` is no tracepoint"),
        ("rt:a:b:c", "`rt:a:b:c` is no tracepoint"),
        ("t:syscalls:sys_enter_open", "hint: write kprobe:__x64_sys_open"),
        ("t:syscalls:sys_exit_open", "hint: write kretprobe:__x64_sys_open"),
        ("hardware:cycles:1", "`hardware` counts events"),
        ("software:faults:1", "`software` counts events"),
        ("profile:hz:99", "`profile` samples processors"),
        ("iter:task", "`iter` walks tables"),
        ("interval:s:0", "`interval:s:0` is no interval"),
        ("interval:q:1", "`interval:q:1` is no interval"),
        ("interval:s:08", "`interval:s:08` is no interval"),
        ("interval:s:1_0", "`interval:s:1_0` is no interval"),
        ("interval:٣s", "`interval:٣s` is no interval"),
        ("interval:s:" + "9" * 5000, "is no interval"),
        ("interval:" + "9" * 5000 + "s", "is no interval"),
        ("watchpoint:0x1000:08:w", "is no watchpoint that is possible"),
        ("watchpoint:" + "9" * 5000 + ":8:w", "is no watchpoint that is possible"),
        ("watchpoint:0x10000000000000000:8:w", "is no watchpoint that is possible"),
        ("self:signal:SIGKILL", "is no signal of ours"),
        ("uprobe:libc:none*", "no function of /lib/libc.so.6 is like `none*`"),
        ("uprobe:/none/*:f", "no module is like `/none/*`"),
        ("uprobe:srv:cpp:no::one", "/bin/srv has no function `no::one`"),
        ("uretprobe:libc:malloc+4", "only a function can be left"),
        ("usdt:/bin/srv:none", "/bin/srv has no static probe like `*:none`"),
        ("watchpoint:0x10:3:w", "cannot be watched"),
        ("watchpoint:f+argx:4:w", "is no watchpoint that is possible"),
        ("watchpoint:f+arg1:3:w", "cannot be watched"),
        ("watchpoint:nowhere+arg1:4:w", "which module has `nowhere` is not known"),
        ("syscall:nosuch", "there is no system call `nosuch`"),
        ("syscall:unused", "nothing that is known makes the system call `unused`"),
        ("syscall:openat:return", "where one is left is not seen"),
        ("nowhere", "which module has `nowhere` is not known"),
        ("some:thing", "`some:thing` is no place"),
        ("uprobe:libc", "has no function"),
        ("{", "is no place for a probe"),
    ],
)
def test_what_is_no_place_is_refused(place: str, message: str) -> None:
    assert message in refused(f"{place} {{ @ = count() }}", World())


def test_the_first_thing_that_anybody_writes() -> None:
    bundle = compile_script("uprobe:libc:malloc { @ = hist(arg0); }", "test.bt")
    (program,) = bundle.programs
    assert bytecode.decode(program.code).header.name == "libc.so.6"
    (shown,) = bundle.maps
    assert (shown.name, shown.kind, shown.key, shown.shown) == ("@", "hist", (), True)


def test_a_watchpoint_on_an_argument_is_a_program_of_its_own() -> None:
    found = compile_script("watchpoint:f+arg1:4:rw { @ = count(); }", "test.bt", None, World())
    (watch,) = found.watches
    (probe,) = bytecode.decode(watch.code).probes
    assert (probe.address, probe.watchpoint) == ("0x0:4", "rw")
    assert bytecode.decode(watch.code).header.name == "/bin/srv"


def test_a_system_call_is_told_by_its_number() -> None:
    """The same instruction may make any of them."""
    script = "syscall:openat { @[arg0, arg3] = count(); }"
    running = Running(script, world=World())
    for number in (257, 2):
        running.thread([], rax=number, rdi=1, r10=4)
        running.hit()
    assert running.map("@") == {(1, 4): 1}
