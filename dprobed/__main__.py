"""The command ``dprobed``, and ``python -m dprobed``.

Until all is imported, Ctrl-C ends it as it ends a program that does not handle signals: Python's
own handler would end it with a traceback.
"""

from __future__ import annotations

import signal
import sys


def main() -> None:
    """Import the daemon and run it."""
    handler = signal.getsignal(signal.SIGINT)
    is_ours = handler is signal.default_int_handler  # else whoever started us had it ignored
    if is_ours:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from dprobed.daemon.main import main as daemon_main

    try:
        if is_ours:
            signal.signal(signal.SIGINT, handler)
        daemon_main()
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
