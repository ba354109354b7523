"""Facilities, the order of handlers, and the way of reports through them."""

from __future__ import annotations

import os
from collections.abc import Sequence

import pytest

from dprobed.daemon.insertion import Insertion
from dprobed.daemon.records.dispatcher import (
    MAX_DEAD,
    MAX_HANDLERS,
    AtHit,
    Dispatcher,
    DispatchError,
    Handler,
    Order,
    Report,
    Verdict,
)
from dprobed.daemon.target import InsertedProgram, Target
from dprobed.program.exits import NO_DUMP
from dprobed.program.rpn.parser import assemble
from dprobed.wire.messages import Upload
from dprobed.wire.protocol import RawRecord
from tests.trace_support import Root

SOURCE = "name = a\noffset = f\n  exit 3\n"


class Recorder(Handler):
    """Notes what it gets in a list that all share, and says what it was told to."""

    def __init__(
        self,
        name: str,
        seen: list[tuple[str, int]],
        verdict: Verdict = Verdict.CONTINUE,
        *,
        facility: str = "dump",
        order: Order = Order.DEFAULT,
        limit: int = 1024,
        timeout: float = 1.0,
    ) -> None:
        super().__init__(
            name, facility=facility, owner="test", order=order, limit=limit, timeout=timeout
        )
        self.verdict = verdict
        self.defective = False
        self.ids: list[int] = []
        self._seen = seen

    def offer(self, report: Report) -> Verdict:
        if self.defective:
            raise ValueError("a defect")
        self._seen.append((self.name, report.raw.hit))
        self.ids.append(report.id)
        return self.verdict


class Bench:
    """A dispatcher with a clock that stands, and one program whose records are dispatched."""

    def __init__(self) -> None:
        self.time = 100.0
        self.changes = 0
        self.seen: list[tuple[str, int]] = []
        self.died: list[Handler] = []
        self.dispatcher = Dispatcher(
            self._changed, now=lambda: self.time, on_death=self.died.append
        )
        upload = Upload(label="demo", bytecode=b"")
        insertion = Insertion(1, upload, assemble(SOURCE, "demo.rpn"))
        self.inserted = InsertedProgram(insertion, Target(os.getpid()), None, Root())
        self._hit = 0

    def _changed(self, facilities: dict[str, int], acting: list[int]) -> None:
        self.changes += 1

    def add(self, name: str, verdict: Verdict = Verdict.CONTINUE, **how: object) -> Recorder:
        handler = Recorder(name, self.seen, verdict, **how)  # type: ignore[arg-type]
        self.dispatcher.register(handler)
        self.dispatcher.arm([name])
        return handler

    def hit(self, facility: int = 3) -> int:
        self._hit += 1
        raw = RawRecord(
            1, 0, 0, 7, 7, b"t", 0, 0, 0, self._hit, facility, 1, 1, b"", (), None
        )  # fmt: skip
        self.dispatcher.dispatch(self.inserted, raw, b"{}\n")
        return self._hit

    def took(self) -> list[str]:
        """Who got what since the last look."""
        names = [name for name, _ in self.seen]
        self.seen.clear()
        return names


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_handlers_get_reports_in_their_order(bench: Bench) -> None:
    for name, order in [
        ("default1", Order.DEFAULT),
        ("last", Order.LAST),
        ("lifo1", Order.LIFO),
        ("first", Order.FIRST),
        ("default2", Order.DEFAULT),
        ("lifo2", Order.LIFO),
    ]:
        bench.add(name, order=order)
    bench.hit()
    expected = ["first", "lifo2", "lifo1", "default1", "default2", "last"]
    assert bench.took() == expected
    assert [handler.name for handler in bench.dispatcher.handlers()] == expected


@pytest.mark.parametrize("order", [Order.FIRST, Order.LAST])
def test_a_second_first_or_last_is_refused(bench: Bench, order: Order) -> None:
    bench.add("one", order=order)
    with pytest.raises(DispatchError, match=f"dump has a {order} handler already: one"):
        bench.add("two", order=order)
    bench.add("elsewhere", order=order, facility="trace")
    bench.hit()
    assert bench.took() == ["one"]


def test_only_armed_handlers_of_the_facility_are_called(bench: Bench) -> None:
    bench.add("a")
    bench.add("b")
    bench.add("other", facility="trace")
    bench.dispatcher.disarm(["a"])
    bench.hit()
    assert bench.took() == ["b"]
    bench.dispatcher.arm(["a"])
    bench.hit()
    assert bench.took() == ["a", "b"]


def test_terminate_ends_a_report(bench: Bench) -> None:
    bench.add("a", Verdict.TERMINATE)
    bench.add("b")
    bench.hit()
    assert bench.took() == ["a"]


