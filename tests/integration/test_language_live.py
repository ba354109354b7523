"""The language on real threads: what a program reads is true, and what it alters is what happens.

The case files hold the executor to every instruction on a table of memory; here its ``Context`` is
a stopped thread, and the target (``language.c``) says what it saw.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import pytest

from dprobed.program.bytecode import encode
from dprobed.program.exceptions import ExCode
from dprobed.program.exits import BUDGET, EXCEPTION, REM
from dprobed.program.model import select
from dprobed.program.registers import REGISTERS
from dprobed.program.rpn.parser import assemble
from dprobed.tracee import ptrace, restartable
from dprobed.wire import protocol
from dprobed.wire.protocol import State
from tests.conftest import BuildTarget
from tests.integration.conftest import Start, Trace
from tests.integration.harness import RefusedError, text
from tests.integration.language_support import Lab, items, log_each, words

PAGE = 4096
WORD = (1 << 64) - 1
USER = [register for register in REGISTERS if not register.kernel_only]
#: What of rflags the target is given here: DF and the arithmetic flags.
FLAGS = 0xCD5


@pytest.fixture(scope="module")
def module(build_target: BuildTarget) -> Path:
    return build_target("language.c", "-pthread")


@pytest.fixture
def lab(module: Path, start: Start, trace: Trace) -> Lab:
    target = start(module)
    return Lab(module, target, trace(target))


# -- registers --------------------------------------------------------------------------------


def pushed(name: str, saw: dict[str, int]) -> list[int]:
    """The words that `push r,NAME` should leave, TOS first, by what the target said."""
    register = next(each for each in USER if each.name == name)
    if register.words == 2:
        return [saw[name], saw[f"{name}.high"]]
    return [saw[register.part_of or name] & (1 << register.bits) - 1]


@pytest.mark.parametrize("letter", ["r", "u"])
def test_every_register_is_what_the_thread_has(lab: Lab, letter: str) -> None:
    body = "\n".join(f"push {letter},{each.name}\nlog {each.words}" for each in USER)
    record = lab.shot(body, "mirror_at", "m", header="logmax = 2048")
    logged = [item["words"] for item in items(record)]
    found = {each.name: have for each, have in zip(USER, logged, strict=True)}
    # The thread runs with IF and bit 1, which nobody set.
    expected = {each.name: pushed(each.name, lab.saw) for each in USER}
    assert found == expected
    assert lab.saw["rsp"] == lab.saw["kept_rsp"]


@pytest.mark.parametrize("letter", ["r", "u"])
def test_every_register_that_may_be_altered(lab: Lab, letter: str) -> None:
    values = {f"r{name}": 0x0102030405060700 + n for n, name in enumerate(
        ["ax", "bx", "cx", "dx", "si", "di", "bp", *map(str, range(8, 16))]
    )}  # fmt: skip
    values |= {"rflags": FLAGS | 0x202, "fcw": 0x37F, "fsw": 0x2900, "ftw": 0x5A, "mxcsr": 0x1F84}
    for n in range(8):
        values |= {f"fr{n}": 1 << 63 | n, f"fr{n}.high": 0x3FFF + n}
    for n in range(16):
        values |= {f"xmm{n}": 0xF0 + n << 52 | n, f"xmm{n}.high": 0xE0 + n << 48 | n}
    lines = []
    for name, value in values.items():
        if not name.endswith(".high"):
            high = [f"push {values[f'{name}.high']}"] if f"{name}.high" in values else []
            lines += [*high, f"push {value}", f"pop {letter},{name}"]
    lines += [f"push {letter},rsp", "push 256", "sub", f"pop {letter},rsp", "exit"]
    altered = {name.split(".")[0] for name in values} | {"rsp", "rip"}
    halves = {each.name for each in USER if each.part_of in altered}
    assert {each.name for each in USER if each.pop_user} <= altered | halves
    before = text(lab.target.pid)
    number = lab.put("\n".join(lines), "mirror_at")
    saw = lab.command("m")
    lab.tracer.remove(number)
    assert {name: saw[name] for name in values} == values
    assert saw["rsp"] == saw["kept_rsp"] - 256
    unaltered = lab.command("m")
    assert unaltered["rsp"] == unaltered["kept_rsp"]
    assert unaltered["rax"] != values["rax"]
    lab.tracer.detach()
    assert text(lab.target.pid) == before
    lab.target.finish()


def test_altering_a_low_half_clears_the_upper_one(lab: Lab) -> None:
    halves = [each for each in USER if each.part_of and each.pop_user and each.name != "eflags"]
    assert len(halves) == 15
    values = {half.part_of: 0x80000000 + n for n, half in enumerate(halves)}
    body = "\n".join(
        f"push {0x7700000000 | values[half.part_of]}\npop r,{half.name}" for half in halves
    )
    lab.put(f"{body}\npush {0xFFFFFFFF00000000 | FLAGS}\npop r,eflags\nexit", "mirror_at")
    saw = lab.command("m")
    assert {str(name): saw[str(name)] for name in values} == values
    assert saw["rflags"] & FLAGS == FLAGS


def test_what_a_thread_could_not_bear_is_not_set(lab: Lab) -> None:
    """The trap flag would raise SIGTRAP in the target; reserved bits of mxcsr are refused."""
    lab.put("push r,rflags\npush 0x100\nor\npop r,rflags\npush -1\npop r,mxcsr\nexit", "mirror_at")
    saw = lab.command("m")
    assert saw["mxcsr"] == 0xFFFF
    assert not saw["rflags"] & 0x100
    assert lab.command("h") == {"hook": 1}


def test_altered_vector_registers_of_one_hit_are_not_those_of_the_next(lab: Lab) -> None:
    number = lab.put(
        "push lv,0\njnz second\ninc lv,0\npush 1\npush 2\npop r,xmm3\nexit\n"
        "second:\npush r,xmm3\nlog 2\nexit",
        "mirror_at",
        "vars = 1",
    )
    first, second = dict(lab.command("m")), lab.command("m")
    assert (first["xmm3"], first["xmm3.high"]) == (2, 1)
    assert second["xmm3"] > 2
    assert words(lab.records(number)[-1]) == [second["xmm3"], second["xmm3.high"]]


def test_a_function_is_skipped_and_returns_what_the_program_chose(lab: Lab) -> None:
    number = lab.put(
        "push 4711\npop r,rax\npush r,rsp\npush mem,u64\npop r,rip\n"
        "push r,rsp\npush 8\nadd\npop r,rsp\nexit"
    )
    assert lab.command("h") == {"hook": 4711}
    lab.tracer.remove(number)
    # The instruction has 5 bytes: on to the one after it.
    lab.put("push r,rip\npush 5\nadd\npop r,rip\npush 42\npop r,rax\nexit")
    assert lab.command("h") == {"hook": 42}
    assert lab.command("n") == {}
    lab.tracer.detach()
    lab.target.finish()


# -- memory -----------------------------------------------------------------------------------

WIDTHS = {"u8": 1, "u16": 2, "u32": 4, "u64": 8}


def checksum(data: bytes | bytearray) -> int:
    total = 0
    for byte in data:
        total = total * 31 + byte & WORD
    return total


def pattern() -> bytearray:
    return bytearray(97 + n % 26 for n in range(2 * PAGE))


@pytest.mark.parametrize("kind", WIDTHS)
def test_memory_that_may_be_written(lab: Lab, kind: str) -> None:
    """In a page, across two, at the very end of the last one: these bytes, and no other."""
    width = WIDTHS[kind]
    expected = pattern()
    lines = []
    for at in (100, PAGE - 1 if width > 1 else PAGE, 2 * PAGE - width):
        lines.append(f"push {lab.pages + at}\npush 0xfedcba9876543210\npop mem,{kind}")
        lines.append(f"push {lab.pages + at}\npush mem,{kind}\nlog 1")
        expected[at : at + width] = (0xFEDCBA9876543210).to_bytes(8, "little")[:width]
    record = lab.shot("\n".join(lines))
    assert words(record) == [0xFEDCBA9876543210 & (1 << 8 * width) - 1] * 3
    assert record.exit == 0
    assert lab.command("s")["writable"] == checksum(expected)


#: What is wrong with an address in `pages`: a store that crosses its end writes nothing of itself.
BAD_STORES = {
    "read-only": (3 * PAGE, "u64"),
    "unmapped": (2 * PAGE, "u8"),
    "crosses into no memory": (2 * PAGE - 4, "u64"),
    "crosses into no memory by a byte": (2 * PAGE - 1, "u16"),
    "crosses into read-only memory": (3 * PAGE - 1, "u32"),
}


@pytest.mark.parametrize("what", BAD_STORES)
@pytest.mark.parametrize("handled", [False, True])
def test_memory_that_may_not_be_written(lab: Lab, what: str, handled: bool) -> None:
    at, kind = BAD_STORES[what]
    address = lab.pages + at
    sx = "sx bad\n" if handled else ""
    record = lab.shot(f"{sx}push {address}\npush -1\npop mem,{kind}\nexit\nbad:\nlog 3\nexit")
    triple = (ExCode.INVALID_ADDR, address, 0)
    if handled:
        assert (record.exit, record.exception, words(record)) == (0, None, list(triple))
    else:
        assert (record.exit, record.exception, record.log) == (EXCEPTION, triple, b"")
    saw = lab.command("s")
    assert (saw["writable"], saw["readable"]) == (checksum(pattern()), checksum(b"r" * PAGE))
    lab.tracer.detach()
    lab.target.finish()


def test_loads_across_a_page_s_end(lab: Lab) -> None:
    record = lab.shot(
        f"push {lab.pages + PAGE - 4}\npush mem,u64\nlog 1\n"
        f"sx bad\npush {lab.pages + 2 * PAGE - 4}\npush mem,u64\nexit\nbad:\nlog 3\nexit"
    )
    across = int.from_bytes(pattern()[PAGE - 4 : PAGE + 4], "little")
    assert words(record) == [across, ExCode.INVALID_ADDR, lab.pages + 2 * PAGE - 4, 0]


def test_vfy_tells_what_may_be_done(lab: Lab) -> None:
    pages = lab.pages
    places = {
        pages: (0, 0),
        pages + 2 * PAGE - 1: (0, 0),
        pages + 2 * PAGE: (1, 1),
        pages + 3 * PAGE: (0, 1),
        pages + 4 * PAGE - 1: (0, 1),
        pages + 4 * PAGE: (1, 1),
        0: (1, 1),
        1 << 47: (1, 1),
        0xFFFFFFFFFF600000: (1, 1),
        WORD: (1, 1),
    }
    pushes = [f"push {place}\nvfy {how}" for place in places for how in ("r", "rw")]
    own_text = log_each("push r,rip\nvfy r", "push r,rip\nvfy rw")
    record = lab.shot(f"{log_each(*pushes)}\n{own_text}")
    answers = words(record)
    assert list(zip(answers[:-2:2], answers[1:-2:2], strict=True)) == list(places.values())
    assert answers[-2:] == [0, 1]


@pytest.mark.parametrize("at", [2 * PAGE, 4 * PAGE], ids=["writable", "read-only"])
def test_logs_up_to_the_end_of_memory(lab: Lab, at: int) -> None:
    """What is there is logged, then the fault, and the exception can be handled."""
    end = lab.pages + at
    piece = (bytes(pattern()) if at == 2 * PAGE else b"r" * PAGE)[-6:]
    string = f"push 100\npush {end - 6}\nlog str\n"
    memory = f"push 100\npush {end - 6}\nlog mrf\n"
    whole = lab.shot(string.replace("100", "6") + memory.replace("100", "6"))
    found = [{"string": piece.decode()}, {"memory": piece.hex(), "address": end - 6}]
    assert (whole.exit, items(whole)) == (0, found)
    for body, item in zip((string, memory), found, strict=True):
        record = lab.shot(f"{body}push 1\nlog 1")
        assert items(record) == [item, {"fault": end}]
        assert (record.exit, record.exception) == (EXCEPTION, (ExCode.INVALID_ADDR, end, 0))
        record = lab.shot(f"sx bad\n{body}exit\nbad:\nlog 3\nexit")
        assert record.exit == 0
        assert items(record) == [item, {"fault": end}, {"words": [ExCode.INVALID_ADDR, end, 0]}]


def test_logs_of_bad_addresses(lab: Lab) -> None:
    for address in (0, lab.pages + 2 * PAGE, 1 << 47, 1 << 63, WORD):
        for log in ("str", "mrf"):
            record = lab.shot(f"push 8\npush {address}\nlog {log}")
            (item,) = items(record)
            assert item["fault"] == address
            # What is no whole number as a double is there as text, too.
            assert item.get("text") == (str(address) if address > 1 << 53 else None)
            assert record.exception == (ExCode.INVALID_ADDR, address, 0)
    assert lab.command("h") == {"hook": 1}


# -- the thread -------------------------------------------------------------------------------


def proc_ids(pid: int, tid: int) -> dict[str, list[int]]:
    lines = Path(f"/proc/{pid}/task/{tid}/status").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in lines)
    return {name: [int(word) for word in fields[name].split()] for name in ("Uid", "Gid")}


def suspended(lab: Lab) -> list[int]:
    """The threads that are held, once there is one."""
    while True:
        held = lab.tracer.request(protocol.Query(lab.tracer.next(), lab.tracer.target)).suspended
        if held:
            return held


def test_who_and_where_a_thread_is(lab: Lab) -> None:
    """A second thread, of a real user that is not its effective one, held while we look."""
    pushes = ["task", "pid", "tid", "uid", "gid", "procid", "time", "wid"]
    body = log_each(*(f"push {each}" for each in pushes)) + "\npush comm\nlog 2\nsuspend\nexit"
    cpu = min(os.sched_getaffinity(lab.target.pid))
    os.sched_setaffinity(lab.target.pid, {cpu})
    number = lab.put(body)
    begin = time.monotonic_ns()
    lab.command("t")
    (tid,) = suspended(lab)
    end = time.monotonic_ns()
    ids = proc_ids(lab.target.pid, tid)
    comm = Path(f"/proc/{lab.target.pid}/task/{tid}/comm").read_bytes().rstrip(b"\n")
    lab.tracer.request(protocol.Resume(lab.tracer.next(), lab.tracer.target, tid))
    lab.target.expect("thread done")
    (record,) = lab.records(number)
    *logged, low, high = words(record)
    found = dict(zip(pushes, logged, strict=True))
    assert begin <= found.pop("time") <= end
    assert found == {
        "task": tid,
        "pid": lab.target.pid,
        "tid": tid,
        "uid": ids["Uid"][0],
        "gid": ids["Gid"][0],
        "procid": cpu,
        "wid": WORD - 63,
    }
    assert low.to_bytes(8, "little") + high.to_bytes(8, "little") == comm.ljust(16, b"\0")
    assert comm == b"worker of long " == record.comm
    assert (record.pid, record.tid, record.uid) == (lab.target.pid, tid, ids["Uid"][0])


@pytest.mark.parametrize(
    ("call", "hit", "body"),
    [
        ("get_fpregs", 5, "push r,xmm0\nlog 2\nexit"),
        ("set_fpregs", 5, "push 1\npush 2\npop r,xmm0\npush 3\nlog 1\nexit"),
        ("rseq_address", 1, "push 3\nlog 1\nexit"),
        ("rseq_address", 1, "push procid\nlog 1\nexit"),
    ],
)
def test_a_target_that_is_killed_in_the_middle_of_a_hit(
    module: Path,
    start: Start,
    trace: Trace,
    monkeypatch: pytest.MonkeyPatch,
    call: str,
    hit: int,
    body: str,
) -> None:
    """The kill comes right before one of our ptrace calls: an end like any other."""
    works = getattr(ptrace, call)
    calls = []

    def killed_first(tid: int, *arguments: object) -> object:
        # What a remote system call needs of a thread is asked at the insertion, too.
        calls.extend([tid] * (sys._getframe(1).f_globals["__name__"] != restartable.__name__))
        if len(calls) == hit:
            os.kill(tid, signal.SIGKILL)
            with pytest.raises(ptrace.Gone):
                while True:
                    ptrace.get_siginfo(tid)
        return works(tid, *arguments)

    monkeypatch.setattr(ptrace, call, killed_first)
    target = start(module)
    lab = Lab(module, target, trace(target))
    lab.put(body)
    with pytest.raises(AssertionError, match="ended with -9"):
        lab.command("n")
    ended = lab.tracer.wait()
    assert (ended.how, ended.status) == ("killed", signal.SIGKILL)
    (probe,) = ended.probes
    missed = call == "get_fpregs"
    assert (probe.hits, probe.ran, probe.missed) == (hit, hit - missed, missed)
    assert len(lab.tracer.records) == probe.ran


# -- variables and counts ---------------------------------------------------------------------


def test_variables_are_shared_and_last(lab: Lab) -> None:
    """Locals by the probes of a program, globals by all programs; both can be reset."""
    source = (
        f'name = "{lab.module}"\nvars = 2\ngvars = 1\n'
        "offset = hook\ninc lv,0\ninc gv,0\nabort\n"
        "offset = other\npush lv,0\npop lv,1\ninc gv,0\nabort\n"
    )
    one = lab.tracer.put(source)
    two = lab.put("inc gv,0\npush gv,0\npop gv,2\nabort", header="gvars = 3")
    lab.command("n")
    lab.command("o")
    assert lab.tracer.vars(one) == [10, 10]
    assert lab.tracer.vars(two) == []
    assert lab.tracer.vars(None) == [21, 0, 20]
    assert lab.tracer.vars(one, reset=True) == [10, 10]
    assert lab.tracer.vars(None, reset=True) == [21, 0, 20]
    lab.command("h")
    assert lab.tracer.vars(one) == [1, 0]
    assert lab.tracer.vars(None) == [2, 0, 2]
    lab.tracer.remove(two)
    three = lab.put("push gv,0\nlog 1\nexit", header="gvars = 1")
    lab.command("h")
    # The first of the two that hit here has counted already.
    assert words(lab.records(three)[0]) == [3]


def test_pass_count_and_max_hits(lab: Lab) -> None:
    number = lab.put("push tid\nlog 1\nexit", probe="pass_count = 3\nmax_hits = 4")
    lab.command("n")
    lab.command("n")
    status = lab.status(number)
    assert (status.state, status.ran, status.addresses) == (State.DISABLED, 4, [])
    assert [record.hit for record in lab.records(number)] == [4, 5, 6, 7]


def test_rem_takes_only_its_own_probe_out(lab: Lab) -> None:
    number, probes = lab.tracer.insert(
        f'name = "{lab.module}"\noffset = hook\npush 1\nlog 1\nrem\n'
        "offset = other\npush 2\nlog 1\nexit\n"
    )
    assert len(probes) == 2
    before = text(lab.target.pid)
    lab.command("n")
    lab.command("o")
    assert [each.state for each in lab.tracer.query(number)] == [State.REMOVED, State.ACTIVE]
    assert text(lab.target.pid) != before
    records = lab.records(number)
    assert [(record.exit, words(record)) for record in records] == [(REM, [1]), (0, [2])]


def test_abort_leaves_no_record_but_what_it_altered(lab: Lab) -> None:
    number = lab.put("push 5\nlog 1\npush r,rip\npush 5\nadd\npop r,rip\npush 9\npop r,rax\nabort")
    assert lab.command("h") == {"hook": 9}
    assert lab.status(number).ran == 1
    assert lab.records(number) == []


@pytest.mark.parametrize("keep", [False, True])
def test_logonfault(lab: Lab, keep: bool) -> None:
    """The target's own handler sees the fault at the original place, with or without a record."""
    probe = f"logonfault = {'yes' if keep else 'no'}"
    number = lab.put("push r,rdi\nlog 1\nexit", "faulty", probe=probe)
    assert lab.command("f") == {"fault": 0x5000}
    assert lab.command("f") == {"fault": 0x5000}
    status = lab.status(number)
    assert (status.hits, status.ran, status.faulted) == (2, 2, 0 if keep else 2)
    assert [words(record) for record in lab.records(number)] == [[0x5000]] * 2 * keep


