"""The engines by which an insertion can ask for its code probes to be served."""

from __future__ import annotations

from typing import Final

#: No engine is asked for by name: the cheapest that can serve the place.
AUTO: Final = "auto"
#: A jump into native code in the target itself; only where it is asked for.
INLINE: Final = "inline"
#: What can be asked for. Watchpoints have an engine of their own in any case.
ENGINES: Final = (AUTO, INLINE, "trap")
