"""What `dprobe top` makes of answers and keys."""

from __future__ import annotations

import pytest
from dprobe.commands.top import split_keys
from dprobe.view.top import Sample, View, layout

from dprobed.wire import messages


def target(pid: int, overhead_ns: int, ended: str = "") -> messages.TargetInfo:
    return messages.TargetInfo(
        pid=pid, comm=f"c{pid}", ended=ended, overhead_ns=overhead_ns, suspended=[]
    )


def probe(pid: int, program: str, number: int, hits: int, spent_ns: int = 0) -> messages.ProbeInfo:
    return messages.ProbeInfo(
        program=program,
        number=number,
        probe=0,
        major=1,
        minor=1,
        group=0,
        pid=pid,
        module="m",
        place="f+0x0",
        state="active",
        reason="",
        hits=hits,
        ran=hits,
        missed=0,
        dropped=0,
        faulted=0,
        addresses=[],
        spent_ns=spent_ns,
    )


def status(hits: tuple[int, int, int], overhead: tuple[int, int]) -> messages.Status:
    return messages.Status(
        id=1,
        targets=[target(7, overhead[0]), target(9, overhead[1]), target(3, 0, "exited")],
        probes=[
            probe(7, "b", 1, hits[0], overhead[0] * 2 // 5),
            probe(7, "a", 2, hits[1], overhead[0] * 3 // 5),
            probe(9, "b", 1, hits[2]),
            probe(3, "b", 1, 5),
        ],
    )


def samples() -> Sample:
    first = Sample.take(status((10, 0, 100), (0, 50)), 1.0, None)
    assert all(row["rate"] == 0 for row in first.probes)
    return Sample.take(status((30, 4, 110), (200_000_000, 50)), 3.0, first)


def test_rates_and_overhead() -> None:
    sample = samples()
    assert [(row["pid"], row["rate"], row["overhead"]) for row in sample.probes] == [
        (7, 10.0, 4.0),
        (7, 2.0, 6.0),
        (9, 5.0, 0.0),
    ]
    assert [(row["pid"], row["probes"], row["hits"], row["rate"]) for row in sample.processes] == [
        (7, 2, 34, 12.0),
        (9, 1, 110, 5.0),
    ]
    assert [row["overhead"] for row in sample.processes] == [10.0, 0.0]
    assert sample.summary() == "2 processes   3 probes   17 hits/s"


def test_what_dprobed_itself_uses() -> None:
    def usage(pid: int, what: str, cpu: float) -> messages.ProcessUsage:
        return messages.ProcessUsage(pid=pid, what=what, cpu_seconds=cpu, memory=40_000_000)

    answer = status((0, 0, 0), (0, 0))
    first = Sample.take(answer, 1.0, None, [usage(5, "daemon", 3.0), usage(6, "tracer", 1.0)])
    assert first.usage_text() == "daemon 5: 0.0 % CPU, 40 MB   tracer 6: 0.0 % CPU, 40 MB"
    now = [usage(5, "daemon", 3.1), usage(6, "tracer", 2.0), usage(8, "tracer", 9.0)]
    sample = Sample.take(answer, 3.0, first, now)
    assert [(row["pid"], row["cpu"], row["memory"]) for row in sample.own] == [
        (5, 5.0, 40.0),
        (6, 50.0, 40.0),
        (8, 0.0, 40.0),
    ]
    assert sample.usage_text() == "daemon 5: 5.0 % CPU, 40 MB   2 tracers: 50.0 % CPU, 80 MB"
    assert Sample.take(answer, 1.0, None).usage_text() == ""


def test_keys_sort_and_choose() -> None:
    view, sample = View(), samples()

    def order() -> list[tuple[int, int]]:
        return [(row["pid"], row["hits"]) for row in view.rows(sample)]

    assert order() == [(7, 30), (9, 110), (7, 4)]
    for key, expected in (
        ("t", [(9, 110), (7, 30), (7, 4)]),
        ("o", [(7, 4), (7, 30), (9, 110)]),
        ("p", [(7, 4), (7, 30), (9, 110)]),
        ("n", [(7, 4), (7, 30), (9, 110)]),
    ):
        assert view.press(key) is None
        assert order() == expected, key
    view.press("\t")
    assert order() == [(7, 34), (9, 110)]
    view.press(" ")
    assert view.paused
    view.press("q")
    assert view.over


def test_removal_is_asked_for() -> None:
    view, sample = View(), samples()
    view.rows(sample)
    for _ in range(5):
        view.press("down")
    view.rows(sample)
    view.press("up")
    assert view.press("d") is None
    assert view.note == "y: remove program 1 (b) from process 9; any other key: no"
    assert view.press("n") is None
    assert view.press("d") is None
    assert view.press("y") == messages.Select(number=1, pid=9)
    view.press("\t")
    view.rows(sample)
    view.press("d")
    assert view.press("y") == messages.Select(pid=9)


def test_keys_of_several_bytes() -> None:
    assert split_keys(b"h\x1b[A\x1bOBq\xff") == ["h", "up", "down", "q", "\ufffd"]


def test_what_was_chosen_stays_chosen_where_it_goes() -> None:
    view, sample = View(), samples()
    assert view.rows(sample)[view.selected]["hits"] == 30
    view.press("down")
    assert view.rows(sample)[view.selected]["hits"] == 110
    for key in ("t", "p", "n"):
        view.press(key)
        assert view.rows(sample)[view.selected]["hits"] == 110
    # What has gone leaves the place to another.
    less = Sample.take(messages.Status(id=1, targets=[target(7, 0)], probes=[]), 4.0, sample)
    assert list(view.rows(less)) == []
    view.press("d")
    assert view.asked is None


@pytest.mark.parametrize("width", range(10, 160, 7))
def test_nothing_is_cut(width: int) -> None:
    row: dict[str, object] = {name: 123456 for _, name in View().columns}
    row |= {"comm": "a" * 15, "program": "b" * 30, "place": "c" * 40, "state": "active"}
    where = layout(View().columns, [row], width)
    names = [name for _, name, _ in where.beside]
    assert names[0] == "pid"
    assert "rate" in names
    for title, name, size in where.beside:
        assert size == max(len(title), len(str(row[name])))
    total = sum(size + 2 for _, _, size in where.beside) - 2
    assert total <= max(width, 14)
    # What is not beside the others is below, whole.
    below = where.lines_below(row, width)
    assert all(len(line) <= max(width, 5) for line in below)
    text = "".join(line[4:] for line in below).replace(" ", "")
    for title, name in where.below:
        assert f"{title}{row[name]}".replace(" ", "") in text
    assert {*names, *(name for _, name in where.below)} == {name for _, name in View().columns}


def test_what_says_nothing_is_left_out_first() -> None:
    row: dict[str, object] = {name: 123456 for _, name in View().columns}
    row |= {"comm": "sh", "program": "b", "place": "malloc", "state": "active"}
    row |= {"missed": 0, "dropped": 0}
    where = layout(View().columns, [row], 80)
    assert {name for _, name, _ in where.beside} == {name for _, name in View().columns} - {
        "missed",
        "dropped",
    }
    assert where.below == []


def test_why_maps_cannot_be_told_is_a_row() -> None:
    sample = Sample.take(status((1, 1, 1), (0, 0)), 1.0, None, maps="too much")
    view = View(shows="maps")
    assert [row["value"] for row in view.rows(sample)] == ["too much"]


def test_tab_goes_through_all_tables() -> None:
    view = View()
    seen = []
    for _ in range(4):
        seen.append(view.shows)
        view.press("\t")
    assert seen == ["probes", "processes", "maps", "probes"]
