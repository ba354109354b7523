"""Where a process has the thread-local variables of a module.

Those of a module that was loaded with the program are as far below the thread pointer in every
thread. How far, a word of the module says, or only the dynamic linker knows: glibc's writes down
for debuggers how to read that (nptl_db). Those of a module that was loaded later (``dlopen``) each
thread may have anywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from dprobed.arch.x86_64.paging import WORD
from dprobed.resolver.errors import LocationError
from dprobed.wire.resolver import Offset

_SIGN: Final = 1 << 63
#: ``struct r_debug`` and ``struct link_map`` (link.h): offsets of what is read of them.
_R_MAP, _R_STATE = 8, 24
_L_ADDR, _L_NEXT = 0, 24
_RT_CONSISTENT: Final = 0
#: The list of modules lies in the target's memory: it may be a circle.
_MOST_MODULES: Final = 4096
#: ``l_tls_offset`` of a module whose variables lie elsewhere (sysdeps/generic/ldsodefs.h).
_NONE, _DYNAMIC = 0, WORD


class NotYetError(LocationError):
    """What the loader will know it does not know yet."""


class Loader:
    """What the dynamic linker of a process has decided.

    ``peek`` reads a word of its memory, ``find`` says where a library has a symbol: 0 for none.
    """

    def __init__(self, peek: Callable[[int], int], find: Callable[[str, str], int]) -> None:
        self._peek: Final = peek
        self._find: Final = find

    def thread_offset(self, symbol: str, local: Offset, bias: int) -> int:
        """A thread-local variable's offset from the thread pointer; raises LocationError.

        ``bias``: where its module is loaded.
        """
        match local.base:
            case "thread":
                return local.more & WORD
            case "word":
                offset = self._peek(local.vaddr + bias)
                if not offset & _SIGN:
                    # Thread-local variables lie below the thread pointer.
                    raise NotYetError(f"{symbol}: the loader has not said yet where it is")
                return offset + local.more & WORD
            case "module":
                return local.more - self._below(symbol, bias) & WORD

    def _below(self, symbol: str, bias: int) -> int:
        """How far below the thread pointer the variables of the module loaded there begin."""
        layout = self._find("libc.so.6", "_thread_db_link_map_l_tls_offset")
        debug = self._find("ld-linux-x86-64.so.2", "_r_debug")
        if not layout or not debug:
            raise LocationError(
                f"{symbol}: nothing says where this process has the thread-local variables of "
                "its libraries",
                "those of the program itself, and errno, can be pushed",
            )
        # The number of bits, of elements, and the offset in link_map: 32 bits each.
        where = self._peek(layout + 8) & 0xFFFF_FFFF
        for link_map in self._link_maps(debug):
            if self._peek(link_map + _L_ADDR) == bias:
                found = self._peek(link_map + where)
                if found not in (_NONE, _DYNAMIC):
                    return found
                break
        if self._peek(debug + _R_STATE) & 0xFFFF_FFFF != _RT_CONSISTENT or not self._peek(debug):
            raise NotYetError(f"{symbol}: the loader has not said yet where it is")
        raise LocationError(
            f"{symbol}: each thread has it elsewhere, as the module was loaded by dlopen",
            "load the library with the program (-l, or LD_PRELOAD), or give the variable the "
            'attribute tls_model("initial-exec")',
        )

    def _link_maps(self, debug: int) -> Iterator[int]:
        link_map = self._peek(debug + _R_MAP)
        for _ in range(_MOST_MODULES):
            if not link_map:
                return
            yield link_map
            link_map = self._peek(link_map + _L_NEXT)
