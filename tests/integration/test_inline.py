"""The inline engine: jumps in place of instructions, and what they must not change."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from dprobed.wire import protocol
from dprobed.wire.protocol import State
from tests.conftest import BuildTarget
from tests.integration.conftest import Start, Trace
from tests.integration.harness import TracerProcess, counting, mappings, text

pytest.importorskip("llvmlite")

FORMS = [f"site_{length}" for length in (1, 2, 3, 4, 5, 7, 9)]
COUNTS = "inc lv,0\nabort"


@pytest.fixture(params=["inline", "signal"])
def engine(request: pytest.FixtureRequest) -> str:
    """All of these are about native programs, by a jump or by a breakpoint."""
    name: str = request.param
    return name


def counter(module: object, place: str, body: str = COUNTS) -> str:
    return f'name = "{module}"\nvars = 1\noffset = {place}\n{body}\n'


@pytest.mark.parametrize("body", ["abort", "push r,rax\npush r,rsp\nlog 2\nexit"])
def test_registers_flags_and_the_red_zone_are_as_without_it(
    build_target: BuildTarget, start: Start, trace: Trace, body: str
) -> None:
    """At instructions of each length, of which those below five bytes are punned."""
    program = build_target("inline_forms.c", "-pthread")
    target = start(program, "forms")
    before = text(target.pid), mappings(target.pid)
    tracer = trace(target)
    number = tracer.put(counting(program, *FORMS, body=body))
    target.go()
    target.expect("stopped")
    assert tracer.hits(number) == [50] * len(FORMS)
    tracer.remove(number)
    tracer.detach()
    assert (text(target.pid), mappings(target.pid)) == before
    target.finish()


def test_back_to_back_and_over_the_end_of_a_page(
    build_target: BuildTarget, start: Start, trace: Trace
) -> None:
    program = build_target("inline_forms.c", "-pthread")
    target = start(program, "forms")
    tracer = trace(target)
    number = tracer.put(counting(program, "row", "row_next", "row_last"))
    again = tracer.put(counting(program, "row_next"))
    target.go()
    target.expect("stopped")
    assert tracer.hits(number) == [10, 10, 10]
    assert tracer.hits(again) == [10]
    tracer.remove(number)
    tracer.detach()
    target.finish()


def test_no_page_is_writable_and_executable(
    build_target: BuildTarget, start: Start, trace: Trace
) -> None:
    program = build_target("inline_forms.c", "-pthread")
    target = start(program, "forms")
    tracer = trace(target)
    tracer.put(counting(program, *FORMS, body="push r,rax\nlog 1\nexit"))
    assert not [line for line in mappings(target.pid) if "w" in line.split()[1]]
    opened = {each.name for each in Path(f"/proc/{target.pid}/fd").iterdir()}
    assert opened == {"0", "1", "2"}
    target.go()
    target.expect("stopped")
    tracer.detach()
    target.finish()


def test_no_handler_of_a_signal_sees_our_code(
    build_target: BuildTarget, start: Start, trace: Trace
) -> None:
    program = build_target("inline_forms.c", "-pthread")
    target = start(program, "signals")
    tracer = trace(target)
    number = tracer.put(counter(program, "probed"))
    target.go()
    target.expect("stopped")
    hits = tracer.hits(number)
    counted = tracer.vars(number)
    tracer.remove(number)
    tracer.detach()
    calls = target.finish()
    assert hits == counted == [calls]


def test_a_fault_of_the_instruction_is_one_of_its_place(
    build_target: BuildTarget, start: Start, trace: Trace
) -> None:
    program = build_target("inline_forms.c", "-pthread")
    target = start(program, "faults")
    tracer = trace(target)
    number = tracer.put(counting(program, "load"))
    target.go()
    target.expect("stopped")
    assert tracer.query(number)[0].hits == 2
    tracer.detach()
    target.finish()


def test_threads_are_counted_exactly(build_target: BuildTarget, start: Start, trace: Trace) -> None:
    program = build_target("inline_forms.c", "-pthread")
    target = start(program, "threads")
    tracer = trace(target)
    number = tracer.put(counter(program, "probed"))
    target.go()
    target.expect("stopped")
    assert tracer.hits(number) == tracer.vars(number) == [100_000]
    tracer.detach()
    assert target.finish() == 100_000


def test_each_record_has_its_thread(build_target: BuildTarget, start: Start, trace: Trace) -> None:
    """Those for which there was no room are counted: none is missing besides."""
    program = build_target("inline_forms.c", "-pthread")
    target = start(program, "threads")
    tracer = trace(target)
    number = tracer.put(counting(program, "probed", body="push tid\nlog 1\nexit"))
    target.go()
    target.expect("stopped")
    (probe,) = tracer.query(number)
    tracer.detach()
    assert (probe.hits, probe.ran, probe.missed) == (100_000, 100_000, 0)
    assert len(tracer.records) + probe.dropped == 100_000
    for record in tracer.records:
        assert int.from_bytes(record.log[-8:], "little") == record.tid != target.pid
        assert record.pid == target.pid
    assert len({record.hit for record in tracer.records}) == len(tracer.records)
    target.finish()


@pytest.mark.parametrize("follow", [False, True], ids=["detached", "followed"])
def test_children_have_their_own(
    build_target: BuildTarget, start: Start, trace: Trace, follow: bool
) -> None:
    """One that is not followed has no jump any more; one that is, counts for itself."""
    program = build_target("inline_forms.c", "-pthread")
    target = start(program, "children")
    tracer = trace(target, follow_forks=follow)
    number = tracer.put(counter(program, "probed"))
    forms = tracer.put(counting(program, *FORMS, body="push r,rax\nlog 1\nexit"))
    target.go()
    target.expect("stopped")
    assert tracer.hits(number) == tracer.vars(number) == [0]
    assert len(tracer.forked) == (20 if follow else 0)
    for forked in tracer.forked:
        ended = tracer.ends_of(forked.pid)
        assert [each.hits for each in ended.probes] == [7] + [5] * len(FORMS)
        assert ended.variables[0].words == [7]
        assert {each.program for each in tracer.records if each.pid == forked.pid} == {forms}
    tracer.detach()
    target.finish()


def test_a_child_that_can_have_none_of_its_own_goes_on_without(
    build_target: BuildTarget, start: Start, trace: Trace
) -> None:
    """Its jumps are out, so that it does not count for its parent; and that is told."""
    program = build_target("inline_forms.c", "-pthread")
    target = start(program, "narrow")
    tracer = trace(target, follow_forks=True)
    number = tracer.put(counter(program, "probed"))
    tracer.put(counting(program, *FORMS, body="push r,rax\nlog 1\nexit"))
    target.go()
    target.expect("narrow")
    target.go()
    target.expect("stopped")
    assert tracer.hits(number) == tracer.vars(number) == [0]
    told = [each for each in tracer.events if isinstance(each, protocol.TargetEvent)]
    for forked in tracer.forked:
        probes = tracer.ends_of(forked.pid).probes
        assert {each.state for each in probes} == {State.FAILED}
        assert all("cannot make a memfd" in each.reason for each in probes)
        (notice,) = [each for each in told if each.pid == forked.pid]
        assert notice.kind == "unprobed" and "cannot make a memfd" in notice.text
    assert len(tracer.forked) == 20
    tracer.detach()
    target.finish()


def test_what_is_behind_the_guard_page_of_a_stack_is_not_written_to(
    build_target: BuildTarget, start: Start, trace: Trace
) -> None:
    """A stack that has no room for a program's log ends in its guard, as if calls were too deep."""
    program = build_target("inline_forms.c", "-pthread")
    target = start(program, "deep")
    tracer = trace(target)
    head = f'name = "{program}"\nlogmax = 6000\n'
    number = tracer.put(head + "offset = probed\npush r,rax\nlog 1\nexit\n")
    target.go()
    target.expect("stopped")
    assert tracer.query(number)[0].hits == 1
    tracer.detach()
    assert target.finish() == 1


