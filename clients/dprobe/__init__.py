"""``dprobe``: the client command (``main``, ``commands``, ``view``), and the library under it.

Programs in Python use ``dprobe.lib``, for instance ``dprobe.lib.connection.Connection``.
"""
