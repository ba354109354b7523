"""Machine code as a built-in function: its prologue, its argument, its result."""

from __future__ import annotations

import ctypes
import gc

import pytest

from dprobed.arch.x86_64 import python_function
from dprobed.arch.x86_64.python_function import PROLOGUE
from tests.unit.arch.listing import code_of, decoded

#: ``mov eax,[rdi]``, ``ret``.
FIRST_WORD = bytes.fromhex("8b07c3")


def test_the_listing_says_what_the_code_does() -> None:
    code = code_of(PROLOGUE)
    assert decoded(code) == list(PROLOGUE)
    assert f"call {len(code):X}h" in [line for _, line in PROLOGUE]


@pytest.mark.parametrize("value", [0, 7, 1 << 30, -10, -(1 << 31)])
def test_it_returns_what_the_code_does_for_its_argument(value: int) -> None:
    word = ctypes.c_int(value)
    function = python_function.made(FIRST_WORD, ctypes.addressof(word))
    gc.collect()
    assert [function() for _ in range(3)] == [value] * 3
    word.value = 5
    assert function() == 5


def test_each_function_has_its_own_argument() -> None:
    words = [ctypes.c_int(number) for number in (1000, 2000)]
    functions = [python_function.made(FIRST_WORD, ctypes.addressof(each)) for each in words]
    assert [function() for function in functions] == [1000, 2000]


def test_it_takes_no_arguments() -> None:
    word = ctypes.c_int(1)
    function = python_function.made(FIRST_WORD, ctypes.addressof(word))
    with pytest.raises(TypeError):
        function(1)  # type: ignore[call-arg]