def test_a_place_may_have_many_programs(
    build_target: BuildTarget, start: Start, trace: Trace
) -> None:
    program = build_target("inline_forms.c", "-pthread")
    target = start(program, "forms")
    tracer = trace(target)
    numbers = [
        tracer.put(counting(program, "row", body="push r,rax\npush tid\nlog 2\nexit"))
        for _ in range(30)
    ]
    target.go()
    target.expect("stopped")
    assert [tracer.hits(each) for each in numbers] == [[10]] * 30
    tracer.detach()
    target.finish()


def test_in_and_out_while_threads_come_by(
    build_target: BuildTarget, start: Start, trace: Trace
) -> None:
    program = build_target("threads.c", "-pthread")
    target = start(program)
    before = text(target.pid)
    tracer = trace(target)
    target.go()
    target.expect("running")
    counted = 0
    for _ in range(20):
        number = tracer.put(counting(program, "probed", "leave"))
        counted += sum(each.hits for each in tracer.remove(number))
    target.go()
    target.expect("stopped")
    tracer.detach()
    assert text(target.pid) == before
    assert counted <= target.finish() * 2


def test_our_memory_is_used_again(build_target: BuildTarget, start: Start, trace: Trace) -> None:
    """Programs that come and go take no more and more of it."""
    program = build_target("inline_forms.c", "-pthread")
    target = start(program, "forms")
    tracer = trace(target)
    sizes = set()
    for _ in range(60):
        number = tracer.put(counting(program, *FORMS))
        tracer.remove(number)
        sizes.add(len(mappings(target.pid)))
    assert len(sizes) == 1
    number = tracer.put(counting(program, *FORMS))
    target.go()
    target.expect("stopped")
    assert tracer.hits(number) == [50] * len(FORMS)
    tracer.detach()
    target.finish()


