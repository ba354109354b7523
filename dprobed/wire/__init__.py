"""Codecs without I/O: the protocol of the control socket, and that between daemon and tracer."""
