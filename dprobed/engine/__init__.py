"""The engines: how a probe fires, and the address space that is changed for it."""