def test_a_set_is_armed_whole_or_not_at_all(bench: Bench) -> None:
    bench.add("a")
    bench.add("b")
    bench.dispatcher.disarm(["a", "b"])
    with pytest.raises(DispatchError, match="handler nobody is not registered"):
        bench.dispatcher.arm(["a", "nobody", "b"])
    bench.hit()
    assert bench.took() == []


def test_no_report_meets_half_a_set(bench: Bench) -> None:
    slow = bench.add("slow", Verdict.PENDING, order=Order.FIRST)
    bench.add("a")
    bench.add("b")
    bench.dispatcher.disarm(["a", "b"])
    bench.hit()
    bench.dispatcher.arm(["a", "b"])
    bench.hit()
    bench.dispatcher.disarm(["b", "a"])
    bench.took()
    bench.dispatcher.answer(slow, slow.ids[0], Verdict.CONTINUE)
    assert bench.took() == []
    bench.dispatcher.answer(slow, slow.ids[1], Verdict.CONTINUE)
    assert bench.took() == ["a", "b"]


@pytest.mark.parametrize(
    ("verdict", "after"), [(Verdict.CONTINUE, ["next"]), (Verdict.TERMINATE, [])]
)
def test_an_answer_may_come_later(bench: Bench, verdict: Verdict, after: list[str]) -> None:
    slow = bench.add("slow", Verdict.PENDING)
    bench.add("next")
    bench.hit()
    assert bench.took() == ["slow"]
    assert slow.waiting == 1
    assert bench.dispatcher.answer(slow, slow.ids[0], verdict)
    assert bench.took() == after
    assert slow.waiting == 0
    assert not bench.dispatcher.answer(slow, slow.ids[0], verdict)


def test_what_is_not_answered_in_time_goes_on_and_is_counted(bench: Bench) -> None:
    slow = bench.add("slow", Verdict.PENDING, timeout=2.0)
    bench.add("next")
    bench.hit()
    bench.time += 1
    bench.hit()
    assert bench.dispatcher.next_expiry() == 102.0
    bench.time = 101.9
    bench.dispatcher.expire()
    assert slow.timeouts == 0
    bench.took()
    bench.time = 102.0
    bench.dispatcher.expire()
    assert bench.took() == ["next"]
    assert slow.timeouts == 1
    bench.time = 103.0
    bench.dispatcher.expire()
    assert slow.timeouts == 2
    assert bench.dispatcher.next_expiry() is None
    assert not bench.dispatcher.answer(slow, slow.ids[0], Verdict.TERMINATE)


def test_a_handler_that_gets_on_with_its_queue_is_not_late(bench: Bench) -> None:
    busy = bench.add("busy", Verdict.PENDING)
    for _ in range(4):
        bench.hit()
    for done in range(3):
        bench.time += 0.9
        bench.dispatcher.expire()
        bench.dispatcher.answer(busy, busy.ids[done], Verdict.CONTINUE)
    assert busy.timeouts == 0
    bench.time += 1
    bench.dispatcher.expire()
    assert busy.timeouts == 1


def test_a_full_queue_drops_and_counts_with_handler_and_probe(bench: Bench) -> None:
    slow = bench.add("slow", Verdict.PENDING, limit=2)
    full = bench.add("full", Verdict.DROPPED)
    bench.add("next")
    for _ in range(5):
        bench.hit()
    assert [name for name, _ in bench.seen].count("slow") == 2
    assert (slow.reports, slow.drops) == (2, 3)
    assert (full.reports, full.drops) == (0, 3)
    assert bench.inserted.handler_drops == {0: {"slow": 3, "full": 3}}
    assert [hit for name, hit in bench.seen if name == "next"] == [3, 4, 5]


def test_a_handler_that_fails_is_disarmed_and_its_reports_fall_to_the_next(bench: Bench) -> None:
    bad = bench.add("bad", Verdict.PENDING)
    bench.add("next")
    bench.hit()
    bench.hit()
    assert bench.took() == ["bad", "bad"]
    bad.defective = True
    third = bench.hit()
    assert sorted(hit for name, hit in bench.seen if name == "next") == [1, 2, third]
    assert (bad.alive, bad.armed, bad.failures, bad.reports) == (False, False, 1, 2)
    with pytest.raises(DispatchError, match="handler bad is dead"):
        bench.dispatcher.arm(["bad"])


