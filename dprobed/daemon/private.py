"""The daemon of one command, in a child that the client forked: it serves the client's socket.

Forked and not started as a program of its own, it has what the client has imported already; an
interpreter and those imports take half as long as all the rest.
"""

from __future__ import annotations

import gc
import logging
import os
import socket
import subprocess  # noqa: F401  (see below)
from typing import Final

# For those who are forked from the client, and the client: each would import it for itself.
import dprobed.program.bytecode
import dprobed.program.verifier
import dprobed.record.maps
import dprobed.resolver.addresses
import dprobed.resolver.client
import dprobed.wire.counters
import dprobed.wire.protocol  # noqa: F401
from dprobed.daemon.child_process import begin_afresh, close_all_but, rename
from dprobed.daemon.log import begin_log
from dprobed.daemon.tracer_child import fork_ahead

#: What process lists show instead of the client's name and command line.
_NAME: Final = "dprobed"
_TITLE: Final = "dprobed: private daemon"
#: Python's own thresholds for the collection of garbage; a short-lived client has others.
_GARBAGE: Final = (700, 10, 10)


def run(sock: socket.socket) -> int:
    """Serve the client at the other end of ``sock`` until it is gone; the exit status.

    Standard error is read by the client; every descriptor above it but that of ``sock`` is closed.
    """
    gc.disable()  # What is imported stays.
    rename(_NAME, _TITLE)
    begin_log(logging.WARNING)
    close_all_but([sock.fileno()])
    begin_afresh()
    # Nothing of the client's surroundings is held while it may be gone already.
    os.chdir("/")
    tracer = fork_ahead()
    # Imported here: the tracer does the same for itself meanwhile.
    from dprobed.daemon.private_service import serve

    gc.freeze()
    gc.set_threshold(*_GARBAGE)
    gc.enable()
    return serve(sock, tracer)
