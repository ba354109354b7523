"""Which instruction table the module has; written by `python -m kernel_bridge.isa_header`."""

from __future__ import annotations

from typing import Final

#: The checksum of ``kernel_bridge/interp/isa.h``.
ISA: Final = 0x51E4EC2A
