"""A GDB remote protocol server in the tracer: the target held at a probe, a debugger invited."""
