"""Budgets: the accounts of what probes may cost, on a clock of the tests."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dprobed.engine.budget import Account
from dprobed.wire.limits import Limits

SECOND = 1_000_000_000


def spend(account: Account, seconds: float, every: int, cost: int) -> tuple[int, int]:
    """Hits every so many ns while the account is not over: how many, and ns for which it was."""
    now, hits, asleep = 0, 0, 0
    while now < seconds * SECOND:
        if account.over_until:
            asleep += account.over_until - now
            now = account.over_until
            assert account.reopen(now)
        now += every
        hits += 1
        account.charge(cost, now)
    return hits, asleep


def test_a_share_of_the_time_is_kept() -> None:
    account = Account(Limits(share=0.05), "x", 0)
    hits, _ = spend(account, 20, every=16_000, cost=15_000)
    assert 0.045 < hits * 15_000 / (20 * SECOND) < 0.065


def test_so_many_hits_a_second_are_kept() -> None:
    account = Account(Limits(hits=1000), "x", 0)
    hits, _ = spend(account, 20, every=20_000, cost=15_000)
    assert 19_000 < hits < 21_000


@pytest.mark.parametrize("limits", [Limits(share=0.5), Limits(hits=2000)])
def test_within_the_limits_nothing_is_ever_over(limits: Limits) -> None:
    account = Account(limits, "x", 0)
    hits, asleep = spend(account, 10, every=SECOND // 1500, cost=300_000)
    assert (hits, asleep) == (15_001, 0)


def test_what_is_too_expensive_is_noticed_within_a_second() -> None:
    for share in (0.5, 0.9):
        account = Account(Limits(share=share), "x", 0)
        now = 0
        while not account.charge(15_000, now := now + 15_001):
            pass
        assert now < SECOND


def test_one_hit_is_always_there() -> None:
    account = Account(Limits(hits=0.5), "x", 0)
    assert not account.charge(1, 0)
    assert account.charge(1, 1)
    assert not account.reopen(SECOND)
    assert account.reopen(4 * SECOND)


def test_it_says_what_was_allowed() -> None:
    account = Account(Limits(share=0.05, hits=100), "policy web", 0)
    assert account.reason() == "over the budget of policy web: 5 % of the time, 100 hits a second"


@given(
    share=st.floats(0.001, 1),
    costs=st.lists(st.tuples(st.integers(1, 10**8), st.integers(0, 10**7)), max_size=60),
)
def test_more_than_the_income_is_never_spent(share: float, costs: list[tuple[int, int]]) -> None:
    account = Account(Limits(share=share), "x", 0)
    now, spent, last = 0, 0, 0
    for pause, cost in costs:
        now += pause
        if account.over_until:
            now = max(now, account.over_until)
            assert account.reopen(now)
        account.charge(cost, now)
        spent, last = spent + cost, cost
    assert spent - last <= share * (now + 100_000_000) + 1
