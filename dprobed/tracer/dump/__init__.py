"""Core dumps of a live process: the snapshot, and the process that writes it."""
