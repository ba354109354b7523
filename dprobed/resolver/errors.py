"""Why a file or place cannot be used, or the resolver gave no answer."""

from __future__ import annotations

from dprobed.binary.errors import LocationError
from dprobed.binary.numbers import number_of

__all__ = ["LocationError", "LostError", "number_of"]


class LostError(LocationError):
    """No answer: the resolver died of the question, was too slow, or broke the protocol.

    ``innocent``: it had not read this question, which can be asked again.
    """

    def __init__(self, message: str, hint: str = "", *, innocent: bool = False) -> None:
        super().__init__(message, hint)
        self.innocent = innocent


class SilenceError(LostError):
    """There is no answer yet, and it is not waited for any longer."""
