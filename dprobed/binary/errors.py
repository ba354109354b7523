"""Why a file or a place cannot be used."""

from __future__ import annotations

from typing import Final

#: The hint of an unknown name whose ``candidates`` are similar ones.
SIMILAR: Final = "the candidates have similar names"


class LocationError(Exception):
    """A file, place or module that cannot be used.

    ``message`` is one line: what, and where. ``hint`` is what to do about it, ``""`` if unknown.
    ``candidates`` are texts to choose from: places for an ambiguous name, similar names for an
    unknown one. ``str()`` gives all of it.
    """

    def __init__(self, message: str, hint: str = "", candidates: tuple[str, ...] = ()) -> None:
        message = message.replace("\n", "\\n")  # of a path
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.candidates = candidates

    def __str__(self) -> str:
        """Message, candidates and hint, each on lines of its own."""
        lines = [self.message, *(f"    {candidate}" for candidate in self.candidates)]
        if self.hint:
            lines.append(f"hint: {self.hint}")
        return "\n".join(lines)