def test_one_that_dies_is_listed_until_its_name_is_taken_again(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    first = bench.add("h", order=Order.FIRST)
    bench.hit()
    bench.dispatcher.fail(first)
    bench.dispatcher.fail(first)
    assert bench.died == [first]  # and is told of once
    assert [each for each in caplog.messages if "has died" in each] == [
        f"handler h of {first.facility} has died ({first.owner})"
    ]
    assert [(each.name, each.alive) for each in bench.dispatcher.handlers()] == [("h", False)]
    second = bench.add("h", order=Order.FIRST)
    bench.hit()
    assert bench.dispatcher.handlers() == [second]
    assert (second.reports, second.failures) == (2, 1)


def test_one_that_is_taken_off_is_forgotten(bench: Bench) -> None:
    slow = bench.add("slow", Verdict.PENDING)
    bench.add("next")
    bench.hit()
    bench.dispatcher.deregister(slow)
    bench.dispatcher.deregister(slow)
    assert bench.took() == ["slow", "next"]
    assert [handler.name for handler in bench.dispatcher.handlers()] == ["next"]


def test_a_report_passes_over_one_that_has_died_meanwhile(bench: Bench) -> None:
    slow = bench.add("slow", Verdict.PENDING)
    dying = bench.add("dying")
    bench.add("next")
    bench.hit()
    bench.dispatcher.fail(dying)
    bench.dispatcher.answer(slow, slow.ids[0], Verdict.CONTINUE)
    assert bench.took() == ["slow", "next"]


def test_two_that_die_of_one_report(bench: Bench) -> None:
    for name in ("a", "b"):
        bench.add(name).defective = True
    bench.add("c")
    bench.hit()
    assert bench.took() == ["c"]


def test_what_is_done_at_the_hit_is_first_and_only_while_it_is_armed(bench: Bench) -> None:
    dispatcher = bench.dispatcher
    bench.add("lifo", order=Order.LIFO)
    dump = AtHit("dump")
    dispatcher.register(dump)
    assert (dispatcher.acting, bench.changes) == ([], 1)
    dispatcher.arm(["dump"])
    assert (dispatcher.acting, bench.changes) == ([3], 2)
    assert [handler.name for handler in dispatcher.handlers()] == ["dump", "lifo"]
    bench.hit()
    assert (dump.reports, bench.took()) == (1, ["lifo"])
    dispatcher.disarm(["dump"])
    assert (dispatcher.acting, bench.changes) == ([], 3)
    assert dispatcher.facilities == {"dump": 3}


def test_handlers_of_dump_hear_of_a_dump_that_was_not_made(bench: Bench) -> None:
    bench.add("pager")
    bench.add("other", facility="mail")
    bench.hit(NO_DUMP)
    assert bench.took() == ["pager"]


def test_facilities_come_and_go_with_their_handlers(bench: Bench) -> None:
    dispatcher = bench.dispatcher
    assert dispatcher.facilities == {}
    assert dispatcher.declare("trace") == 4
    assert dispatcher.declare("trace") == 4
    assert bench.changes == 1
    mail = bench.add("m", facility="mail")
    more = bench.add("n", facility="mail")
    assert dispatcher.facilities == {"trace": 4, "mail": 16}
    assert bench.add("x", facility="other") and dispatcher.facilities["other"] == 17
    dispatcher.disarm(["m"])
    assert "mail" in dispatcher.facilities
    dispatcher.fail(mail)
    dispatcher.deregister(more)
    assert dispatcher.facilities == {"trace": 4, "other": 17}
    assert dispatcher.name_of(16) == "mail"
    assert dispatcher.name_of(99) == ""
    assert bench.changes == 4
    assert dispatcher.register(Recorder("again", [], facility="mail")) == 16


def test_the_originals_numbers(bench: Bench) -> None:
    for name in ("debugger", "dump", "trace"):
        bench.dispatcher.declare(name)
    assert bench.dispatcher.facilities == {"debugger": 1, "dump": 3, "trace": 4}


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"name": "a b"}, "`a b` is not a valid handler name"),
        ({"name": ""}, "not a valid handler name"),
        ({"name": "x" * 65}, "not a valid handler name"),
        ({"name": "h", "facility": "1"}, "`1` is not a valid facility name"),
        ({"name": "h", "facility": "budget"}, "`budget` is reserved"),
        ({"name": "taken"}, "a handler taken is registered already, by test"),
    ],
)
def test_what_is_refused(bench: Bench, how: dict[str, str], words: str) -> None:
    bench.add("taken")
    before = bench.dispatcher.handlers()
    with pytest.raises(DispatchError, match=words):
        bench.add(**how)  # type: ignore[arg-type]
    assert bench.dispatcher.handlers() == before


def test_numbers_of_handlers_are_bounded(bench: Bench) -> None:
    handlers: Sequence[Handler] = [bench.add(f"h{n}") for n in range(MAX_HANDLERS)]
    with pytest.raises(DispatchError, match=f"{MAX_HANDLERS} handlers"):
        bench.add("more")
    for handler in handlers:
        bench.dispatcher.fail(handler)
    assert len(bench.dispatcher.handlers()) == MAX_DEAD
