"""Definitions of maps: what is refused, how they are written, and their buckets."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dprobed.program.maps import (
    STACK_MARK,
    Entry,
    MapDefinition,
    MapRoom,
    as_signed,
    bounds,
    definition_error,
    definitions_error,
    halves,
    is_entry,
    linear_bucket,
    power_bucket,
    stack_item,
    whole,
)
from dprobed.program.model import Program, ProgramError
from dprobed.program.rpn.parser import assemble
from dprobed.program.user_stack import StackEnd, UserStack, frame_word, module_bytes, unpacked


def source(*maps: str) -> str:
    return "\n".join(["name = x", *(f"map = {each}" for each in maps), "offset = f", "  exit\n"])


def defined(*maps: str) -> Program:
    return assemble(source(*maps), "x.rpn")


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("a, count", MapDefinition("a", "count")),
        ("a, hist", MapDefinition("a", "hist", (0,))),
        ("a, hist,2, keys=3", MapDefinition("a", "hist", (2,), 3)),
        ("a,lhist,-8,1<<4,2,size=7,signed", MapDefinition("a", "lhist", (-8, 16, 2), 0, 7, True)),
        ("a, tseries, 100, 20", MapDefinition("a", "tseries", (100, 20))),
        ("a, sum, signed, keys = 2", MapDefinition("a", "sum", (), 2, signed=True)),
    ],
)
def test_written_and_read(text: str, meant: MapDefinition) -> None:
    assert defined(text).header.map == (meant,)
    assert defined(str(meant)).header.map == (meant,)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a", "`map` is a name and a kind, with a comma between them"),
        ("a, counts", "there is no kind of map `counts`"),
        ("9a, count", "`9a` cannot name a map"),
        ("a, count, 1", "`count` takes no arguments, not 1"),
        ("a, lhist,1,2", "`lhist` takes 3 arguments, not 2"),
        ("a, lhist,5,5,1", "below the greatest, not 5 to 5"),
        ("a, lhist,-5,5,1", "an `lhist` from below 0 is of signed words"),
        ("a, lhist,0,5000,1", "an `lhist` has at most 1000 steps"),
        ("a, hist,6", "`bits` of `hist` is 0 to 5, not 6"),
        ("a, tseries,0,5", "`interval` of `tseries` is 1 to"),
        ("a, count, keys=9", "`keys` of a map is 0 to 8, not 9"),
        ("a, count, size=0", "`size` of a map is 1 to 65536, not 0"),
        ("a, count, size=65537", "`size` of a map is 1 to 65536, not 65537"),
        ("a, count, signed", "a `count` is never below 0"),
        ("a, count, keys=1, keys=2", "`keys` is there twice"),
        ("a, count, key=1", "`key` is nothing that a map has"),
        ("a, count,", "there is nothing behind a comma"),
        ("a, count, keys=", "there is nothing behind a comma or `=`"),
        ("a, sum, NOPE", "NOPE"),
    ],
)
def test_refused(text: str, message: str) -> None:
    with pytest.raises(ProgramError) as caught:
        defined(text)
    (fault,) = caught.value.diagnostics
    assert message in fault.message
    assert fault.line == 2


def test_two_of_a_name_and_too_many_are_refused() -> None:
    with pytest.raises(ProgramError, match="there is a map `a` already"):
        defined("a, count", "a, sum")
    assert definitions_error([MapDefinition("a", "count")] * 2) is not None
    defined(*(f"m{n}, count" for n in range(16)))
    with pytest.raises(ProgramError, match="17 maps; 16 are possible"):
        defined(*(f"m{n}, count" for n in range(17)))


def test_a_map_of_a_probe_belongs_into_the_header() -> None:
    with pytest.raises(ProgramError, match="`map` belongs into the header"):
        assemble("name = x\noffset = f\nmap = a, count\n exit\n", "x.rpn")


def test_what_uses_a_map_that_is_refused_is_not_refused_once_more() -> None:
    text = "name = x\nmap = a, counts\noffset = f\n minc a\n exit\n"
    with pytest.raises(ProgramError) as caught:
        assemble(text, "x.rpn")
    assert len(caught.value.diagnostics) == 1


@given(st.integers(-(1 << 63), (1 << 64) - 1), st.integers(0, 5))
def test_a_value_is_within_its_power_bucket(value: int, bits: int) -> None:
    one = MapDefinition("a", "hist", (bits,))
    low, high = bounds(one, power_bucket(value, bits))
    assert (low is None or low <= value) and (high is None or value < high)
    if value >= 1 << bits:
        assert low is not None and high is not None
        assert (high - low) << bits == 1 << (value.bit_length() - 1)


@given(st.integers(-200, 200), st.integers(-100, 50), st.integers(1, 100), st.integers(1, 40))
def test_a_value_is_within_its_step(value: int, low: int, more: int, step: int) -> None:
    one = MapDefinition("a", "lhist", (low, low + more, step), signed=True)
    assert definition_error(one) is None
    first, end = bounds(one, linear_bucket(value, low, low + more, step))
    assert (first is None or first <= value) and (end is None or value < end)
    # The outermost two have all that is beyond.
    assert (first is None) == (value < low)
    assert (end is None) == (value >= low + more)


@given(st.integers(-(1 << 127), (1 << 127) - 1))
def test_sums_travel_as_two_words(total: int) -> None:
    assert whole(halves(total), signed=True) == total
    assert whole(halves(total % (1 << 128)), signed=False) == total % (1 << 128)
    assert as_signed((1 << 64) - 1) == -1


def test_room_is_within_what_is_above_it() -> None:
    above = MapRoom(100)
    one, other = MapRoom(80, above), MapRoom(80, above)
    assert one.take(80)
    assert not one.take(1)
    assert not other.take(21)
    assert other.take(20)
    one.give(80)
    assert (above.left, one.left, other.left) == (80, 80, 60)


@pytest.mark.parametrize(
    ("definition", "entry", "can_be"),
    [
        (MapDefinition("a", "count", keys=1), ([1], [2]), True),
        (MapDefinition("a", "count", keys=1), ([1], []), True),
        (MapDefinition("a", "count", keys=1), ([], [2]), False),
        (MapDefinition("a", "count"), ([], [2, 3]), False),
        (MapDefinition("a", "count"), ([], [-2]), False),
        (MapDefinition("a", "value"), ([], [(1 << 64) - 1]), True),
        (MapDefinition("a", "value"), ([], [1 << 64]), False),
        (MapDefinition("a", "value", keys=1), ([1 << 64], [1]), False),
        (MapDefinition("a", "value", keys=1), ([-1], [1]), False),
        (MapDefinition("a", "value", keys=2), ([b"x" * 912, b"x" * 112], [1]), True),
        (MapDefinition("a", "value", keys=2), ([b"x" * 913, b"x" * 112], [1]), False),
        (MapDefinition("a", "hist", (0,)), ([], [1, 1 << 64]), False),
        (MapDefinition("a", "stats"), ([], [1, 2, 0, 1, 1]), True),
        (MapDefinition("a", "stats"), ([], [1, 2, 0]), False),
        (MapDefinition("a", "hist", (0,)), ([], [-1, 2, 64, 1]), True),
        (MapDefinition("a", "hist", (0,)), ([], [-2, 2]), False),
        (MapDefinition("a", "hist", (0,)), ([], [1 << 62, 2]), False),
        (MapDefinition("a", "hist", (0,)), ([], [1]), False),
        (MapDefinition("a", "lhist", (0, 5, 1)), ([], [1001, 1]), False),
        (MapDefinition("a", "tseries", (1, 2)), ([], [-1, 1, 1]), False),
        (MapDefinition("a", "tseries", (1, 2)), ([], [1, 1]), False),
    ],
)
def test_what_can_be_in_a_map(definition: MapDefinition, entry: Entry, can_be: bool) -> None:
    assert is_entry(definition, entry) == can_be


def test_a_stack_as_an_item_has_as_many_frames_as_have_room() -> None:
    module = module_bytes("/bin/true", "ab")
    frames = [frame_word(1, address, exact=False) for address in (16, 32, 48)]
    stack = UserStack(StackEnd.WHOLE, [module], frames)
    whole = stack_item(stack, 912)
    assert whole[:1] == STACK_MARK
    assert unpacked(whole[1:])[1] == StackEnd.WHOLE
    for room in range(len(whole)):
        item = stack_item(stack, room)
        found, end = unpacked(item[1:])
        assert end == StackEnd.ROOM
        assert [each.address for each in found] == [16, 32, 48][: len(found)]
        assert len(item) <= max(room, 4)
