"""The command ``dprobe``, and ``python -m dprobe``: from its start to its very end.

Until all is imported, Ctrl-C ends it as it ends a program that does not handle signals: Python's
own handler would end it with a traceback. At its end nothing is taken down that ends with the
process anyway: that takes as long as a tenth of ``dprobe run``.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import sys
from typing import Final, NoReturn

#: Objects made, without those gone again, between two looks for garbage. All that a command imports
#: is fewer, and to look through that over and over takes a tenth of its time.
_GARBAGE: Final = 100_000


def main() -> NoReturn:
    """Import what the command line asks for, and do it."""
    gc.set_threshold(_GARBAGE)
    handler = signal.getsignal(signal.SIGINT)
    is_ours = handler is signal.default_int_handler  # else whoever started us had it ignored
    if is_ours:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from dprobe import late
    from dprobe.ahead import needs_daemon

    late.install()
    try:
        with contextlib.ExitStack() as at_end:
            if command := needs_daemon(sys.argv[1:], os.environ):
                from dprobe.private import begun

                at_end.enter_context(begun(reads_files=command in ("run", "bpftrace")))
            from dprobe.main import main as run

            if is_ours:
                signal.signal(signal.SIGINT, handler)
            status = run()
    except KeyboardInterrupt:  # a second one, while the first was being handled
        status = 130
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            with contextlib.suppress(OSError, ValueError):  # of a command that failed already
                stream.flush()
    os._exit(status)


if __name__ == "__main__":
    main()
