"""Each attack in docs/attacks.md names a test that there is."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_each_attack_has_its_test() -> None:
    rows = [
        line
        for line in (ROOT / "docs" / "attacks.md").read_text().split("\n")
        if re.match(r"\| \d+ \|", line)
    ]
    assert len(rows) >= 30
    for number, row in enumerate(rows, 1):
        assert row.startswith(f"| {number} |")
        found = re.search(r"`([\w/]+\.py)::(test_\w+)` \|$", row)
        assert found is not None, row
        text = (ROOT / "tests" / found[1]).read_text()
        assert f"def {found[2]}(" in text, row
