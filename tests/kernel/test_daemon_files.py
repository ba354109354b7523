"""Programs that the kernel places in files of processes, through the daemon; on the fake device."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from dprobed.daemon.client import Refusal
from dprobed.program.bytecode import encode
from dprobed.program.rpn.parser import assemble
from dprobed.wire import messages
from dprobed.wire import resolver as wire
from dprobed.wire.limits import Limits
from tests.fakes.backend import FakeClient, FakeDaemon
from tests.fakes.kernel import FakeKernel
from tests.kernel.conftest import Run

HEAD = "name = brief\n"
FACTS = wire.FileFacts("ab", None, "pie", True, (), ())
PLACE = wire.Place(0x1040, 0x2040, "main+0x0", "main", 0, "code", 9, "ok", code=b"\x55\x90")
PLACES = {
    "main": (PLACE,),
    "unknown": (PLACE._replace(name="unknown", boundary="unknown"),),
    "chosen": (PLACE._replace(name="chosen", kind="ifunc"),),
    "usdt:a:b": (PLACE, PLACE),
    "usdt:a:one": (PLACE._replace(semaphore=0x4000),),
    "usdt:a:two": (PLACE._replace(arguments=("gone",)),),
    "main+4": (PLACE._replace(name="main+0x4", symbol_offset=4),),
}


@pytest.fixture
def brief(tmp_path: Path) -> Path:
    """A file that processes would execute."""
    path = tmp_path / "brief"
    path.write_bytes(bytes(0x2000))
    return path


async def _answer(question: wire.Question) -> wire.Answer:
    """What the resolver says of it."""
    if isinstance(question, wire.Describe):
        return FACTS
    assert isinstance(question, wire.Resolve)
    found = PLACES.get(question.spec)
    return wire.Refused(f"no {question.spec}") if found is None else wire.Places(found)


def _request(source: str, *files: object, engine: str = "kernel", **options: Any) -> Any:
    bytecode = encode(assemble(source, "x.rpn"))
    upload = messages.Upload(label="x", bytecode=bytecode, engine=engine, **options)
    return messages.InsertKernel(id=1, programs=[upload], keep=True, files=[*map(str, files)])


async def _insert(daemon: FakeDaemon, client: FakeClient, request: Any) -> messages.Inserted:
    daemon.resolvers.answer = _answer
    return await daemon.ask(client, request, messages.Inserted)


def test_a_program_in_a_file(run: Run, brief: Path) -> None:
    async def script(daemon: FakeDaemon, kernel: FakeKernel) -> None:
        root = FakeClient(0)
        await daemon.ask(root, messages.Log(id=9, follow=True), messages.Logged)
        request = _request(f"{HEAD}offset = main\nopcode = 0x55\npush pid\nlog i32 who\n", brief)
        (probe,) = (await _insert(daemon, root, request)).probes
        assert (probe.pid, probe.state, probe.engine) == (0, "active", "uprobe")
        assert (probe.module, probe.place, probe.addresses) == (str(brief), "main", [0x1040])
        kernel.hit(f"{brief.stat().st_ino}+0x1040", pid=77)
        while b"\n" not in root.lines:
            await asyncio.sleep(0)
        record = json.loads(root.lines)
        assert (record["pid"], record["place"], record["module"]) == (77, "main", str(brief))
        # Who asks reads the file, not root.
        assert daemon.resolvers.users == {((0, 0), brief.stat().st_uid)}
        await daemon.ask(root, messages.Remove(id=5, select=messages.Select()), messages.Removed)
        assert kernel.programs() == []

    run(script)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("offset = gone\nexit", "x: x.rpn:2:10: no gone"),
        ("offset = unknown\nexit", "nothing tells whether an instruction begins at unknown"),
        ("offset = chosen\nexit", "an IFUNC"),
        ("offset = usdt:a:b\nexit", "it is at 2 places"),
        ("offset = usdt:a:one\nexit", "semaphore"),
        ("offset = usdt:a:two\npush a,0\nlog 1\nexit", "arguments"),
        ("offset = main\nopcode = 0x56\nexit", "at main\\+0x0 is 55, and not the `opcode` 56"),
        ("offset = main\nat = return\nexit", "`at = return` in a process"),
        ("offset = main\nexit debugger", "`exit debugger` holds a process"),
        ("offset = main\npush addr,x\nlog 1\nexit", "`x` has an address of its own"),
        ("offset = main\npush 1\npop r,rip\nexit", "rip is not altered there"),
        ("offset = main\npush 1\npop r,rax\nexit", "altering is switched off in the kernel"),
        ("address = x:4\nwatchpoint = w\nexit", "a watchpoint is of one process"),
        ("address = 0x1000\nexit", "an address is of one process"),
        ("offset = main\npush r,xmm0\nlog 2\nexit", "floating-point"),
    ],
)
def test_what_is_refused(run: Run, brief: Path, source: str, words: str) -> None:
    async def script(daemon: FakeDaemon, kernel: FakeKernel) -> None:
        with pytest.raises(Refusal, match=words) as refused:
            await _insert(daemon, FakeClient(0), _request(HEAD + source, brief))
        assert "internal" not in str(refused.value)
        assert kernel.programs() == []
        assert (await daemon.query(FakeClient(0))).targets == []

    run(script)


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ((), "needs the path of its file"),
        (("brief",), "needs the path of its file"),
        (("/nonexistent",), "No such file"),
        (("/dev/null",), "no regular file"),
        (("/tmp",), "no regular file"),
        (("/a", "/b"), "for each program"),
    ],
)
def test_what_is_no_file(run: Run, files: tuple[str, ...], words: str) -> None:
    async def script(daemon: FakeDaemon, kernel: FakeKernel) -> None:
        with pytest.raises(Refusal, match=words):
            await _insert(daemon, FakeClient(0), _request(f"{HEAD}offset = main\nexit", *files))

    run(script)


def test_one_for_the_kernel_is_in_no_file(run: Run, brief: Path) -> None:
    async def script(daemon: FakeDaemon, kernel: FakeKernel) -> None:
        source = "name = kernel\nmodtype = kernel\noffset = schedule\nexit"
        with pytest.raises(Refusal, match="modtype kernel is in no file"):
            await _insert(daemon, FakeClient(0), _request(source, brief))

    run(script)


def test_who_may(run: Run, brief: Path) -> None:
    async def script(daemon: FakeDaemon, kernel: FakeKernel) -> None:
        request = _request(f"{HEAD}offset = main\nexit", brief)
        with pytest.raises(Refusal, match="only root may insert programs into the kernel"):
            await _insert(daemon, FakeClient(1000), request)
        (probe,) = (await _insert(daemon, FakeClient(77), request)).probes
        assert probe.state == "active"
        assert daemon.resolvers.users == {((77, 77), brief.stat().st_uid)}
        altering = _request(f"{HEAD}offset = main\npush 1\npop r,rax\nexit", brief)
        with pytest.raises(Refusal, match="may not alter the kernel"):
            await _insert(daemon, FakeClient(77), altering)
        with pytest.raises(Refusal, match="a budget is for processes"):
            budget = _request(f"{HEAD}offset = main\nexit", brief, budget=Limits(hits=1))
            await _insert(daemon, FakeClient(77), budget)

    run(script)


def test_no_process_gets_one(run: Run, brief: Path) -> None:
    async def script(daemon: FakeDaemon, kernel: FakeKernel) -> None:
        client = FakeClient()
        await daemon.attach(client)
        (upload,) = _request(f"{HEAD}offset = main\nexit").programs
        request = messages.Insert(id=2, pid=(1 << 22) + 100, programs=[upload])
        with pytest.raises(Refusal, match="every process that maps the file"):
            await daemon.ask(client, request, messages.Inserted)
        with pytest.raises(Refusal, match="or for --engine kernel, go into it"):
            plain = _request(f"{HEAD}offset = main\nexit", brief, engine="auto")
            await daemon.ask(FakeClient(0), plain, messages.Inserted)

    run(script)


def test_a_place_that_the_kernel_cannot_have(run: Run, brief: Path) -> None:
    async def script(daemon: FakeDaemon, kernel: FakeKernel) -> None:
        kernel.no_uprobes.add(brief.stat().st_ino)
        request = _request(f"{HEAD}offset = main\nexit", brief)
        (probe,) = (await _insert(daemon, FakeClient(0), request)).probes
        assert (probe.state, probe.addresses) == ("excluded", [])
        assert "places no breakpoint there" in probe.reason

    run(script)


def test_a_file_that_is_replaced_meanwhile(run: Run, brief: Path) -> None:
    async def script(daemon: FakeDaemon, kernel: FakeKernel) -> None:
        async def answer(question: wire.Question) -> wire.Answer:
            if isinstance(question, wire.Resolve):
                _another(brief).replace(brief)
            return await _answer(question)

        daemon.resolvers.answer = answer
        with pytest.raises(Refusal, match="replaced or changed meanwhile"):
            request = _request(f"{HEAD}offset = main\nexit", brief)
            await daemon.ask(FakeClient(0), request, messages.Inserted)

    run(script)


def _another(brief: Path) -> Path:
    other = brief.with_name("other")
    other.write_bytes(bytes(16))
    return other
