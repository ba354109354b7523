"""The token bucket: what may come, and what may not."""

from __future__ import annotations

from dprobed.rate_limit import TokenBucket


def test_a_burst_and_then_the_rate() -> None:
    bucket = TokenBucket(rate=2, size=5, now=100)
    assert [bucket.take(100) for _ in range(6)] == [True] * 5 + [False]
    assert not bucket.take(100.4)
    assert bucket.take(100.5)
    assert bucket.level(1000) == 5


def test_what_is_refused_takes_nothing_out() -> None:
    bucket = TokenBucket(rate=1, size=3, now=0)
    assert not bucket.take(0, 4)
    assert bucket.level(0) == 3


def test_a_charge_is_taken_in_any_case() -> None:
    bucket = TokenBucket(rate=1, size=4, now=0)
    assert bucket.charge(4, 0)
    assert not bucket.charge(6, 0)
    assert bucket.half_full() == 8
    assert bucket.level(8) == 2
    assert bucket.half_full() == 8
