"""docs/language.md: complete, up to date, and its examples are real."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from dprobed.program.exceptions import EXCEPTIONS
from dprobed.program.isa import BY_KEY, INSTRUCTIONS
from dprobed.program.items import TOKENS
from dprobed.program.keywords import HEADER, PROBE
from dprobed.program.registers import REGISTERS
from dprobed.program.rpn.parser import assemble
from dprobed.program.rpn.reference import PAGE, main, page, stack_text

TEXT = page()


def test_page_is_up_to_date() -> None:
    assert PAGE.read_text() == TEXT, "run `python -m dprobed.program.rpn.reference`"


def test_check_fails_on_another_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = tmp_path / "docs" / "page.md"
    monkeypatch.setattr("dprobed.program.rpn.reference.PAGE", other)
    assert main(["--check"]) == 1
    assert main([]) == 0
    assert main(["--check"]) == 0
    other.write_text(TEXT.replace("NOS + TOS", "NOS + NOS"))
    assert main(["--check"]) == 1
    assert main(["--frob"]) == 2


def test_page_names_everything() -> None:
    for instruction in INSTRUCTIONS:
        assert f"| {instruction.opcode:02x} | `{instruction.spelling}" in TEXT
        assert instruction.meaning.replace("|", "\\|") in TEXT
    for register in REGISTERS:
        assert f"`{register.name}`" in TEXT
    for info in EXCEPTIONS:
        assert f"| {info.code.name} | {info.code:#06x} |" in TEXT
    for token in TOKENS:
        assert f"| {int(token.token)} | " in TEXT
    for keyword in [*HEADER, *PROBE]:
        assert f"| `{keyword}` |" in TEXT


@pytest.mark.parametrize(
    "source", re.findall(r"```rpn\n(.*?)```", TEXT, re.DOTALL), ids=lambda s: s.split("\n")[0]
)
def test_examples_are_accepted(source: str) -> None:
    assert assemble(source, "example.rpn").probes


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("nop", "0 → 0"),
        ("add", "2 → 1"),
        ("jz label", "0, looks at 1 → 0"),
        ("log count", "count → 0"),
        ("dup count", "1 → 1 + count"),
        ("poph u8,count", "2 + count → 0"),
        ("push r,register", "0 → words"),
        ("pop r,register", "words → 0"),
        ("log", "1… → …"),
    ],
)
def test_stack_column(key: str, text: str) -> None:
    assert stack_text(BY_KEY[key]) == text
