"""Snapshots: the frames and variables of a thread, read from a core of its process."""