def test_maps_are_in_shared_memory(build_target: BuildTarget, start: Start, trace: Trace) -> None:
    program = build_target("inline_forms.c", "-pthread")
    target = start(program, "threads")
    tracer = trace(target)
    number = tracer.put(
        f'name = "{program}"\nmap = calls, count, keys=1\noffset = probed\n'
        "push 7\nkey 1\nmadd calls\nabort\n"
    )
    target.go()
    target.expect("stopped")
    request = protocol.Maps(tracer.next(), target.pid, number)
    (state,) = tracer.request(request).maps
    assert (state.lost, state.entries) == (0, [([7], [100_000])])
    tracer.detach()
    target.finish()


def test_nothing_is_lost_of_maps_that_are_emptied_while_threads_count(
    build_target: BuildTarget, start: Start, trace: Trace
) -> None:
    """What is read before they are emptied, and what comes after, is all."""
    program = build_target("inline_forms.c", "-pthread")
    target = start(program, "threads")
    tracer = trace(target)
    number = tracer.put(
        f'name = "{program}"\nmap = calls, count, keys=1\nmap = sums, sum\noffset = probed\n'
        "push tid\nkey 1\nminc calls\npush 3\nmadd sums\nabort\n"
    )
    counted = summed = 0

    def empty() -> None:
        nonlocal counted, summed
        request = protocol.Maps(tracer.next(), target.pid, number, "clear")
        for state in tracer.request(request).maps:
            assert state.lost == 0
            for key, words in state.entries:
                counted += words[0] if key else 0
                summed += 0 if key else words[0]

    target.go()
    emptied = hits = 0
    while hits != 100_000:
        (hits,) = tracer.hits(number)
        # For each of them all threads stop, and no breakpoint is hit meanwhile.
        if hits >= emptied + 1000:
            empty()
            emptied = hits
    target.expect("stopped")
    empty()
    assert (counted, summed) == (100_000, 300_000)
    tracer.detach()
    target.finish()


