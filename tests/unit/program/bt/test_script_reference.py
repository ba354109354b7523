"""docs/scripts.md: complete, up to date, and its examples are real."""

from __future__ import annotations

import re

import pytest

from dprobed.program.bt.builtins import BUILTINS
from dprobed.program.bt.compiler import FUNCTIONS, compile_script
from dprobed.program.bt.reference import PAGE, page

TEXT = page()
EXAMPLES = re.findall(r"```bt\n(.*?)```", TEXT, re.DOTALL)


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text() == TEXT, "run `python -m dprobed.program.bt.reference`"


def test_the_page_names_everything() -> None:
    for name in BUILTINS:
        assert f"| `{name}` |" in TEXT
    for name in FUNCTIONS:
        assert f"| `{name}" in TEXT


@pytest.mark.parametrize("script", EXAMPLES)
def test_its_examples_are_real(script: str) -> None:
    assert compile_script(script, "x.bt").programs
