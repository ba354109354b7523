"""Kernel programs through the daemon. The device is a fake, whose programs run in user space by the
kernel's own verifier and interpreter."""

from __future__ import annotations

import asyncio
import errno
import json
import os
from pathlib import Path
from typing import Any, Literal

import msgspec
import pytest

from dprobed.backend import Backend, BackendGone
from dprobed.daemon.client import Refusal
from dprobed.kernel import places
from dprobed.kernel.backend import KernelBackends
from dprobed.kernel.device import DeviceError, Hit, KernelProgram
from dprobed.program.bytecode import encode
from dprobed.program.rpn.parser import assemble
from dprobed.wire import messages, protocol
from dprobed.wire.limits import Limits
from tests.fakes.backend import FakeClient, FakeDaemon
from tests.fakes.kernel import FakeKernel
from tests.kernel.conftest import Run

HEAD = "name = kernel\nmodtype = kernel\n"
COUNT = HEAD + "vars = 1\ngvars = 2\noffset = schedule\ninc lv,0\ninc gv,1\npush pid\nlog i32 who\n"


def _request(*sources: str, **options: Any) -> messages.InsertKernel:
    uploads = [
        messages.Upload(label=f"x{n}", bytecode=encode(assemble(source, f"x{n}.rpn")), **options)
        for n, source in enumerate(sources)
    ]
    return messages.InsertKernel(id=1, programs=uploads, keep=True)


async def _insert(daemon: FakeDaemon, client: FakeClient, *sources: str) -> messages.Inserted:
    return await daemon.ask(client, _request(*sources), messages.Inserted)


async def _records(client: FakeClient, count: int) -> list[dict[str, Any]]:
    """So many records, as soon as they are there."""
    while client.lines.count(b"\n") < count:
        await asyncio.sleep(0)
    return [json.loads(line) for line in client.lines.splitlines()]


async def _follow(daemon: FakeDaemon, client: FakeClient) -> None:
    await daemon.ask(client, messages.Log(id=9, follow=True), messages.Logged)


MAPS = """map = calls, count, keys=2
map = last, value
offset = schedule
key comm
push pid
key 1
minc calls
push pid
mset last
abort
"""


def test_maps(run: Run) -> None:
    """They are read, reset, shown in `query`, and told of at the end."""

    async def script(daemon: FakeDaemon, kernel: FakeKernel) -> None:
        root = FakeClient(0)
        inserted = await _insert(daemon, root, HEAD + MAPS)
        select = messages.Select(number=inserted.programs[0].number)
        kernel.hit("schedule", pid=77, count=3)

        async def maps(
            reset: Literal["", "clear", "zero"] = "",
        ) -> dict[str, list[tuple[list[int | str], list[int]]]]:
            asking = messages.Maps(id=5, select=select, reset=reset)
            answer = await daemon.ask(root, asking, messages.MapListing)
            return {one.map: [(e.key, e.cell) for e in one.entries] for one in answer.maps}

        counted = [(["target", 100], [3])]
        assert await maps() == {"calls": counted, "last": [([], [100])]}
        status = await daemon.query(root)
        assert [(use.map, use.entries, use.lost) for use in status.map_use] == [
            ("calls", 1, 0),
            ("last", 1, 0),
        ]
        assert await maps("zero") == {"calls": counted, "last": [([], [100])]}
        assert (await maps("clear"))["calls"] == [(["target", 100], [])]
        assert (await maps())["calls"] == []
        kernel.hit("schedule", pid=77, count=2)
        removed = await daemon.ask(root, messages.Remove(id=6, select=select), messages.Removed)
        found = {one.map: [(e.key, e.cell) for e in one.entries] for one in removed.maps}
        assert found["calls"] == [(["target", 100], [2])]

    run(script)


