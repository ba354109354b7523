"""Serves the client of a private daemon (``private``)."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import Callable

from dprobed.daemon import start
from dprobed.daemon.app import App, begin, build_private
from dprobed.daemon.tracer_child import TracerAhead, importing_main
from dprobed.policy.errors import PolicyError


def serve(sock: socket.socket, tracer: TracerAhead) -> int:
    """Serve the client at the other end of ``sock`` until it is gone; the exit status.

    ``tracer``: for its first target.
    """
    if os.waitid(os.P_PID, tracer.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
        return 1  # Something that it needs is broken; it has said what.
    try:
        start.check_proc()
        tracers, gate = begin(importing_main, None, tracer)
    except PolicyError as error:  # Its client shows one line.
        line = str(error).splitlines()[0]
        print(f"dprobed: {line} (`dprobed --check-config` shows all)", file=sys.stderr)
        return 2
    except start.StartError as error:
        print(f"dprobed: {error}", file=sys.stderr)
        return 1

    def build(end: Callable[[], None]) -> App:
        return build_private(tracers, gate, tracers.resolvers, on_last_gone=end)

    asyncio.run(start.serve(build, sock))
    return 0
