"""The helper process: what it does, what it is given up for, and what is left of it."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from dprobed.proc import helper
from dprobed.proc.helper import Helper, SilentError, Value
from tests.integration.client_support import wait_end


@helper.job
def _who(values: Sequence[Value], descriptors: Sequence[int]) -> tuple[list[Value], int]:
    """Its pid, what it was given, and how many descriptors it has."""
    there = len(list(Path("/proc/self/fd").iterdir()))
    return [os.getpid(), there, *values], -1


@helper.job
def _pass_on(values: Sequence[Value], descriptors: Sequence[int]) -> tuple[list[Value], int]:
    return [], os.dup(descriptors[0])


@helper.job
def _open(values: Sequence[Value], descriptors: Sequence[int]) -> tuple[list[Value], int]:
    assert isinstance(values[0], str)
    return [], os.open(values[0], os.O_RDONLY)


@helper.job
def _stop(values: Sequence[Value], descriptors: Sequence[int]) -> tuple[list[Value], int]:
    """As one that does not answer."""
    os.kill(os.getpid(), signal.SIGSTOP)
    return [], -1


@helper.job
def _end(values: Sequence[Value], descriptors: Sequence[int]) -> tuple[list[Value], int]:
    os._exit(3)


@helper.job
def _tell_much(values: Sequence[Value], descriptors: Sequence[int]) -> tuple[list[Value], int]:
    assert isinstance(values[0], int)
    return [b"x" * values[0]], os.dup(descriptors[0]) if descriptors else -1


@pytest.fixture
def one() -> Iterator[Helper]:
    made = Helper()
    yield made
    made.close()


def pid_of(one: Helper) -> int:
    (pid, *_), _ = one.do("who", _who, [])
    assert isinstance(pid, int)
    return pid


def test_one_process_does_what_comes_and_has_nothing_of_ours(one: Helper) -> None:
    with open("/proc/self/status") as ours:
        assert ours
        (pid, there, *given), descriptor = one.do(0, _who, [7, "word", b"\xff", None])
    assert given == [7, "word", b"\xff", None]
    assert descriptor == -1
    # Its three standard streams, its socket, and the folder that it lists.
    assert there == 5
    assert pid != os.getpid()
    assert pid_of(one) == pid
    with pytest.raises(ChildProcessError):  # not our child: nobody hears of its end
        os.waitpid(int(str(pid)), os.WNOHANG)


def test_descriptors_go_there_and_back(one: Helper) -> None:
    reading, writing = os.pipe()
    _, copied = one.do(0, _pass_on, [], [writing])
    assert not os.get_inheritable(copied)
    os.write(copied, b"through it")
    assert os.read(reading, 100) == b"through it"
    for each in (reading, writing, copied):
        os.close(each)


def test_an_error_is_raised_here(one: Helper) -> None:
    with pytest.raises(FileNotFoundError):
        one.do(0, _open, ["/nowhere"])
    pid_of(one)


def test_who_does_not_answer_is_killed_and_the_next_job_done(one: Helper) -> None:
    pid = pid_of(one)
    with pytest.raises(SilentError):
        one.do("silent", _stop, [], patience=0.01)
    assert wait_end(pid)
    with pytest.raises(SilentError, match="does not answer"):  # nor is it asked again soon
        one.do("silent", _who, [])
    assert pid_of(one) != pid


def test_one_that_has_ended_is_replaced(one: Helper) -> None:
    pid = pid_of(one)
    with pytest.raises(SilentError):
        one.do(0, _end, [])
    assert wait_end(pid)
    os.kill(second := pid_of(one), signal.SIGKILL)
    assert wait_end(second)
    assert pid_of(one) != second


def test_it_ends_with_us(one: Helper) -> None:
    pid = pid_of(one)
    one.close()
    assert wait_end(pid)


def test_a_fork_of_us_has_one_of_its_own(one: Helper) -> None:
    pid = pid_of(one)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            os.write(writing, b"%d" % pid_of(one))
        os._exit(0)
    os.close(writing)
    assert os.waitpid(child, 0)[1] == 0
    other = int(os.read(reading, 100))
    os.close(reading)
    assert other != pid
    assert wait_end(other)
    assert pid_of(one) == pid


def test_few_that_do_not_die_are_enough(one: Helper, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then nothing is tried any more, until one has ended."""
    monkeypatch.setattr("signal.pidfd_send_signal", lambda pidfd, number: None)
    stopped = []
    monkeypatch.setattr(helper, "_MOST_STUCK", 3)
    for number in range(3):
        stopped.append(pid_of(one))
        with pytest.raises(SilentError):
            one.do(number, _stop, [], patience=0.01)
    with pytest.raises(SilentError, match="3 other files do not answer"):
        pid_of(one)
    for each in stopped:
        os.kill(each, signal.SIGKILL)
        assert wait_end(each)
    pid_of(one)


def test_who_is_patient_waits_longer_and_no_fork_of_it_does(one: Helper) -> None:
    pid = pid_of(one)
    one.be_patient(0.7)
    with pytest.raises(SilentError, match=r"no answer in 0\.7 s"):
        one.do("a", _stop, [])
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            one.do("b", _stop, [])
        except SilentError as error:
            os.write(writing, str(error).encode())
        finally:
            os._exit(0)
    os.close(writing)
    os.waitpid(child, 0)
    with open(reading) as said:
        assert said.read().endswith("no answer in 0.2 s")
    assert wait_end(pid)
    pid_of(one)  # closes what it had of the one that ended


@pytest.mark.parametrize("size", [1 << 10, 1 << 16, 1 << 20, 5 << 20])
def test_an_answer_can_be_longer_than_a_message(one: Helper, size: int) -> None:
    """With a descriptor, and without; the same helper goes on."""
    pid = pid_of(one)
    ours, theirs = os.pipe()
    (told,), none = one.do("much", _tell_much, [size], patience=30.0)
    assert (told, none) == (b"x" * size, -1)
    (told,), passed = one.do("much", _tell_much, [size], [theirs], patience=30.0)
    os.close(theirs)
    os.write(passed, b"by it")
    os.close(passed)
    assert (told, os.read(ours, 100)) == (b"x" * size, b"by it")
    os.close(ours)
    assert pid_of(one) == pid