def test_from_insertion_to_removal(run: Run) -> None:
    async def script(daemon: FakeDaemon, kernel: FakeKernel) -> None:
        root = FakeClient(0)
        await _follow(daemon, root)
        inserted = await _insert(daemon, root, COUNT)
        (probe,) = inserted.probes
        assert (probe.pid, probe.place, probe.state) == (0, "schedule", "active")
        assert (probe.engine, probe.addresses) == ("kprobe", [0xFFFFFFFF81001000])
        kernel.hit("schedule", pid=77, count=3)
        kernel.hit("do_sys_openat2")
        one, _, three = await _records(root, 3)
        assert [each["name"] for each in one["log"]] == ["who"]
        assert (three["hit"], three["pid"], three["tid"], three["cpu"]) == (3, 77, 78, 1)
        assert (three["comm"], three["place"], three["module"]) == ("task", "schedule", "kernel")
        assert (three["backend"], three["exit"]) == ("kernel", "exit")
        status = await daemon.query(root)
        assert [(each.pid, each.comm, each.backend) for each in status.targets] == [
            (0, "kernel", "kernel")
        ]
        assert [(each.hits, each.ran) for each in status.probes] == [(3, 3)]
        assert [each.words for each in status.variables] == [[3]]
        number = inserted.programs[0].number
        locals_ = messages.Vars(id=4, number=number, reset=True)
        assert (await daemon.ask(root, locals_, messages.Words)).words == [3]
        assert (await daemon.ask(root, locals_, messages.Words)).words == [0]
        globals_ = messages.Vars(id=4, pid=0)
        assert (await daemon.ask(root, globals_, messages.Words)).words == [0, 3]
        with pytest.raises(Refusal, match="not traced"):
            await daemon.ask(FakeClient(1000), globals_, messages.Words)
        remove = messages.Remove(id=5, select=messages.Select(number=number))
        (out,) = (await daemon.ask(root, remove, messages.Removed)).probes
        assert (out.state, out.hits) == ("removed", 3)
        assert kernel.programs() == []
        assert (await daemon.query(root)).targets == []
        # And again: it is another session of the device.
        await _insert(daemon, root, COUNT)

    run(script)


def test_what_is_inserted_again_and_again_takes_no_more_memory(run: Run) -> None:
    async def script(daemon: FakeDaemon, kernel: FakeKernel) -> None:
        root = FakeClient(0)
        await _follow(daemon, root)
        await _insert(daemon, root, COUNT)
        target = daemon.app.core.targets.by_pid[messages.KERNEL]
        for _ in range(3):
            added = await _insert(daemon, root, COUNT)
            kernel.hit("schedule")
            select = messages.Select(number=added.programs[0].number)
            await daemon.ask(root, messages.Remove(id=2, select=select), messages.Removed)
        assert {each["place"] for each in await _records(root, 6)} == {"schedule"}
        assert len(target.places) == 1

    run(script)


def test_a_record_goes_through_the_handlers_of_its_facility(run: Run) -> None:
    async def script(daemon: FakeDaemon, kernel: FakeKernel) -> None:
        root = FakeClient(0)
        await _follow(daemon, root)
        await _insert(daemon, root, HEAD + "offset = schedule\npush 5\nlog 1\nexit trace\n")
        kernel.hit("schedule")
        (record,) = await _records(root, 1)
        assert (record["exit"], record["log"]) == ("trace", [{"words": [5]}])

    run(script)


