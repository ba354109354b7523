"""dprobed: dynamic probes for Linux.

The way of a probe, and so the order in which to read: ``program`` (the probe language),
``location`` (where a probe goes), ``target`` (one process seen through ptrace), ``engine`` (how a
probe fires), ``control`` (the socket), ``daemon``.
"""

__version__ = "0.1.0"
