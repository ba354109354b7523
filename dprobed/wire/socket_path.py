"""Where a daemon listens: a client asks that before it imports anything else of this package."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path


def default_socket(uid: int, environ: Mapping[str, str] = os.environ) -> Path:
    """Where the daemon of the user ``uid`` listens.

    ``/run/dprobed`` for root, else under ``XDG_RUNTIME_DIR``, else (no login session) in a folder
    of the user's own in ``/tmp``, whose ownership both sides check.
    """
    if uid == 0:
        return Path("/run/dprobed/control.sock")
    runtime = environ.get("XDG_RUNTIME_DIR", "")
    if runtime.startswith("/"):
        return Path(runtime) / "dprobed" / "control.sock"
    return Path(f"/tmp/dprobed-{uid}") / "control.sock"
