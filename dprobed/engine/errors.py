"""Why an engine cannot do what is asked."""

from __future__ import annotations


class SpaceError(Exception):
    """The address space cannot be prepared; one line."""
