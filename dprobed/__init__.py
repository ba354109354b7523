"""dprobed: dynamic probes for Linux.

The way of a probe, and so the order in which to read: ``program`` (the probe language), ``wire``
(the protocols), ``daemon``, ``tracer``, ``resolver`` (where a probe goes), ``engine`` (how it
fires), ``tracee`` (one process through ptrace), ``record`` (what a hit reports).
"""

__version__ = "0.1.0"