# -- how a program ends -----------------------------------------------------------------------


def test_exits(lab: Lab) -> None:
    source = lab.source("push 3\nlog 1\nexit {}", "hook", "", "")
    for name, facilities, number in (("7", {}, 7), ("dump", {"dump": 2}, 2)):
        program, _ = lab.tracer.insert(source.format(name), facilities=facilities)
        lab.command("h")
        (record,) = lab.records(program)
        assert (record.exit, words(record)) == (number, [3])
    with pytest.raises(RefusedError, match=r"no facility is called `nobody`.*there are: dump"):
        lab.tracer.insert(source.format("nobody"), facilities={"dump": 2})
    assert lab.command("h") == {"hook": 1}


def test_setmaj_and_setmin_hold_for_one_hit(lab: Lab) -> None:
    number = lab.put(
        "push lv,0\njnz on\ninc lv,0\nsetmaj 71\nsetmin 72\non:\nexit",
        header="major = 5\nvars = 1",
        probe="minor = 6",
    )
    lab.command("h")
    lab.command("h")
    assert [(each.major, each.minor) for each in lab.records(number)] == [(71, 72), (5, 6)]


@pytest.mark.parametrize(
    ("header", "exit_", "exception"),
    [
        ("jmpmax = 100", EXCEPTION, (ExCode.MAX_JMPS, 100, 0)),
        ("jmpmax = 2147483647", BUDGET, None),
    ],
)
def test_a_program_always_ends(
    lab: Lab, header: str, exit_: int, exception: tuple[int, int, int] | None
) -> None:
    record = lab.shot("push 8\nlog 1\nagain:\njmp again", header=header)
    assert (record.exit, record.exception, words(record)) == (exit_, exception, [8])
    assert lab.saw == {"hook": 1}


