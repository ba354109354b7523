"""The watchpoint engine: the debug registers of the processor."""
