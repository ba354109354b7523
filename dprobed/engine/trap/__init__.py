"""The trap engine: int3 breakpoints, displaced instructions in out-of-line slots."""
