"""Policy and configuration files that are refused."""

from __future__ import annotations

from collections.abc import Iterable

from dprobed.program.model import Diagnostic


class PolicyError(Exception):
    """Files that are refused, with everything that is wrong with them."""

    def __init__(self, diagnostics: Iterable[Diagnostic]) -> None:
        self.diagnostics = tuple(diagnostics)
        super().__init__(self.diagnostics)

    def __str__(self) -> str:
        return "\n".join(map(str, self.diagnostics))
