"""Core dumps of live processes: what goes in, the ELF file, where it is kept, who is told.

``areas`` decides which memory a core has, ``core`` writes it, ``store`` keeps cores within their
quota, ``journal`` makes them known to ``coredumpctl``, ``dumper`` is the process that does all of
this. How the process is stopped and copied is in ``dprobed/engine/snapshot.py``.
"""