@pytest.mark.parametrize(
    ("source", "options", "words"),
    [
        ("offset = tracepoint:sched_switch\npush 1\npop r,rdi\nexit", {}, "no registers to alter"),
        ("offset = hook:ledger_posted\npush 1\npop r,rdi\nexit", {}, "at a hook there are no reg"),
        ("offset = schedule\nexit dump once", {}, "x0.rpn:4:1: the module dprobes cannot do that"),
        ("offset = schedule\nexit debugger", {}, "exit debugger"),
        ("address = 0x1000\nexit", {}, "write the place as `offset = function\\+N`"),
        ("offset = schedule\nopcode = 0x55\nexit", {}, "`opcode` is not compared"),
        ("offset = schedule\nlogonfault = yes\nexit", {}, "logonfault"),
        ("offset = schedule\npush 1\npush 2\npop mem,u8\nexit", {}, "x0: x0.rpn:6:1: altering"),
        ("offset = schedule\nnop\npush r,xmm0\nlog 2\nexit", {}, "floating-point"),
        ("offset = schedule\npush addr,no_such_symbol\nlog 1\nexit", {}, "no_such_symbol"),
        ("offset = schedule\nexit", {"budget": Limits(hits=1)}, "budget"),
        (
            "map = n, count, keys=1\noffset = schedule\nkey ustack\nminc n\nabort",
            {},
            "`ustack` is of programs in processes",
        ),
    ],
)
def test_what_the_kernel_cannot_do_is_refused(
    run: Run, source: str, options: dict[str, Any], words: str
) -> None:
    async def script(daemon: FakeDaemon, kernel: FakeKernel) -> None:
        root = FakeClient(0)
        with pytest.raises(Refusal, match=words):
            await daemon.ask(root, _request(HEAD + source, **options), messages.Inserted)
        assert (await daemon.query(root)).targets == []

    run(script)


def test_a_dump_is_a_record(run: Run) -> None:
    async def script(daemon: FakeDaemon, kernel: FakeKernel) -> None:
        root = FakeClient(0)
        await _follow(daemon, root)
        await _insert(daemon, root, HEAD + "offset = schedule\npush 5\nlog i32 own\nexit dump")
        kernel.hit("schedule")
        (record,) = await _records(root, 1)
        assert (record["exit"], record["backend"]) == ("dump", "kernel")
        assert [each["value"] for each in record["log"]] == [5]

    run(script)


@pytest.mark.parametrize("name", ['"/lib/modules/dpmod.ko"', '".."', '"a:b"', "x" * 56])
def test_what_no_kernel_module_is_called(run: Run, name: str) -> None:
    async def script(daemon: FakeDaemon, kernel: FakeKernel) -> None:
        source = f"name = {name}\nmodtype = kmod\noffset = f\nexit\n"
        with pytest.raises(Refusal, match="as lsmod"):
            await _insert(daemon, FakeClient(0), source)

    run(script)


def test_of_several_programs_all_go_in_or_none(run: Run) -> None:
    async def script(daemon: FakeDaemon, kernel: FakeKernel) -> None:
        root = FakeClient(0)
        bad = HEAD + "offset = schedule\nexit debugger\n"
        with pytest.raises(Refusal, match="exit debugger"):
            await _insert(daemon, root, COUNT, bad)
        assert kernel.programs() == []

    run(script)


def test_a_place_that_is_not_there_and_those_that_are_excluded(run: Run) -> None:
    async def script(daemon: FakeDaemon, kernel: FakeKernel) -> None:
        root = FakeClient(0)
        places = ("no_such_function", "exc_page_fault", "dprobes_own", "fs.c:12", "twice",
                  "schedule+0x5")  # fmt: skip
        source = HEAD + "".join(f"offset = {place}\nexit\n" for place in places)
        found = (await _insert(daemon, root, source)).probes
        assert [each.state for each in found] == [
            *(
                "invalid offset",
                "excluded",
                "excluded",
                "invalid offset",
                "invalid offset",
                "active",
            )
        ]
        reasons = ("no function of that name", "NOKPROBE", "module dprobes itself", "`function`",
                   "2 symbols `twice`")  # fmt: skip
        for each, words in zip(found, reasons, strict=False):
            assert words in each.reason
        # And that stays, to the end.
        removed = await daemon.ask(
            root, messages.Remove(id=5, select=messages.Select()), messages.Removed
        )
        assert [(each.state, each.reason) for each in removed.probes[:5]] == [
            (each.state, each.reason) for each in found[:5]
        ]

    run(script)


KMOD = "name = dpmod\nmodtype = kmod\noffset = dpmod_init\nexit\noffset = dpmod_exit\nexit\n"


