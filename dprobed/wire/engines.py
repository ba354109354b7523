"""The engines' names, as they are asked for and as ``query`` shows them."""

from __future__ import annotations

from typing import Final

#: The fastest of those below that can serve a program and its places, all of it in one way.
AUTO: Final = "auto"
#: A jump into native code in the target itself.
INLINE: Final = "inline"
#: A breakpoint that leads to the same native code.
SIGNAL: Final = "signal"
#: A breakpoint, at which the tracer runs the program; where nothing is asked for.
TRAP: Final = "trap"
#: Debug registers: that of watchpoints, whatever is asked for.
WATCH: Final = "watch"
#: A breakpoint of the kernel itself in a file, for every process that maps it; only where it is
#: asked for, and served by the kernel's module.
KERNEL: Final = "kernel"
#: How ``query`` calls what that gets.
UPROBE: Final = "uprobe"
#: What can be asked for.
ENGINES: Final = (AUTO, INLINE, SIGNAL, TRAP, KERNEL)
#: Those by which native code runs in the target.
NATIVE: Final = (INLINE, SIGNAL)
