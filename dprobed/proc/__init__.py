"""Processes in general: /proc, events of processes, who is at the other end of a socket."""
