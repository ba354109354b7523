"""Breakpoint sites: several probes on one, watchpoints beside them, delicate instructions."""

from __future__ import annotations

import os
import signal

import pytest

from dprobed.arch.x86_64 import resume_and_wait
from dprobed.program.bytecode import encode
from dprobed.program.rpn.parser import assemble
from dprobed.wire import protocol
from dprobed.wire.protocol import State, TargetEvent
from tests.conftest import BuildTarget
from tests.integration.conftest import Start, Trace
from tests.integration.harness import RefusedError, TracerProcess, counting, text


def test_where_nothing_executable_may_be_mapped(
    build_target: BuildTarget, start: Start, trace: Trace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same hits, by plain system calls (in the tracer, which is forked from here)."""

    def denied(request: int) -> None:
        raise PermissionError("planned")

    monkeypatch.setattr(resume_and_wait, "mapped", denied)
    program = build_target("engine_odd.c")
    target = start(program)
    before = text(target.pid)
    tracer = trace(target)
    body = "push r,rax\npop r,rax\npush r,rip\nlog 1\nexit"
    number = tracer.put(counting(program, "single", body=body))
    target.go()
    target.expect("single")
    assert tracer.hits(number) == [10]
    tracer.remove(number)
    tracer.detach()
    assert text(target.pid) == before


def test_two_probes_of_one_program_on_one_place(
    build_target: BuildTarget, start: Start, trace: Trace
) -> None:
    program = build_target("engine_odd.c")
    target = start(program)
    before = text(target.pid)
    tracer = trace(target)
    number = tracer.put(counting(program, "single", "single", "single+0x0"))
    target.go()
    target.expect("single")
    assert tracer.hits(number) == [10, 10, 10]
    tracer.remove(number)
    tracer.detach()
    assert text(target.pid) == before


def test_an_execution_watch_behind_a_probed_byte(
    build_target: BuildTarget, start: Start, trace: Trace
) -> None:
    """Both show the same address to us: behind the breakpoint, and at the watched instruction."""
    program = build_target("engine_odd.c")
    target = start(program)
    tracer = trace(target)
    watch = f'name = "{program}"\naddress = after_single\nwatchpoint = x\nabort\n'
    watched = tracer.put(watch)
    probed = tracer.put(counting(program, "single"))
    target.go()
    target.expect("single")
    assert tracer.hits(watched) == [10]
    assert tracer.hits(probed) == [10]


def test_a_watch_on_the_word_that_a_probed_call_pushes(
    build_target: BuildTarget, start: Start, trace: Trace
) -> None:
    program = build_target("engine_odd.c")
    target = start(program)
    tracer = trace(target)
    watch = f'name = "{program}"\naddress = watched_word:8\nwatchpoint = w\nabort\n'
    watched = tracer.put(watch)
    probed = tracer.put(counting(program, "pushes_call"))
    target.go()
    target.expect("single")
    target.go()
    target.expect("pushes")
    assert tracer.hits(probed) == [10]
    assert tracer.hits(watched) == [10]


def test_a_fault_withdraws_what_its_own_hit_reported(
    build_target: BuildTarget, start: Start, trace: Trace
) -> None:
    """Both programs' records of the second hit go; an earlier hit's record stays."""
    program = build_target("engine_odd.c")
    target = start(program)
    tracer = trace(target)
    body = "push 1\nlog 1\nexit"
    reports = [tracer.put(counting(program, "load", body=body)) for _ in range(2)]
    other = tracer.put(counting(program, "single", body=body))
    for gate in ("single", "pushes", "loaded"):
        target.go()
        target.expect(gate)
    statuses = [tracer.query(number)[0] for number in [*reports, other]]
    assert [(each.hits, each.faulted) for each in statuses] == [(2, 1), (2, 1), (10, 0)]
    tracer.detach()
    counts = [sum(each.program == number for each in tracer.records) for number in reports]
    assert counts == [1, 1]
    assert sum(each.program == other for each in tracer.records) == 10


def test_a_fault_without_a_record_withdraws_nothing(
    build_target: BuildTarget, start: Start, trace: Trace
) -> None:
    """The second hit reports nothing; its fault then is no matter of the first one's record."""
    program = build_target("engine_odd.c")
    target = start(program)
    tracer = trace(target)
    once = (
        f'name = "{program}"\nvars = 1\noffset = load\n'
        "push lv,0\njnz done\ninc lv,0\npush 1\nlog 1\nexit\ndone:\nabort\n"
    )
    number = tracer.put(once)
    for gate in ("single", "pushes", "loaded"):
        target.go()
        target.expect(gate)
    status = tracer.query(number)[0]
    assert (status.hits, status.faulted) == (2, 0)
    tracer.detach()
    assert len(tracer.records) == 1


def test_a_signal_does_not_show_in_the_flags_that_a_probed_instruction_saves(
    build_target: BuildTarget, start: Start, trace: Trace
) -> None:
    program = build_target("engine_odd.c")
    target = start(program)
    tracer = trace(target)
    number = tracer.put(counting(program, "flags", body="suspend\nexit"))
    for gate in ("single", "pushes", "loaded"):
        target.go()
        target.expect(gate)
    target.go()
    await_suspended(tracer)
    os.kill(target.pid, signal.SIGUSR1)
    tracer.request(protocol.Resume(tracer.next(), tracer.target))
    target.expect("stopped")
    assert tracer.hits(number) == [1]
    tracer.detach()
    target.finish()


def await_suspended(tracer: TracerProcess) -> None:
    """Wait for the notice that a thread is suspended."""
    while not any(isinstance(e, TargetEvent) and e.kind == "suspend" for e in tracer.events):
        tracer.receive()


def test_probes_are_removed_under_a_suspended_thread(
    build_target: BuildTarget, start: Start, trace: Trace
) -> None:
    """It is suspended in a slot that is removed; resumed, it runs the instruction once."""
    program = build_target("engine_odd.c")
    target = start(program)
    before = text(target.pid)
    tracer = trace(target)
    number = tracer.put(counting(program, "single", body="suspend\nexit"))
    target.go()
    await_suspended(tracer)
    tracer.remove(number)
    again, probes = tracer.insert(counting(program, "after_single"))
    assert [each.state for each in probes] == [State.ACTIVE]
    assert tracer.request(protocol.Resume(tracer.next(), tracer.target)).tids == [target.pid]
    target.expect("single")
    assert tracer.hits(again) == [10]
    tracer.detach()
    assert text(target.pid) == before


def test_a_restarted_system_call_is_one_hit_whatever_its_handler_hits(
    build_target: BuildTarget, start: Start, trace: Trace
) -> None:
    program = build_target("engine_restart.c")
    target = start(program)
    tracer = trace(target)
    number = tracer.put(counting(program, "slot_read_syscall", "probed", "handler"))
    target.go()
    while not tracer.hits(number)[0]:
        continue
    for _ in range(5):
        os.kill(target.pid, signal.SIGUSR1)
        target.expect("handled")
    target.go()
    target.expect("stopped")
    assert tracer.hits(number) == [1, 5, 5]
    tracer.detach()
    target.finish()


def test_user_probes_on_the_tracers_own_places(
    build_target: BuildTarget, start: Start, trace: Trace
) -> None:
    """Probes are inserted and removed where internal breakpoints are: loader, sigaction."""
    program = build_target("loads.c")
    library = build_target(
        "plug.c", "-shared", "-fPIC", "-Wl,-soname,libplug.so.1", output="libp.so"
    )
    target = start(program, library)
    before = text(target.pid)
    tracer = trace(target)
    loader = "ld-linux-x86-64.so.2"
    tracer.remove(tracer.put(counting(loader, "_dl_debug_state")))
    tracer.remove(tracer.put(counting("libc.so.6", "sigaction")))
    number, _ = tracer.insert(counting(library.name, "plugged"))
    beside = tracer.put(counting(loader, "_dl_debug_state"))
    target.go()
    target.expect("loaded")
    assert tracer.hits(number) == [100]
    assert tracer.hits(beside)[0] >= 2
    tracer.remove(beside)
    target.go()
    target.expect("unloaded")
    assert [each.state for each in tracer.query(number)] == [State.PENDING]
    target.go()
    target.expect("stopped")
    tracer.detach()
    assert text(target.pid) == before
    target.finish()


def test_a_child_in_vfork_has_handlers_of_its_own(
    build_target: BuildTarget, start: Start, trace: Trace
) -> None:
    """What it does about SIGTRAP says nothing about its parent, whose memory it shares."""
    program = build_target("engine_trapchild.c")
    target = start(program)
    tracer = trace(target)
    number = tracer.put(counting(program, "probed"))
    target.go()
    target.expect("stopped")
    assert tracer.hits(number) == [13]
    tracer.detach()
    target.finish()


def test_signals_while_a_site_is_inserted_and_removed_under_a_waiting_system_call(
    build_target: BuildTarget, start: Start, trace: Trace
) -> None:
    """A handler may be on its way when its thread is taken into the slot, and out of it."""
    program = build_target("engine_restart.c")
    target = start(program)
    before = text(target.pid)
    tracer = trace(target)
    tracer.put(counting(program, "probed"))
    target.go()
    source = counting(program, "slot_read_syscall")
    for _ in range(300):
        put, remove = tracer.next(), tracer.next()
        insert = protocol.Insert(put, target.pid, put, encode(assemble(source, "test.rpn")))
        tracer.sock.sendall(protocol.pack(insert))
        os.kill(target.pid, signal.SIGUSR1)
        tracer.sock.sendall(protocol.pack(protocol.Remove(remove, target.pid, put)))
        target.expect("handled")
    target.go()
    target.expect("stopped")
    tracer.detach()
    assert text(target.pid) == before
    target.finish()


def test_which_engine_serves_a_probe(
    build_target: BuildTarget, start: Start, trace: Trace, engine: str
) -> None:
    program = build_target("engine_odd.c")
    target = start(program)
    tracer = trace(target)
    source = f"{counting(program, 'single')}address = watched_word:8\nwatchpoint = w\nabort\n"
    number, probes = tracer.insert(source)
    assert [each.engine for each in probes] == [engine, "watch"]
    assert [each.engine for each in tracer.query(number)] == [engine, "watch"]
    assert [each.engine for each in tracer.remove(number)] == [engine, "watch"]
    _, probes = tracer.insert(counting(program, "single"))
    assert [each.engine for each in probes] == [engine]
    # A place that there is not has none.
    _, probes = tracer.insert(counting(program, "no_such_function"))
    assert [each.engine for each in probes] == [""]


def test_an_engine_that_there_is_not_is_refused(
    build_target: BuildTarget, start: Start, trace: Trace
) -> None:
    program = build_target("engine_odd.c")
    target = start(program)
    before = text(target.pid)
    tracer = trace(target)
    with pytest.raises(
        RefusedError, match="no engine 'steam'; there are: auto, inline, signal, trap"
    ):
        tracer.insert(counting(program, "single"), engine="steam")
    assert text(target.pid) == before
