"""The grammar for editors: its patterns are regular expressions, and it has every word."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[4]
GRAMMAR = ROOT / "etc" / "editor" / "bt.tmLanguage.json"


def scopes(line: str) -> dict[str, str]:
    """What each part of a line is, as an editor takes it: the first rule that fits leftmost."""
    rules = [
        (rule.get("name", ""), re.compile(rule["match"]), rule.get("captures", {}))
        for rule in json.loads(GRAMMAR.read_text())["patterns"]
        if "match" in rule
    ]
    found, at = {}, 0
    while at < len(line):
        hits = [
            (hit.start(), number, hit)
            for number, (_, pattern, _) in enumerate(rules)
            if (hit := pattern.search(line, at)) and hit[0]
        ]
        if not hits:
            break
        _, number, hit = min(hits, key=lambda each: each[:2])
        name, _, captures = rules[number]
        if name:
            found[hit[0]] = name
        for group, capture in captures.items():
            if hit[int(group)]:
                found[hit[int(group)]] = capture["name"]
        at = hit.end()
    return found


def test_it_is_what_the_tables_say() -> None:
    done = subprocess.run([sys.executable, ROOT / "etc" / "grammar.py", "--check"], check=False)
    assert done.returncode == 0


def test_words_of_a_script() -> None:
    found = scopes("uprobe:libc:malloc /arg0 > 4K/ { @sizes[comm] = hist(arg0); if ($x == 0x1f) {")
    assert found["uprobe"] == "keyword.other.probe.bt"
    assert found[":libc:malloc"] == "entity.name.tag.bt"
    assert found["@sizes"] == "variable.other.map.bt"
    assert found["comm"] == found["arg0"] == "variable.language.bt"
    assert found["hist"] == "support.function.bt"
    assert found["if"] == "keyword.control.bt"
    assert found["$x"] == "variable.other.bt"
    assert found["0x1f"] == "constant.numeric.bt"
