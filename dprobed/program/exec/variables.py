"""Variables as a list of this process: those of the executors that are Python."""

from __future__ import annotations

from collections.abc import Sequence


class ListVariables:
    """``Variables`` in the list ``words``, which stays the same object: programs refer to it."""

    __slots__ = ("words",)

    def __init__(self, count: int = 0) -> None:
        self.words = [0] * count

    def __len__(self) -> int:
        return len(self.words)

    def read(self, first: int = 0, count: int | None = None) -> list[int]:
        """The values of ``count`` from ``first`` on, as far as there are; all that are left."""
        return self.words[first : None if count is None else first + count]

    def write(self, first: int, words: Sequence[int]) -> None:
        """Give the ones from ``first`` on these values, as far as there are variables."""
        kept = words[: max(len(self.words) - first, 0)]
        self.words[first : first + len(kept)] = kept

    def reset(self, first: int = 0, count: int | None = None) -> None:
        """Set ``count`` from ``first`` on to 0, as far as there are; all that are left."""
        self.write(first, [0] * len(self.read(first, count)))

    def grow(self, count: int) -> None:
        """Be ``count`` at least; the new ones are 0. There are never fewer than before."""
        self.words.extend([0] * (count - len(self.words)))
