"""The engines' names, as they are asked for and as ``query`` shows them."""

from __future__ import annotations

from typing import Final

#: No engine is asked for by name: the cheapest that can serve the place.
AUTO: Final = "auto"
#: A jump into native code in the target itself; only where it is asked for.
INLINE: Final = "inline"
#: A breakpoint, at which the tracer runs the program.
TRAP: Final = "trap"
#: Debug registers: that of watchpoints, whatever is asked for.
WATCH: Final = "watch"
#: What can be asked for.
ENGINES: Final = (AUTO, INLINE, TRAP)
