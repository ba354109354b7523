"""python-ptrace's binding and structures, imported at a tenth of their cost.

Its module ``ptrace.ctypes_libc`` finds the C library by ``ctypes.util.find_library``, which runs
``ldconfig`` (and gcc and ld where that fails) in every process that imports the binding. We give it
that module: the C library that this process has loaded already. Nobody else of ours imports
``ptrace``, so that nobody imports it first without this.
"""

from __future__ import annotations

import ctypes
import sys
import types


def _provide_libc() -> None:
    module = types.ModuleType("ptrace.ctypes_libc", "The C library that is loaded already.")
    # PyDLL: no ptrace call blocks, so that none needs to give the interpreter lock away.
    vars(module).update(LIBC_FILENAME=None, libc=ctypes.PyDLL(None, use_errno=True))
    sys.modules.setdefault(module.__name__, module)


_provide_libc()

from ptrace.binding import func as binding  # noqa: E402
from ptrace.binding import linux_struct as structures  # noqa: E402

__all__ = ["binding", "structures"]
