"""The kernel as a backend: programs go into it through the device of the module dprobes.ko."""