def test_suspended_threads_go_on_when_a_program_says_so(lab: Lab) -> None:
    holds = lab.put("push 6\nlog 1\nsuspend\npush 7\nlog 1\nexit")
    resumes = lab.put("resume\nexit", "other")
    lab.command("t")
    (tid,) = suspended(lab)
    # Only that thread is held.
    assert lab.command("f") == {"fault": 0x5000}
    events = [e for e in lab.tracer.events if isinstance(e, protocol.TargetEvent)]
    assert [(event.kind, event.tid) for event in events] == [("suspend", tid)]
    lab.command("o")
    # The thread that was let go may have ended before the command did.
    if "thread done" not in lab.target.said:
        lab.target.expect("thread done")
    assert "hook 1" in lab.target.said
    assert [words(record) for record in lab.records(holds)] == [[6, 7]]
    assert [record.exit for record in lab.records(resumes)] == [0]


# -- exceptions and heap ----------------------------------------------------------------------


def test_ex_mask_decides_what_handlers_see(lab: Lab) -> None:
    body = "sx handler\npush 1\npush 0\ndiv\nexit\nhandler:\nlog 1\nexit"
    handled = lab.shot(body)
    assert (handled.exit, words(handled)) == (0, [ExCode.DIV_BY_ZERO])
    masked = lab.shot(body, probe="ex_mask = 0x0fdf")
    assert (masked.exit, masked.exception) == (EXCEPTION, (ExCode.DIV_BY_ZERO, 0, 0))
    overflow = "push 1\npush 2\npush 3\nlog 3\npush 9\nlog 1\nexit"
    ignored = lab.shot(overflow, header="logmax = 8")
    assert (ignored.exit, words(ignored)) == (0, [9])
    raised = lab.shot(overflow, header="logmax = 8", probe="ex_mask = 0x1fff")
    assert (raised.exit, raised.exception) == (EXCEPTION, (ExCode.LOG_OVERFLOW, 8, 0))