def test_a_module_that_comes_and_goes(run: Run) -> None:
    async def script(daemon: FakeDaemon, kernel: FakeKernel) -> None:
        root = FakeClient(0)
        pending: tuple[str, str, list[int]] = ("pending", "the module dpmod is not loaded", [])
        for there in (False, True, False):
            kernel.module(there=there)
            if not there:
                wanted = [pending, pending]
            else:
                missing = "the module dpmod has no function of that name"
                wanted = [("active", "", [0xFFFFFFFFC0000000]), ("invalid offset", missing, [])]
            probes = (await daemon.query(root)).probes or (await _insert(daemon, root, KMOD)).probes
            assert [(each.state, each.reason, each.addresses) for each in probes] == wanted

    run(script)


@pytest.fixture(autouse=True)
def kallsyms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The symbols of the kernel."""
    path = tmp_path / "kallsyms"
    path.write_text(
        "ffffffff81001000 T schedule\n"
        "ffffffff81002000 t twice\n"
        "ffffffff81003000 t twice\n"
        "ffffffff82000000 D jiffies\n"
        "ffffffff82000010 d count\n"
        "ffffffff82000020 d count\n"
        "000000000001fb00 D current_task\n"
        "ffffffffc0001000 b count\t[dpmod]\n"
        "ffffffffc0001008 b jiffies\t[other]\n"
    )
    monkeypatch.setattr(places, "_SYMBOLS", path)
    return path


def test_watchpoints(run: Run) -> None:
    async def script(daemon: FakeDaemon, kernel: FakeKernel) -> None:
        root = FakeClient(0)
        watched = {
            "jiffies:8": ("w", "active", "", 0xFFFFFFFF82000000),
            "jiffies+0x8:4": ("rw", "active", "", 0xFFFFFFFF82000008),
            "0xffffffff82001001": ("x", "active", "", 0xFFFFFFFF82001001),
            "jiffies:3": ("w", "watchpoint length invalid", "1, 2, 4 or 8 bytes", 0),
            "jiffies+0x1:8": ("w", "watchpoint length invalid", "aligned", 0),
            "jiffies": ("w", "watchpoint length invalid", "symbol:length", 0),
            "jiffies-0x8:8": ("io", "failed", "no watchpoints on I/O ports", 0),
            "no_such:8": ("w", "invalid offset", "no symbol `no_such`", 0),
            "count:4": ("w", "invalid offset", "2 symbols `count`", 0),
            "current_task:8": ("w", "invalid offset", "per-CPU", 0),
            "0x1000:8": ("rw", "invalid offset", "not an address of the kernel", 0),
            "jiffies+0x20:4": ("w", "active", "", 0xFFFFFFFF82000020),
            "jiffies+0x24:4": ("w", "no debug register", "four debug registers", 0),
        }
        source = HEAD + "".join(
            f"address = {place}\nwatchpoint = {kind}\nexit\n"
            for place, (kind, *_) in watched.items()
        )
        found = (await _insert(daemon, root, source)).probes
        for each, (_, state, words, address) in zip(found, watched.values(), strict=True):
            assert (each.state, each.addresses) == (state, [address] if address else []), each
            assert words in each.reason
            assert bool(each.reason) == bool(words), each
            assert each.engine == ("watch" if address else "")
        kernel.hit("0xffffffff82000008")
        counts = [each.hits for each in (await daemon.query(root)).probes]
        assert counts == [0, 1, *[0] * 11]

    run(script)


def test_data_of_the_programs_own_module_is_meant(run: Run) -> None:
    async def script(daemon: FakeDaemon, kernel: FakeKernel) -> None:
        async def watched(module: str, data: str) -> messages.ProbeInfo:
            source = f"name = {module}\nmodtype = kmod\naddress = {data}:4\nwatchpoint = w\nexit\n"
            return (await _insert(daemon, FakeClient(0), source)).probes[0]

        assert (await watched("dpmod", "count")).addresses == [0xFFFFFFFFC0001000]
        # The kernel has data of that name, too.
        for data in ("jiffies", "its"):
            probe = await watched("gone_away", data)
            assert (probe.state, probe.addresses) == ("failed", [])
            assert "the module gone_away is not loaded" in probe.reason

    run(script)


def test_a_function_of_a_module_that_is_awaited_is_not_looked_for_in_the_kernel(run: Run) -> None:
    async def script(daemon: FakeDaemon, kernel: FakeKernel) -> None:
        source = "name = dpmod\nmodtype = kmod\noffset = twice\nexit\n"
        (probe,) = (await _insert(daemon, FakeClient(0), source)).probes
        assert probe.state == "pending"

    run(script)


def test_symbols_that_the_kernel_hides_or_has_twice(run: Run, kallsyms: Path) -> None:
    async def script(daemon: FakeDaemon, kernel: FakeKernel) -> None:
        root = FakeClient(0)
        pushes = HEAD + "offset = schedule\npush addr,{}\nlog 1\nexit\n"
        with pytest.raises(Refusal, match="2 symbols `count`"):
            await _insert(daemon, root, pushes.format("count"))
        lines = kallsyms.read_text().splitlines()
        kallsyms.write_text("".join(f"{0:016x}{line[16:]}\n" for line in lines))
        with pytest.raises(Refusal, match="CAP_SYSLOG"):
            await _insert(daemon, root, pushes.format("jiffies"))
        source = HEAD + "address = jiffies:8\nwatchpoint = w\nexit\n"
        (probe,) = (await _insert(daemon, root, source)).probes
        assert probe.state == "failed"
        assert "CAP_SYSLOG" in probe.reason

    run(script)


def test_tracepoints(run: Run) -> None:
    async def script(daemon: FakeDaemon, kernel: FakeKernel) -> None:
        root = FakeClient(0)
        source = HEAD + "".join(
            f"offset = tracepoint:{name}\nexit\n" for name in ("task_rename", "no_such")
        )
        source += 'offset = "tracepoint:"\nexit\noffset = "tracepoint:a b"\nexit\n'
        found = (await _insert(daemon, root, source)).probes
        assert [(each.state, each.engine) for each in found] == [
            ("active", "tracepoint"),
            *[("invalid offset", "")] * 3,
        ]
        assert "`tracepoint:name`" in found[2].reason
        assert found[1].reason == "the kernel has no tracepoint of that name"
        source = "name = dpmod\nmodtype = kmod\noffset = tracepoint:its\nexit\n"
        (probe,) = (await _insert(daemon, root, source)).probes
        assert (probe.state, "tracepoints of modules" in probe.reason) == ("invalid offset", True)

    run(script)


def test_returns(run: Run) -> None:
    async def script(daemon: FakeDaemon, kernel: FakeKernel) -> None:
        root = FakeClient(0)
        await _follow(daemon, root)
        source = HEAD + "offset = schedule\nat = return\nentry:\npush 7\npop e,2\nreturn:\n"
        found = await _insert(daemon, root, source + "push e,2\nlog 1\nexit trace\n")
        assert [(each.state, each.engine) for each in found.probes] == [("active", "kretprobe")]
        kernel.hit("schedule")
        (record,) = await _records(root, 1)
        assert record["log"] == [{"words": [7]}]

    run(script)


def test_hooks(run: Run) -> None:
    async def script(daemon: FakeDaemon, kernel: FakeKernel) -> None:
        root = FakeClient(0)
        names = ("ledger_posted", "no_such", "taken")
        for head in (HEAD, "name = dpmod\nmodtype = kmod\n"):
            source = head + "".join(f"offset = hook:{name}\nexit\n" for name in names)
            found = (await _insert(daemon, root, source)).probes
            assert [(each.state, each.engine, each.reason) for each in found] == [
                ("active", "hook", ""),
                (
                    "invalid offset",
                    "",
                    "no module has declared a hook of that name (/proc/dprobes/hooks lists them)",
                ),
                ("excluded", "", "the hook takes one exit only, and has one"),
            ]

    run(script)


def test_hits_that_were_missed_are_told_by_why(run: Run) -> None:
    async def script(daemon: FakeDaemon, kernel: FakeKernel) -> None:
        root = FakeClient(0)
        await _insert(daemon, root, COUNT)
        kernel.hit("schedule", count=4)
        (program,) = kernel.programs()
        program.recursed, program.missed = 3, 2
        (probe,) = (await daemon.query(root)).probes
        assert (probe.hits, probe.ran, probe.missed) == (9, 4, 5)
        assert "3 while a program ran" in probe.reason
        assert "2 passed over by the kernel" in probe.reason

    run(script)


def test_a_probe_that_ends_by_itself(run: Run) -> None:
    async def script(daemon: FakeDaemon, kernel: FakeKernel) -> None:
        root = FakeClient(0)
        await _follow(daemon, root)
        ends = "max_hits = 2\nexit\noffset = do_sys_openat2\nrem\n"
        await _insert(daemon, root, HEAD + "offset = schedule\n" + ends)
        kernel.hit("schedule", count=5)
        kernel.hit("do_sys_openat2", count=5)
        assert len(await _records(root, 3)) == 3
        status = await daemon.query(root)
        assert [each.state for each in status.probes] == ["disabled", "removed"]

    run(script)


def test_whoever_inserted_a_program_is_told_which_of_its_probes_has_ended(run: Run) -> None:
    async def script(daemon: FakeDaemon, kernel: FakeKernel) -> None:
        root = FakeClient(0)
        source = HEAD + "offset = schedule\nexit\noffset = do_sys_openat2\nrem\n"
        request = msgspec.structs.replace(_request(source), keep=False)
        await daemon.ask(root, request, messages.Inserted)
        kernel.hit("schedule")
        kernel.hit("do_sys_openat2")
        while not root.heard(messages.StateChange):
            await asyncio.sleep(0)
        (change,) = root.heard(messages.StateChange)
        assert [(each.place, each.state) for each in change.probes] == [
            ("do_sys_openat2", "removed")
        ]

    run(script)


def test_a_defect_in_the_daemon_takes_the_probes_out(kernel: FakeKernel) -> None:
    async def script() -> None:
        def on_event(_: Backend, event: protocol.Event) -> None:
            if isinstance(event, protocol.Records):
                raise ZeroDivisionError

        backend = await KernelBackends(kernel.calls).start(on_event, uid=0, gid=0, owner=0)
        code = encode(assemble(COUNT, "x.rpn"))
        await backend.request(lambda seq: protocol.Insert(seq=seq, pid=0, program=1, bytecode=code))
        kernel.hit("schedule")
        assert "internal error in the daemon" in await backend.gone
        assert kernel.programs() == []
        with pytest.raises(BackendGone):
            await backend.request(lambda seq: protocol.Query(seq=seq, pid=0))

    asyncio.run(asyncio.wait_for(script(), 60))


def test_only_root_may(run: Run) -> None:
    async def script(daemon: FakeDaemon, kernel: FakeKernel) -> None:
        with pytest.raises(Refusal, match="only root may insert programs into the kernel"):
            await _insert(daemon, FakeClient(1000), COUNT)
        await _insert(daemon, FakeClient(0), COUNT)
        assert (await daemon.query(FakeClient(1000))).probes == []

    run(script)


def test_whom_the_configuration_names_may(run: Run) -> None:
    async def script(daemon: FakeDaemon, kernel: FakeKernel) -> None:
        named, root = FakeClient(77), FakeClient(0)
        await _follow(daemon, named)
        await _insert(daemon, root, COUNT)
        inserted = await _insert(daemon, named, HEAD + "offset = schedule\npush 5\nlog 1\nexit")
        kernel.hit("schedule", pid=5)
        # Only what is the user's own is seen, and can be taken out.
        (record,) = await _records(named, 1)
        assert record["log"] == [{"words": [5]}]
        assert [each.probe for each in (await daemon.query(named)).probes] == [0]
        assert len((await daemon.query(root)).probes) == 2
        altering = HEAD + "offset = schedule\npush 1\npop r,rax\nexit"
        with pytest.raises(Refusal, match="user 77 may not alter the kernel: x0 needs alter for"):
            await _insert(daemon, named, altering)
        dumping = HEAD + "offset = schedule\nexit dump"
        with pytest.raises(Refusal, match="user 77 may not dump the kernel: x0 needs dump for"):
            await _insert(daemon, named, dumping)
        for number, count in ((1, 0), (inserted.programs[0].number, 1)):
            remove = messages.Remove(id=5, select=messages.Select(number=number))
            try:
                removed = len((await daemon.ask(named, remove, messages.Removed)).probes)
            except Refusal:
                removed = 0
            assert removed == count
        assert len(kernel.programs()) == 1

    run(script)


def test_without_the_module_or_with_another_one(run: Run) -> None:
    async def script(daemon: FakeDaemon, kernel: FakeKernel) -> None:
        root = FakeClient(0)
        kernel.loaded = False
        with pytest.raises(Refusal, match="module dprobes, which is not loaded"):
            await _insert(daemon, root, COUNT)
        kernel.loaded, kernel.version = True, (1, 0)
        with pytest.raises(Refusal, match="of another version"):
            await _insert(daemon, root, COUNT)
        assert daemon.app.core.targets.by_pid == {}

    run(script)


@pytest.mark.parametrize("problem", ["", "modprobe: FATAL: Module dprobes not found"])
def test_the_module_is_loaded_where_the_configuration_says_so(
    kernel: FakeKernel, problem: str
) -> None:
    async def script() -> None:
        kernel.loaded, kernel.loading = False, problem
        backends = KernelBackends(kernel.calls, load=True)
        if problem:
            with pytest.raises(DeviceError, match="cannot be loaded: modprobe: FATAL") as caught:
                await backends.start(lambda *_: None, uid=0, gid=0, owner=0)
            assert "dprobe doctor" in str(caught.value)
        else:
            backend = await backends.start(lambda *_: None, uid=0, gid=0, owner=0)
            # It is there: nobody loads it again.
            kernel.loading = None
            await backends.start(lambda *_: None, uid=0, gid=0, owner=0)
            assert not backend.gone.done()
        assert await backends.stop(5) == 0

    asyncio.run(asyncio.wait_for(script(), 60))


def test_a_program_for_processes_does_not_go_into_the_kernel(run: Run) -> None:
    async def script(daemon: FakeDaemon, kernel: FakeKernel) -> None:
        with pytest.raises(Refusal, match="only programs with `modtype = kernel`"):
            await _insert(daemon, FakeClient(0), "name = libc.so.6\noffset = read\nexit\n")

    run(script)


def test_two_insert_while_the_last_is_removed(run: Run) -> None:
    async def script(daemon: FakeDaemon, kernel: FakeKernel) -> None:
        root = FakeClient(0)
        first = await _insert(daemon, root, COUNT)
        select = messages.Select(number=first.programs[0].number)
        await asyncio.gather(
            daemon.ask(root, messages.Remove(id=2, select=select), messages.Removed),
            *(_insert(daemon, root, HEAD + f"id = {n}\noffset = schedule\nexit\n") for n in (1, 2)),
            return_exceptions=True,
        )
        live = [each.program_id for each in (await daemon.ask(
            root, messages.Programs(id=3), messages.Listing)).programs]  # fmt: skip
        assert len(kernel.programs()) == len(live)

    run(script)


def test_records_that_cannot_be_read_take_the_probes_out(
    kernel: FakeKernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else they would go on, and what they record would come to nobody."""

    def broken(_: KernelProgram) -> list[Hit]:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    async def script() -> None:
        backend = await KernelBackends(kernel.calls).start(lambda *_: None, uid=0, gid=0, owner=0)
        code = encode(assemble(COUNT, "x.rpn"))
        await backend.request(lambda seq: protocol.Insert(seq=seq, pid=0, program=1, bytecode=code))
        kernel.hit("schedule")
        assert "cannot be read: Input/output error" in await backend.gone
        assert kernel.programs() == []

    monkeypatch.setattr(KernelProgram, "read", broken)
    asyncio.run(asyncio.wait_for(script(), 60))
