"""python-ptrace's binding and structures, imported without running ``ldconfig``.

Its module ``ptrace.ctypes_libc`` finds the C library by ``ctypes.util.find_library``, which runs
``ldconfig`` (and gcc and ld where that fails) in every process that imports the binding: nearly
half of what the import costs (35 against 19 ms of CPU on a machine under load). We give it that
module: the C library that this process has loaded already. No other module of ours imports
``ptrace``, or it might come first, without this.
"""

from __future__ import annotations

import ctypes
import sys
import types
from typing import Final


def _provide_libc() -> None:
    module = types.ModuleType("ptrace.ctypes_libc", "The C library that is loaded already.")
    # PyDLL: no ptrace call blocks, so that none needs to give the interpreter lock away.
    vars(module).update(LIBC_FILENAME=None, libc=ctypes.PyDLL(None, use_errno=True))
    sys.modules.setdefault(module.__name__, module)


_provide_libc()

from ptrace.binding import func as binding  # noqa: E402
from ptrace.binding import linux_struct as structures  # noqa: E402

__all__ = ["PTRACE_INTERRUPT", "PTRACE_SEIZE", "binding", "structures"]

# <linux/ptrace.h>; python-ptrace does not know those that came with PTRACE_SEIZE (Linux 3.4).
PTRACE_SEIZE: Final = 0x4206
PTRACE_INTERRUPT: Final = 0x4207
