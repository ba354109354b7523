"""The daemon process: clients, tracer processes, and which program is in which process."""