def test_a_trace_of_an_exception_in_a_subroutine(lab: Lab) -> None:
    record = lab.shot(
        "push 5\npop lv,1\npush 1\npush 1\ntrace lv\ncall deeper\nexit\n"
        f"deeper:\npush {lab.pages + 2 * PAGE}\npush mem,u8\nret",
        header="vars = 2\nautostacktrace = yes",
    )
    assert record.exception == (ExCode.INVALID_ADDR, lab.pages + 2 * PAGE, 0)
    (item,) = items(record)
    trace = item["trace"]
    assert (trace["code"], trace["parm1"], trace["handler"]) == (1, lab.pages + 2 * PAGE, None)
    inner, outer = trace["frames"]
    assert inner["called"] > outer["called"] and outer["return"] is None
    assert (inner["locals"], outer["locals"]) == ([], [5])


def test_the_heap_is_empty_at_each_hit(lab: Lab) -> None:
    """Bytes of the target, kept in a block, read as words; the next hit's block is all zeros."""
    number = lab.put(
        "push 16\nmalloc\ndup 3\n"  # the handle, four times
        "push 8\npushh u64,1\nlog 1\n"
        f"push 8\npush {lab.pages}\npush mem,u64\nxchg\n"
        "ros 2\nros 1\n"
        f"push {lab.pages + 1}\npush mem,u64\nxchg\npush 8\npoph u64,1\n",
        header="heapmax = 64",
        probe="heap = 64",
    )
    lab.command("h")
    lab.command("h")
    assert [words(record) for record in lab.records(number)] == [[0], [0]]


