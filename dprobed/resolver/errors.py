"""Why a file or place cannot be used: what the resolver found, and what became of the resolver."""

from __future__ import annotations

from dprobed.binary.errors import LocationError
from dprobed.binary.numbers import number_of

__all__ = ["LocationError", "LostError", "number_of"]


class LostError(LocationError):
    """There is no answer: the resolver died of the question, was too slow, or lied.

    ``innocent``: it had not begun with this question, which can be asked again.
    """

    def __init__(self, message: str, hint: str = "", *, innocent: bool = False) -> None:
        super().__init__(message, hint)
        self.innocent = innocent


class SilenceError(LostError):
    """There is no answer yet, and it is not waited for any longer."""
