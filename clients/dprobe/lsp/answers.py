"""What is said of a script to an editor, whatever the protocol: faults, completions, meanings."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Final

import msgspec

from dprobe.lib.mapped import File
from dprobe.lib.script import source
from dprobe.lib.script.world import FileWorld
from dprobed.program.bt.builtins import BUILTINS, CONSTANTS
from dprobed.program.bt.builtins import REFUSED as REFUSED_NAMES
from dprobed.program.bt.compiler import FUNCTIONS
from dprobed.program.bt.firing import KINDS
from dprobed.program.bt.functions_ours import REFUSED
from dprobed.program.bt.state import AGGREGATES
from dprobed.program.model import Diagnostic, ProgramError

_WORD: Final = re.compile(r"[A-Za-z_]\w*", re.ASCII)
_PLACE: Final = re.compile(r"(?:uprobe|uretprobe):(?P<module>[^\s:{},]+):(?P<begun>\w*)\Z")
#: Functions of a module that are offered.
_MOST: Final = 200
_STATEMENTS: Final = ("if", "else", "while", "for", "unroll", "break", "continue", "return", "let")


class Completion(msgspec.Struct, frozen=True):
    """A word that may come next. ``kind``: function, name, constant, keyword, place."""

    word: str
    kind: str
    meaning: str = ""


class ScriptAnswers:
    """Answers about scripts whose targets map these files; ``files`` is asked when they matter."""

    def __init__(self, files: Callable[[], Sequence[File]]) -> None:
        self._files: Final = files

    def faults(self, text: str, name: str) -> list[Diagnostic]:
        """What is wrong with a script, in this file of it."""
        script = source.Script(text, name)
        try:
            source.bundle_of(script, FileWorld(self._files))
        except ProgramError as error:
            return [each for each in error.diagnostics if each.file == name]
        return []

    def completions(self, before: str) -> list[Completion]:
        """What may come behind this text, up to where the editor is."""
        place = _PLACE.search(before)
        if place is not None:
            world = FileWorld(self._files)
            modules = world.modules(place["module"])
            names = (
                name
                for module in modules
                for name in world.functions(module, f"{place['begun']}*", False)
            )
            return [Completion(name, "place") for _, name in zip(range(_MOST), names, strict=False)]
        inside = before.count("{") > before.count("}")
        found = list(_words() if inside else (Completion(f"{kind}", "place") for kind in KINDS))
        begun = re.search(r"\w*\Z", before)
        start = begun[0] if begun is not None else ""
        return [each for each in found if each.word.startswith(start)]

    @staticmethod
    def meaning(line: str, column: int) -> str:
        """What the word at a column of a line means; empty: nothing that is known."""
        for found in _WORD.finditer(line):
            if found.start() <= column <= found.end():
                return _meaning(found[0])
        return ""


def _words() -> Iterator[Completion]:
    for name, one in FUNCTIONS.items():
        if name not in REFUSED:
            yield Completion(name, "function", f"{one.usage}: {one.meaning}")
    yield from (Completion(name, "function", "of a map: @ = …") for name in AGGREGATES)
    yield from (Completion(name, "name") for name in (*BUILTINS, "retval", "args", "arg0"))
    yield from (Completion(name, "constant", str(value)) for name, value in CONSTANTS.items())
    yield from (Completion(name, "keyword") for name in _STATEMENTS)


def _meaning(word: str) -> str:
    if word in FUNCTIONS:
        return f"{FUNCTIONS[word].usage}: {FUNCTIONS[word].meaning}"
    if word in CONSTANTS:
        return f"{word} = {CONSTANTS[word]}"
    if word in REFUSED_NAMES:
        return f"{word} {REFUSED_NAMES[word]}"
    return ""
