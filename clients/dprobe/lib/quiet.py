"""Whether the user wants notices (``dprobe -q``): one value for the whole command."""

from __future__ import annotations

#: Set once, by the command line.
quiet: bool = False