# -- inserting --------------------------------------------------------------------------------


def test_opcode_is_compared_with_what_is_there(lab: Lab) -> None:
    """Also while another probe's breakpoint stands there."""
    lab.put("abort")
    one = lab.insert("abort", probe="opcode = 0x90")
    assert (one.state, one.reason) == (State.MISMATCH, "expected 90, found b8")
    several = lab.insert("abort", probe="opcode = 0xb8 0x02 0 0 0 0xc3")
    assert several.state == State.MISMATCH
    assert several.reason == "expected b8 02 00 00 00 c3, found b8 01 00 00 00 c3"
    assert lab.insert("abort", probe="opcode = 0xb8 0x01 0 0 0 0xc3").state == State.ACTIVE
    assert lab.command("h") == {"hook": 1}
    assert [each.hits for each in lab.tracer.query(2) + lab.tracer.query(4)] == [0, 1]


def test_a_group_and_its_types(lab: Lab) -> None:
    source = f'name = "{lab.module}"\n' + "".join(
        f"offset = hook\ngroup = {group}\ntype = {kind}\nminor = {minor}\nexit\n"
        for minor, (group, kind) in enumerate([(1, 1), (1, 2), (2, 1), (2, 2)], 1)
    )
    part = select(assemble(source, "x.rpn"), frozenset({2}), frozenset({1}))
    answer = lab.tracer.request(
        protocol.Insert(lab.tracer.next(), lab.tracer.target, 50, encode(part))
    )
    assert [each.probe for each in answer.probes] == [2]
    lab.command("h")
    (record,) = lab.records(50)
    assert (record.probe, record.minor) == (2, 3)


