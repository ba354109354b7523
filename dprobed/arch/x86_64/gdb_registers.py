"""Registers in gdb's numbering, and the target description (XML) that defines it.

A thread's registers are two blocks of bytes: ``struct user_regs_struct`` and the XSAVE area (Intel
SDM vol. 1, chapter 13.4), of which ptrace gives the standard form. A register is a range of one of
them, but for the x87's tag word, of which XSAVE keeps only "empty or not", and the segments and
offsets of its last operation. Nothing here does ptrace.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from dprobed.arch.x86_64.fxsave import XMM, XMM_SIZE
from dprobed.arch.x86_64.registers import REGISTER_NAMES

Buffer = bytes | bytearray

_GENERAL: Final = (
    "rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp", "r8", "r9", "r10", "r11", "r12", "r13",
    "r14", "r15", "rip", "eflags", "cs", "ss", "ds", "es", "fs", "gs",
)  # fmt: skip
_X87: Final = ("fctrl", "fstat", "ftag", "fiseg", "fioff", "foseg", "fooff", "fop")
#: Those of four bytes.
_SHORT: Final = frozenset(("eflags", "cs", "ss", "ds", "es", "fs", "gs"))
_LEGACY: Final = 512
#: XSTATE_BV: which parts are not in their initial state.
_STATE_BV: Final = slice(512, 520)
#: Where the upper halves of the ymm registers are: of all processors that have them.
_AVX: Final = 576
#: So long an XSAVE area is at least that has them.
XSAVE_AVX: Final = 832
_SSE_BIT: Final = 2
_AVX_BIT: Final = 4


class Register(NamedTuple):
    """``block``: 0 the general registers, 1 the XSAVE area; ``start`` and ``held``: where in it.

    ``size``: bytes on the wire; more than ``held`` are zero. ``part``: its bit in XSTATE_BV.
    """

    name: str
    size: int
    block: int
    start: int
    held: int
    part: int = 0


def _core() -> list[Register]:
    table = []
    for name in _GENERAL:
        size = 4 if name in _SHORT else 8
        table.append(Register(name, size, 0, 8 * REGISTER_NAMES.index(name), size))
    table += [Register(f"st{n}", 10, 1, 32 + 16 * n, 10, 1) for n in range(8)]
    places = {"fctrl": 0, "fstat": 2, "ftag": 4, "fop": 6, "fioff": 8, "fiseg": 12}
    places |= {"fooff": 16, "foseg": 20}
    for name in _X87:
        held = 4 if name.endswith("off") else 2
        table.append(Register(name, 4, 1, places[name], held, 1))
    return table


def _described(feature: str, table: list[Register], first: int) -> str:
    lines = [f'<feature name="org.gnu.gdb.i386.{feature}">']
    if feature == "core":
        lines.append(_EFLAGS)
    if feature == "sse":
        lines.append(_VECTORS)
    if feature == "avx":
        lines[-1] += '<vector id="v16i8" type="int8" count="16"/>'
    for position, register in enumerate(table):
        kind = _KINDS.get(register.name) or ("i387_ext" if register.size == 10 else "")
        kind = kind or {4: "int32", 8: "int64"}.get(register.size, "")
        if register.size == 16:
            kind = "vec128" if feature == "sse" else "uint128"
        group = ' group="float"' if register.name in _X87 else ""
        lines.append(
            f'<reg name="{register.name}" bitsize="{8 * register.size}" type="{kind}"'
            f' regnum="{first + position}"{group}/>'
        )
    return "\n".join([*lines, "</feature>"])


_FLAGS: Final = {
    "CF": 0, "PF": 2, "AF": 4, "ZF": 6, "SF": 7, "TF": 8, "IF": 9, "DF": 10, "OF": 11, "NT": 14,
    "RF": 16, "VM": 17, "AC": 18, "VIF": 19, "VIP": 20, "ID": 21,
}  # fmt: skip
_EFLAGS: Final = (
    '<flags id="i386_eflags" size="4">'
    + "".join(f'<field name="{name}" start="{at}" end="{at}"/>' for name, at in _FLAGS.items())
    + "</flags>"
)
_MXCSR: Final = (
    "IE", "DE", "ZE", "OE", "UE", "PE", "DAZ", "IM", "DM", "ZM", "OM", "UM", "PM",
)  # fmt: skip
_VECTORS: Final = (
    '<vector id="v4f" type="ieee_single" count="4"/>'
    '<vector id="v2d" type="ieee_double" count="2"/>'
    '<vector id="v16i8" type="int8" count="16"/>'
    '<vector id="v8i16" type="int16" count="8"/>'
    '<vector id="v4i32" type="int32" count="4"/>'
    '<vector id="v2i64" type="int64" count="2"/>'
    '<union id="vec128">'
    '<field name="v4_float" type="v4f"/><field name="v2_double" type="v2d"/>'
    '<field name="v16_int8" type="v16i8"/><field name="v8_int16" type="v8i16"/>'
    '<field name="v4_int32" type="v4i32"/><field name="v2_int64" type="v2i64"/>'
    '<field name="uint128" type="uint128"/></union>'
    '<flags id="i386_mxcsr" size="4">'
    + "".join(f'<field name="{name}" start="{at}" end="{at}"/>' for at, name in enumerate(_MXCSR))
    + '<field name="FZ" start="15" end="15"/></flags>'
)
_KINDS: Final = {
    "rbp": "data_ptr",
    "rsp": "data_ptr",
    "rip": "code_ptr",
    "eflags": "i386_eflags",
    "mxcsr": "i386_mxcsr",
}


class Layout:
    """The registers of this machine, in the order of the ``g`` packet."""

    def __init__(self, avx: bool) -> None:
        """``avx``: whether the XSAVE area reaches beyond SSE, to the upper halves of ymm."""
        sse = [Register(f"xmm{n}", 16, 1, XMM + XMM_SIZE * n, 16, _SSE_BIT) for n in range(16)]
        sse.append(Register("mxcsr", 4, 1, 24, 4, _SSE_BIT))
        words = ("orig_rax", "fs_base", "gs_base")
        orig, fs, gs = (Register(name, 8, 0, 8 * REGISTER_NAMES.index(name), 8) for name in words)
        features = [("core", _core()), ("sse", sse), ("linux", [orig]), ("segments", [fs, gs])]
        if avx:
            high = [Register(f"ymm{n}h", 16, 1, _AVX + 16 * n, 16, _AVX_BIT) for n in range(16)]
            features.append(("avx", high))
        self.table: Final[list[Register]] = []
        described = []
        for feature, registers in features:
            described.append(_described(feature, registers, len(self.table)))
            self.table.extend(registers)
        self.numbers: Final = {each.name: number for number, each in enumerate(self.table)}
        self.description: Final = (
            '<?xml version="1.0"?>\n<!DOCTYPE target SYSTEM "gdb-target.dtd">\n<target>\n'
            "<architecture>i386:x86-64</architecture>\n<osabi>GNU/Linux</osabi>\n"
            + "\n".join(described)
            + "\n</target>\n"
        ).encode()

    def read(self, number: int, general: Buffer, xsave: Buffer) -> bytes:
        """One register as it goes over the wire; raises IndexError."""
        register = self.table[number]
        if register.name == "ftag":
            return _full_tag(xsave).to_bytes(4, "little")
        block = xsave if register.block else general
        value = bytes(block[register.start : register.start + register.held])
        return value.ljust(register.size, b"\0")

    def write(self, number: int, value: bytes, general: bytearray, xsave: bytearray) -> None:
        """Set one register in its block; raises IndexError."""
        register = self.table[number]
        if register.name == "ftag":
            value = _short_tag(int.from_bytes(value, "little")).to_bytes(2, "little")
        block = xsave if register.block else general
        end = register.start + register.held
        new = value[: register.held].ljust(register.held, b"\0")
        if block[register.start : end] == new:
            return
        block[register.start : end] = new
        if register.part and len(xsave) > _LEGACY:
            # A part whose bit is clear is in its initial state, whatever its bytes say.
            parts = int.from_bytes(xsave[_STATE_BV], "little") | register.part
            xsave[_STATE_BV] = parts.to_bytes(8, "little")

    def read_all(self, general: Buffer, xsave: Buffer) -> bytes:
        """The ``g`` packet's bytes."""
        return b"".join(self.read(n, general, xsave) for n in range(len(self.table)))

    def write_all(self, data: bytes, general: bytearray, xsave: bytearray) -> None:
        """Set all registers, from a ``G`` packet's bytes."""
        at = 0
        for number, register in enumerate(self.table):
            value = data[at : at + register.size]
            if len(value) < register.size:
                return
            self.write(number, value, general, xsave)
            at += register.size


def _full_tag(xsave: Buffer) -> int:
    """Two bits a register: 0 valid, 1 zero, 2 special, 3 empty (SDM vol. 1, 8.1.7)."""
    top = xsave[3] >> 3 & 7
    tag = 0
    for physical in range(8):
        kind = 3
        if xsave[4] >> physical & 1:
            at = 32 + 16 * (physical - top & 7)
            fraction = int.from_bytes(xsave[at : at + 8], "little")
            exponent = int.from_bytes(xsave[at + 8 : at + 10], "little") & 0x7FFF
            if exponent == 0x7FFF:
                kind = 2
            elif exponent:
                kind = 0 if fraction >> 63 else 2
            else:
                kind = 2 if fraction else 1
        tag |= kind << 2 * physical
    return tag


def _short_tag(tag: int) -> int:
    return sum(1 << n for n in range(8) if tag >> 2 * n & 3 != 3)
