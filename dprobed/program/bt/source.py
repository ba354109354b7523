"""Source text, places in it, and what is wrong with it."""

from __future__ import annotations

from bisect import bisect_right
from functools import cached_property
from typing import NamedTuple

from dprobed.program.model import MAX_DIAGNOSTICS, Diagnostic, ProgramError, SourcePlace


class SourceText:
    """The text of one file."""

    def __init__(self, name: str, text: str) -> None:
        self.name = name
        self.text = text

    @cached_property
    def _lines(self) -> list[int]:
        """Where each line begins."""
        starts = [0]
        for number, letter in enumerate(self.text, 1):
            if letter == "\n":
                starts.append(number)
        return starts

    def position(self, offset: int) -> tuple[int, int]:
        """Line and column, both from 1."""
        line = bisect_right(self._lines, offset)
        return line, offset - self._lines[line - 1] + 1

    def line(self, number: int) -> str:
        """The text of a line."""
        start = self._lines[number - 1]
        end = self.text.find("\n", start)
        return self.text[start : len(self.text) if end < 0 else end].rstrip("\r")


class TextSpan(NamedTuple):
    """From where to before where something stands."""

    source: SourceText
    start: int
    end: int

    @property
    def text(self) -> str:
        """What is there."""
        return self.source.text[self.start : self.end]

    @property
    def place(self) -> SourcePlace:
        """Where it begins."""
        return SourcePlace(self.source.name, *self.source.position(self.start))

    def to(self, other: TextSpan) -> TextSpan:
        """From here up to the end of another one of the same file."""
        if other.source is not self.source or other.end < self.end:
            return self
        return TextSpan(self.source, self.start, other.end)

    def written(self) -> str:
        """As messages at run time name it: ``file:line:column`` or ``file:line:column-column``."""
        line, column = self.source.position(self.start)
        last, end = self.source.position(max(self.end, self.start))
        if last != line:
            return f"{self.source.name}:{line}-{last}"
        return f"{self.source.name}:{line}:{column}-{end}"


class Problems:
    """All that is wrong with a script, so far."""

    def __init__(self) -> None:
        self.found: list[Diagnostic] = []
        self.warnings: list[str] = []
        self._said: set[tuple[str, int, str]] = set()

    def add(self, span: TextSpan, message: str, hint: str = "") -> None:
        """Something is wrong here; the same is said once for a place."""
        said = (span.source.name, span.start, message)
        if said in self._said or len(self.found) >= MAX_DIAGNOSTICS:
            return
        self._said.add(said)
        line, column = span.source.position(span.start)
        text = span.source.line(line)
        length = max(1, min(span.end, span.start + len(text) - column + 1) - span.start)
        shown = text if text.isprintable() or not text.replace("\t", "").strip() else ""
        if not shown and text.replace("\t", " ").isprintable():
            shown = text
        self.found.append(Diagnostic(span.source.name, line, column, message, hint, shown, length))

    def forget(self, count: int) -> None:
        """Keep only so many: what was said while looking ahead is said again."""
        for one in self.found[count:]:
            self._said = {each for each in self._said if each[2] != one.message}
        del self.found[count:]

    def warn(self, span: TextSpan, message: str) -> None:
        """Something is odd here, but possible."""
        line = f"{span.place}: {message}"
        if line not in self.warnings and len(self.warnings) < MAX_DIAGNOSTICS:
            self.warnings.append(line)

    def check(self) -> None:
        """Raise ProgramError if there is anything."""
        if self.found:
            self.found.sort(key=lambda each: (each.file, each.line, each.column))
            raise ProgramError(tuple(self.found))
