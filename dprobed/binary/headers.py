"""How an ELF file's headers lie in it, and their numbers: for ``elf``, which reads them, and for
who writes a core.

Layout: System V ABI, chapters 4 and 5, and its AMD64 supplement.
"""

from __future__ import annotations

import struct
from typing import Final

#: ``Elf64_Ehdr``, ``Elf64_Phdr`` and ``Elf64_Shdr``.
EHDR: Final = struct.Struct("<16sHHIQQQIHHHHHH")
PHDR: Final = struct.Struct("<IIQQQQQQ")
SHDR: Final = struct.Struct("<IIQQQQIIQQ")
#: ``Elf64_Nhdr``: the lengths of name and content, the type.
NOTE: Final = struct.Struct("<III")

#: The first bytes of each file, and what follows them in one of 64-bit little-endian code.
MAGIC: Final = b"\x7fELF"
IDENT: Final = MAGIC + b"\x02\x01\x01" + bytes(9)
EM_X86_64: Final = 62
ET_REL, ET_EXEC, ET_DYN, ET_CORE = 1, 2, 3, 4
PT_LOAD, PT_DYNAMIC, PT_INTERP, PT_NOTE, PT_TLS, PT_GNU_EH_FRAME = 1, 2, 3, 4, 7, 0x6474E550
PF_X, PF_W = 1, 2
SHT_SYMTAB, SHT_RELA, SHT_NOBITS, SHT_DYNSYM = 2, 4, 8, 11
SHT_GNU_VERDEF, SHT_GNU_VERSYM = 0x6FFFFFFD, 0x6FFFFFFF
SHF_ALLOC, SHF_EXECINSTR, SHF_TLS, SHF_COMPRESSED = 2, 4, 0x400, 0x800
#: A number of program headers, or an index of a section, that is in section header 0.
PN_XNUM: Final = 0xFFFF
