"""A GDB remote protocol server in the tracer: holds a target at a probe, invites a debugger."""