def test_programs_at_one_place_run_in_turn(lab: Lab) -> None:
    """What the first alters the second sees; an exception or `rem` of one is its own."""
    first = lab.put("push 100\npop r,rdi\npush 0\npush 0\ndiv\nexit")
    second = lab.put("push r,rdi\npush 1\nadd\npop r,rdi\nrem")
    third = lab.put("push r,rdi\nlog 1\npush r,rip\npush 5\nadd\npop r,rip\nexit")
    fourth = lab.put("push r,rdi\npop r,rax\nexit")
    assert lab.command("h") == {"hook": 101}
    assert lab.command("h") == {"hook": 100}
    assert [each.exit for each in lab.records(first)] == [EXCEPTION] * 2
    assert [each.exit for each in lab.records(second)] == [REM]
    assert [words(each) for each in lab.records(third)] == [[101], [100]]
    lab.command("n")
    assert lab.tracer.hits(fourth) == [12]
    lab.tracer.detach()
    assert lab.command("h") == {"hook": 1}
    lab.target.finish()


# -- watchpoints (every thread, and what cannot be watched: test_watchpoints.py) ----------------


def watch(lab: Lab, kind: str, address: str, body: str) -> int:
    return lab.tracer.put(
        f'name = "{lab.module}"\naddress = {address}\nwatchpoint = {kind}\n{body}\n'
    )


