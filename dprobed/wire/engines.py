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
#: A breakpoint of the kernel itself in a file, for every process that maps it; only where it is
#: asked for, and served by the kernel's module.
KERNEL: Final = "kernel"
#: How ``query`` calls what that gets.
UPROBE: Final = "uprobe"
#: What can be asked for.
ENGINES: Final = (AUTO, INLINE, TRAP, KERNEL)
