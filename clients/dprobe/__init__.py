"""``dprobe``: the client command, and the library under it.

Programs in Python use ``dprobe.connection.Connection``; ``dprobe.main`` is the command.
"""