@pytest.mark.parametrize("length", [1, 2, 4, 8])
@pytest.mark.parametrize(("kind", "hits"), [("w", 1), ("rw", 2)])
def test_a_watch_of_each_length(lab: Lab, kind: str, hits: int, length: int) -> None:
    """`mirror` stores rax there, and it is read once to be told; its neighbour is another word."""
    number = watch(lab, kind, f"out:{length}", "push r,rax\nlog 1\nexit")
    saw = lab.command("m")
    assert lab.tracer.hits(number) == [hits]
    assert words(lab.records(number)[0]) == [saw["rax"]]


def test_an_execution_is_watched_before_it_happens(lab: Lab) -> None:
    """With a breakpoint at the same place, which comes second, and not at all if rip is moved."""
    trap = lab.put("push r,rip\nlog 1\nexit")
    watched = watch(lab, "x", "hook", "push r,rip\nlog 1\nexit")
    lab.command("n")
    assert lab.tracer.hits(trap) == lab.tracer.hits(watched) == [10]
    (seen,) = {tuple(words(record)) for record in lab.records(watched) + lab.records(trap)}
    trap = lab.put("abort")
    moved = watch(lab, "x", "hook", "push r,rip\npush 5\nadd\npop r,rip\npush 9\npop r,rax\nexit")
    assert lab.command("h") == {"hook": 9}
    assert lab.tracer.hits(trap) == [0]
    lab.tracer.remove(moved)
    assert lab.command("h") == {"hook": 1}
    assert lab.status(trap).addresses == list(seen)


def test_a_watch_can_suspend_and_remove_itself(lab: Lab) -> None:
    number = watch(lab, "x", "hook", "push 4\nlog 1\nsuspend\nrem")
    lab.command("t")
    (tid,) = suspended(lab)
    assert tid != lab.target.pid
    assert lab.command("h") == {"hook": 1}
    lab.tracer.request(protocol.Resume(lab.tracer.next(), lab.tracer.target))
    lab.target.expect("thread done")
    assert (lab.status(number).state, lab.status(number).hits) == (State.REMOVED, 1)
    assert [(record.exit, words(record)) for record in lab.records(number)] == [(REM, [4])]
    lab.tracer.detach()
    lab.target.finish()