@pytest.mark.parametrize("follow", [False, True], ids=["itself", "children"])
def test_programs_tell_the_time(
    build_target: BuildTarget, start: Start, trace: Trace, follow: bool
) -> None:
    """Right within 0.1 ms, also in children, whose clock is one of their own."""
    program = build_target("inline_forms.c", "-pthread")
    target = start(program, "children" if follow else "threads")
    tracer = trace(target, follow_forks=follow)
    tracer.put(counting(program, "probed", body="push time\nlog 1\nexit"))
    before = time.monotonic_ns()
    target.go()
    target.expect("stopped")
    after = time.monotonic_ns()
    tracer.detach()
    told = [int.from_bytes(each.log[-8:], "little") for each in tracer.records]
    assert told and before - 100_000 < min(told) and max(told) < after + 100_000
    pairs = zip(told, tracer.records, strict=True)
    assert all(one < each.time + 100_000 for one, each in pairs)
    target.finish()


def test_limits_hold_in_the_target(build_target: BuildTarget, start: Start, trace: Trace) -> None:
    program = build_target("inline_forms.c", "-pthread")
    target = start(program, "threads")
    tracer = trace(target)
    source = (
        f'name = "{program}"\nvars = 3\n'
        f"offset = probed\npass_count = 10\nmax_hits = 5\ninc lv,0\nabort\n"
        f"offset = probed\ninc lv,1\nrem\n"
        f"offset = probed\npass_count = 99990\ninc lv,2\nabort\n"
    )
    number = tracer.put(source)
    target.go()
    target.expect("stopped")
    assert tracer.vars(number) == [5, 1, 10]
    probes = tracer.query(number)
    assert [each.state for each in probes] == [State.DISABLED, State.REMOVED, State.ACTIVE]
    assert probes[0].ran == 5 and probes[2].ran == 10
    assert [each.exit for each in tracer.records] == [-2]
    tracer.detach()
    target.finish()


def test_what_it_cannot_do_is_refused_with_a_reason(
    build_target: BuildTarget, start: Start, trace: Trace
) -> None:
    program = build_target("inline_forms.c", "-pthread")
    target = start(program, "forms")
    tracer = trace(target)
    for body, reason in {
        "push r,xmm0\nlog 2\nexit": "floating point",
        "suspend\nexit": "suspend",
        "exit dump": "dump",
    }.items():
        _, (probe,) = tracer.insert(counting(program, "row", body=body), facilities={"dump": 3})
        assert probe.state is State.FAILED and reason in probe.reason, probe
    target.go()
    target.expect("stopped")
    tracer.detach()
    target.finish()


def test_a_filter_that_the_target_gives_itself_ends_what_makes_system_calls(
    build_target: BuildTarget, start: Start, trace: Trace
) -> None:
    """And only that."""
    program = build_target("inline_forms.c", "-pthread")
    target = start(program, "filters")
    tracer = trace(target)
    calling = tracer.put(counting(program, "probed", body="push comm\nlog 2\nexit"))
    other = tracer.put(counting(program, "probed"))
    target.go()
    target.expect("filtered")
    while (probe := tracer.query(calling)[0]).state is State.ACTIVE:
        pass
    assert probe.state is State.FAILED
    assert "filter" in probe.reason
    target.go()
    target.expect("stopped")
    assert tracer.query(calling)[0].ran == 0
    assert tracer.hits(other) == [1]
    tracer.detach()
    assert target.finish() == 1


def test_the_target_goes_on_without_a_tracer(
    build_target: BuildTarget, start: Start, trace: Trace
) -> None:
    """Killed; another one takes out what it has left, as the journal says."""
    program = build_target("inline_forms.c", "-pthread")
    target = start(program, "threads")
    before = text(target.pid)
    first = trace(target)
    first.put(counting(program, "probed", *FORMS))
    changed = text(target.pid)
    first.kill()
    target.tracer = None
    assert changed != before
    target.go()
    target.expect("stopped")
    second = TracerProcess(changes=first.changes)
    assert second.recover() == []
    second.end()
    after = text(target.pid)
    assert {name: after[name] for name in before} == before
    assert target.finish() == 100_000
    first.closed = True
    assert any(isinstance(each, protocol.TargetEvent) for each in second.events)
