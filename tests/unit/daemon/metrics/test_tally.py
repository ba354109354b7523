"""Counters only grow, and names are bounded, whatever comes and goes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dprobed.daemon.metrics.tally import OTHER, Tally


def test_what_a_source_counted_stays_when_it_goes() -> None:
    tally = Tally()
    tally.look("one", ("opens", "cat"), 0, {"hits": 5})
    tally.look("one", ("opens", "cat"), 0, {"hits": 7})
    tally.look("two", ("opens", "cat"), 0, {"hits": 1})
    tally.end("one")
    assert tally.sums() == {("opens", "cat"): {"hits": 8}}
    tally.look("three", ("opens", "cat"), 0, {"hits": 2})
    assert tally.sums() == {("opens", "cat"): {"hits": 10}}


def test_a_process_that_executes_another_program_counts_on_under_that_name() -> None:
    tally = Tally()
    tally.look("one", ("opens", "sh"), 0, {"hits": 5})
    tally.look("one", ("opens", "cat"), 0, {"hits": 7})
    assert tally.sums() == {("opens", "sh"): {"hits": 5}, ("opens", "cat"): {"hits": 2}}


def test_what_was_counted_before_a_restart_is_not_told_again() -> None:
    tally = Tally()
    tally.carry("one", ("opens", "cat"), 0, {"hits": 1000})
    tally.look("one", ("opens", "cat"), 0, {"hits": 1000})
    tally.look("one", ("opens", "cat"), 0, {"hits": 1003})
    assert tally.sums() == {("opens", "cat"): {"hits": 3}}


def test_a_user_who_makes_names_takes_nobody_elses() -> None:
    tally = Tally(of_a_user=2, in_all=3)
    tally.look("root's", ("opens", "cat"), 0, {"hits": 1})
    for number in range(50):
        tally.look(number, (f"p{number}", "cat"), 1000, {"hits": 1})
    assert tally.sums() == {
        ("opens", "cat"): {"hits": 1},
        ("p0", "cat"): {"hits": 1},
        ("p1", "cat"): {"hits": 1},
        (OTHER, OTHER): {"hits": 48},
    }
    tally.look("another's", ("x", "cat"), 1001, {"hits": 1})
    assert tally.sums()[OTHER, OTHER] == {"hits": 49}


def test_the_name_that_nobody_has_had_for_the_longest_gives_its_place() -> None:
    tally = Tally(of_a_user=2)
    for name in ("a", "b"):
        tally.look(name, (name, "cat"), 1000, {"hits": 10})
    tally.end("b")
    tally.end("a")
    tally.look("c", ("c", "cat"), 1000, {"hits": 1})
    assert tally.sums() == {
        ("a", "cat"): {"hits": 10},
        ("c", "cat"): {"hits": 1},
        (OTHER, OTHER): {"hits": 10},
    }


_STEPS = st.lists(
    st.tuples(
        st.sampled_from(["look", "end"]),
        st.integers(0, 7),  # source
        st.integers(0, 9),  # name
        st.integers(0, 20),  # gained
    )
)


@given(_STEPS)
def test_no_count_is_lost_and_no_series_falls(steps: list[tuple[str, int, int, int]]) -> None:
    tally = Tally(of_a_user=2, in_all=4)
    counts: dict[int, int] = {}
    gained = 0
    before: dict[tuple[str, str], int] = {}
    for what, source, name, more in steps:
        if what == "look":
            counts[source] = counts.get(source, 0) + more
            gained += more
            # Every other source is root's.
            tally.look(source, (f"p{name}", "cat"), source % 2 * 1000, {"hits": counts[source]})
        else:
            tally.end(source)
            counts.pop(source, None)
        sums = {key: each.get("hits", 0) for key, each in tally.sums().items()}
        assert sum(sums.values()) == gained
        assert len(sums) <= 4 + 1
        # A name that has given its place may come again, from nothing: that is a new beginning.
        assert all(sums[key] >= count for key, count in before.items() if key[0] == OTHER)
        before = sums
