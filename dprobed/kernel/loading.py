"""Loading the module dprobes into the kernel, where the daemon's configuration says so."""

from __future__ import annotations

import shutil
import subprocess
from typing import Final

from dprobed.printable import printable

_WHERE: Final = "/usr/sbin:/sbin:/usr/bin:/bin"
#: Seconds; it reads one file and checks its signature.
_PATIENCE: Final = 30.0


def load_module() -> str:
    """Load it, by modprobe(8), and wait for that: "", or why it could not be, in one line."""
    modprobe = shutil.which("modprobe", path=_WHERE)
    if modprobe is None:
        return "there is no modprobe (Debian: kmod)"
    try:
        done = subprocess.run(
            [modprobe, "dprobes"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_PATIENCE,
            check=False,
        )
    except OSError as error:
        return f"{modprobe}: {error.strerror}"
    except subprocess.TimeoutExpired:
        return f"{modprobe} does not end"
    if done.returncode == 0:
        return ""
    lines = done.stderr.decode(errors="replace").splitlines()
    return printable(lines[-1]) if lines else f"{modprobe} ended with {done.returncode}"
