"""The stack of a thread at a hit: what is mapped where, how callers are found, the walk."""
