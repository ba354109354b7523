"""Writes the TextMate grammar of the script language, for editors that colour by one (VS Code,
Sublime Text, TextMate, and what takes their packages).

    python etc/grammar.py            # writes etc/editor/bt.tmLanguage.json
    python etc/grammar.py --check    # fails where it is not what would be written

Its words are those of the compiler's own tables.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from dprobed.program.bt.builtins import BUILTINS, CONSTANTS
from dprobed.program.bt.compiler import FUNCTIONS
from dprobed.program.bt.firing import KINDS
from dprobed.program.bt.functions_ours import REFUSED
from dprobed.program.bt.state import AGGREGATES

GRAMMAR: Final = Path(__file__).parent / "editor" / "bt.tmLanguage.json"
_ESCAPE: Final = r"\\(?:x[0-9a-fA-F]{1,2}|[0-7]{1,3}|.)"
_CONVERSION: Final = r"%[-+ #0]*\d*(?:\.\d+)?(?:hh|h|ll|l)?\w"
#: What makes a statement, or a declaration.
_CONTROL: Final = ("if", "else", "while", "for", "unroll", "break", "continue", "return")
_DECLARING: Final = ("let", "config", "macro", "import", "struct", "union", "enum", "typedef")
_TYPES: Final = (
    *(f"int{bits}{end}" for bits in (8, 16, 32, 64) for end in ("", "_t")),
    *(f"uint{bits}{end}" for bits in (8, 16, 32, 64) for end in ("", "_t")),
    *("char", "short", "int", "long", "signed", "unsigned", "float", "double", "void", "bool"),
    *("size_t", "ssize_t", "string"),
)  # fmt: skip


def _words(names: Iterable[str]) -> str:
    return rf"\b(?:{'|'.join(sorted(map(re.escape, names)))})\b"


def grammar() -> dict[str, Any]:
    """The grammar."""
    functions = [*AGGREGATES, *(name for name in FUNCTIONS if name not in REFUSED)]
    string = {
        "name": "string.quoted.double.bt",
        "begin": '"',
        "end": '"',
        "patterns": [
            {"name": "constant.character.escape.bt", "match": _ESCAPE},
            {"name": "constant.other.placeholder.bt", "match": _CONVERSION},
        ],
    }
    rules: list[dict[str, Any]] = [
        {"name": "comment.line.bt", "match": r"//.*$"},
        {"name": "comment.line.shebang.bt", "match": r"\A#!.*$"},
        {"name": "comment.block.bt", "begin": r"/\*", "end": r"\*/"},
        {"name": "meta.preprocessor.bt", "match": r"^\s*#\s*\w+.*$"},
        string,
        {
            "match": rf"\b({'|'.join(sorted(KINDS))})(:[^\s,{{/]*)?(?=\s*[,{{/:]|\s*$)",
            "captures": {
                "1": {"name": "keyword.other.probe.bt"},
                "2": {"name": "entity.name.tag.bt"},
            },
        },
        {"name": "variable.other.map.bt", "match": r"@\w*"},
        {"name": "variable.other.bt", "match": r"\$(?:[A-Za-z_]\w*|\d+|#)"},
        {"name": "keyword.control.bt", "match": _words(_CONTROL)},
        {"name": "storage.type.bt", "match": _words((*_DECLARING, *_TYPES))},
        {"name": "support.function.bt", "match": rf"{_words(functions)}(?=\s*\()"},
        {
            "name": "variable.language.bt",
            "match": rf"{_words((*BUILTINS, 'retval', 'ustack', 'args'))}|\barg\d+\b",
        },
        {"name": "constant.language.bt", "match": _words((*CONSTANTS, "true", "false"))},
        {
            "name": "constant.numeric.bt",
            "match": r"\b(?:0[xX][0-9a-fA-F_]+|[0-9][0-9_]*(?:[eE][0-9]+)?)(?:ns|us|ms|s|m|h|d)?\b",
        },
        {"name": "keyword.operator.bt", "match": r"[-+*/%&|^~!<>=?]+"},
    ]
    return {
        "$schema": "https://raw.githubusercontent.com/martinring/tmlanguage/master/tmlanguage.json",
        "name": "dprobe script",
        "scopeName": "source.bt",
        "fileTypes": ["bt"],
        "patterns": rules,
    }


def main(arguments: list[str]) -> int:
    """Write it, or look whether it is what would be written; the exit status."""
    text = json.dumps(grammar(), indent=2, ensure_ascii=False) + "\n"
    if arguments != ["--check"]:
        GRAMMAR.write_text(text)
        return 0
    if GRAMMAR.read_text() == text:
        return 0
    print(f"{GRAMMAR} is not what would be written: run python etc/grammar.py", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
