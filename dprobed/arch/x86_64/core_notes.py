"""Core file notes of x86-64: layouts of the notes and of the XSAVE area."""

from __future__ import annotations

import struct
from typing import Final

NT_PRFPREG: Final = 2
#: struct elf_prstatus, struct elf_prpsinfo (include/linux/elfcore.h).
PRSTATUS: Final = struct.Struct("<3ihxxQQ4i8Q216si4x")
PRPSINFO: Final = struct.Struct("<b1sbb4xQII4i16s80s")

#: In an XSAVE area: XCR0, as the kernel leaves it there, and where its parts are (CPUID 0xd);
#: the mask registers are followed by the upper halves, then by zmm16 to zmm31.
_XCR0: Final = slice(464, 472)
_AVX512: Final = 0xE0
_AMD_OPMASK: Final = 832
_AMD_PKRU: Final = 2432
_INTEL_OPMASK: Final = 1088
_INTEL_PKRU: Final = 2688


def portable_xstate(data: bytes) -> bytes:
    """An XSAVE area with AVX-512 and PKRU where Intel's processors have them.

    AMD's have them earlier, and a core does not say where: up to version 13, gdb knows Intel's
    places only, and would read none of the vector registers.
    """
    mask = int.from_bytes(data[_XCR0], "little")
    if mask & _AVX512 != _AVX512 or len(data) not in (_AMD_PKRU, _AMD_PKRU + 8):
        return data
    moved = bytearray(data[:_AMD_OPMASK].ljust(_INTEL_PKRU, b"\0"))
    moved[_INTEL_OPMASK : _INTEL_OPMASK + 64] = data[_AMD_OPMASK : _AMD_OPMASK + 64]
    moved[_INTEL_OPMASK + 64 :] = data[_AMD_OPMASK + 64 : _AMD_PKRU]
    return bytes(moved) + data[_AMD_PKRU:]
