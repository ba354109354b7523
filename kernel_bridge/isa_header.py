"""The instruction table as a C header: ``interp/isa.h``, for the interpreter in the kernel; and its
checksum for the daemon, which asks the module for it.

python -m kernel_bridge.isa_header            write them
python -m kernel_bridge.isa_header --check    fail if they are not what would be written
"""

from __future__ import annotations

import re
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from dprobed.program import exceptions, exits, isa, items, maps, user_stack
from dprobed.program.exec.lowering import FRAME_COST
from dprobed.program.generated import write_or_check
from dprobed.program.isa import Flow, Instruction, Operand
from dprobed.program.registers import REGISTERS, USER_REGS, Register
from dprobed.program.values import KIND_NUMBERS, MAX_NAME, VALUE_KINDS
from dprobed.program.verifier import MAX_FACILITIES, MAX_NAMES, MAX_PROBES

HEADER: Final = Path(__file__).parent / "interp" / "isa.h"
CHECKSUM: Final = Path(__file__).parent.parent / "dprobed" / "kernel" / "isa_checksum.py"

#: The registers of the processor itself.
CPU: Final = [register.name for register in REGISTERS if register.kernel_only]

_CHECKSUM: Final = '''\
"""Which instruction table the module has; written by `python -m kernel_bridge.isa_header`."""

from __future__ import annotations

from typing import Final

#: The checksum of ``kernel_bridge/interp/isa.h``.
ISA: Final = 0x{:08X}
'''

_HEAD: Final = """\
/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The instruction table of the probe language, for C.
 *
 * Written by `python -m kernel_bridge.isa_header` from dprobed/program/isa.py:
 * do not edit.  One file has the tables themselves: where DP_ISA_TABLES is defined.
 */
#ifndef DP_ISA_H
#define DP_ISA_H
"""

_STRUCTS: Final = """\
/**
 * struct dp_insn - one instruction of the table
 * @size: bytes of the encoded instruction, 0 where the opcode is none
 * @operand: kind of its operand
 * @flow: where the program goes on
 * @flags: DP_INSN_*
 * @pops: words that it pops
 * @pushes: words that it pushes, -1 where only run time tells
 * @pops_each: words more popped for each unit of its count
 * @pushes_each: words more pushed for each unit of its count
 * @peeks: words below those popped that must be there
 */
struct dp_insn {
\t__u8 size;
\t__u8 operand;
\t__u8 flow;
\t__u8 flags;
\t__s8 pops;
\t__s8 pushes;
\t__s8 pops_each;
\t__s8 pushes_each;
\t__s8 peeks;
};

/**
 * struct dp_register - a register that programs know
 * @mask: which bits of the word it has
 * @index: its enum dp_reg, with DP_REG_KERNEL its enum dp_cpu; not with DP_REG_FPU
 * @words: words that a push pushes
 * @takes: words that a push pops first
 * @flags: DP_REG_*
 */
struct dp_register {
\t__u64 mask;
\t__u8 index;
\t__u8 words;
\t__u8 takes;
\t__u8 flags;
};
"""


def _symbol(text: str) -> str:
    return re.sub(r"[^A-Z0-9]+", "_", text.upper())


def _enum(name: str, values: dict[str, int], hexadecimal: bool = False) -> Iterator[str]:
    yield f"enum {name} {{"
    for key, value in values.items():
        yield f"\t{key} = {hex(value) if hexadecimal else value},"
    yield "};"
    yield ""


def _insn_flags(instruction: Instruction) -> str:
    flags = {
        "DP_INSN_LOCALS": instruction.group == "locals",
        "DP_INSN_GLOBALS": instruction.group == "globals",
        "DP_INSN_KERNEL": instruction.kernel_only,
        "DP_INSN_WRITES": instruction.writes,
        "DP_INSN_HOLDS": instruction.holds,
        "DP_INSN_USTACK": instruction.name.endswith(" ustack"),
    }
    return " | ".join(flag for flag, is_set in flags.items() if is_set) or "0"


def _insn(instruction: Instruction) -> str:
    operand = instruction.operands[0].name if instruction.operands else "NONE"
    pushes = -1 if instruction.pushes is None else instruction.pushes
    numbers = (
        instruction.pops,
        pushes,
        instruction.pops_each,
        instruction.pushes_each,
        instruction.peeks,
    )
    return (
        f"\t[DP_OP_{_symbol(instruction.key)}] = {{\n"
        f"\t\t{instruction.size}, DP_OPERAND_{operand}, DP_FLOW_{instruction.flow.name},\n"
        f"\t\t{_insn_flags(instruction)}, {', '.join(map(str, numbers))},\n\t}},"
    )


def _index(register: Register) -> int:
    if register.kernel_only:
        return CPU.index(register.name)
    return 0 if register.fxsave else register.user_index


def _register(register: Register) -> str:
    flags = {
        "DP_REG_FPU": bool(register.fxsave),
        "DP_REG_KERNEL": register.kernel_only,
        "DP_REG_POP_USER": register.pop_user,
        "DP_REG_POP_KERNEL": register.pop_kernel,
        "DP_REG_FLAGS": "rflags" in (register.name, register.part_of),
    }
    chosen = " | ".join(flag for flag, is_set in flags.items() if is_set) or "0"
    mask = (1 << min(register.bits, 64)) - 1
    return (
        f"\t{{ /* {register.name} */\n\t\t{mask:#x}, {_index(register)}, "
        f"{register.words}, {register.takes},\n\t\t{chosen},\n\t}},"
    )


def _tables() -> Iterator[str]:
    yield f"#define DP_REGISTERS {len(REGISTERS)}"
    yield "extern const struct dp_insn dp_insns[256];"
    yield "extern const struct dp_register dp_registers[DP_REGISTERS];"
    yield ""
    yield "#ifdef DP_ISA_TABLES"
    yield "const struct dp_insn dp_insns[256] = {"
    yield from map(_insn, isa.INSTRUCTIONS)
    yield "};"
    yield ""
    yield "const struct dp_register dp_registers[DP_REGISTERS] = {"
    yield from map(_register, REGISTERS)
    yield "};"
    yield "#endif /* DP_ISA_TABLES */"
    yield ""


def _limits() -> dict[str, int]:
    return {
        "DP_STACK_WORDS": isa.STACK_WORDS,
        "DP_CALL_FRAMES": isa.CALL_FRAMES,
        "DP_MAX_VARIABLES": isa.MAX_VARIABLES,
        "DP_MAX_CODE": isa.MAX_CODE,
        "DP_MAX_PROBES": MAX_PROBES,
        "DP_MAX_FACILITIES": MAX_FACILITIES,
        "DP_MAX_NAMES": MAX_NAMES,
        "DP_MAX_NAME": MAX_NAME,
        "DP_MAX_COUNT": items.MAX_COUNT,
        "DP_BUDGET": exits.INSTRUCTION_BUDGET,
        "DP_FATAL_EX_MASK": exceptions.FATAL_EX_MASK,
        "DP_OPERAND_IS_LOCAL": exceptions.OPERAND_LOCAL,
        "DP_OPERAND_IS_GLOBAL": exceptions.OPERAND_GLOBAL,
        "DP_OPERAND_IS_BIT": exceptions.OPERAND_BIT,
        "DP_OPERAND_IS_FACILITY": exceptions.OPERAND_FACILITY,
        "DP_OPERAND_IS_HOOK": exceptions.OPERAND_HOOK,
        "DP_OPERAND_IS_REGISTER": exceptions.OPERAND_REGISTER,
        "DP_OPERAND_IS_PORT": exceptions.OPERAND_PORT,
        "DP_OPERAND_IS_KEY": exceptions.OPERAND_KEY,
        "DP_KEPT_WORDS": isa.KEPT_WORDS,
        "DP_FACILITY_DUMP": exits.DUMP,
        "DP_REGS": len(USER_REGS),
        "DP_VALUE_KINDS": len(VALUE_KINDS),
        "DP_VALUE_HEX": KIND_NUMBERS["hex"],
        "DP_MAX_MAPS": maps.MAX_MAPS,
        "DP_MAX_KEY_ITEMS": maps.MAX_KEY_ITEMS,
        "DP_MAX_MAP_SIZE": maps.MAX_SIZE,
        "DP_MAX_BUCKETS": maps.MAX_BUCKETS,
        "DP_STRING_BYTES": maps.STRING_BYTES,
        **_hist_and_tseries(),
        "DP_MOST_FRAMES": user_stack.MOST_FRAMES,
        "DP_USUAL_FRAMES": user_stack.USUAL_FRAMES,
        "DP_FRAME_COST": FRAME_COST,
    }


def _hist_and_tseries() -> dict[str, int]:
    """How large the arguments of these can be."""
    (bits,) = maps.KIND_BY_NAME["hist"].arguments
    interval, _ = maps.KIND_BY_NAME["tseries"].arguments
    return {"DP_MAX_HIST_BITS": bits.high, "DP_MAX_INTERVAL": interval.high}


def _body() -> Iterator[str]:
    for name, number in _limits().items():
        yield f"#define {name} {number}"
    yield ""
    yield from _enum("dp_op", {f"DP_OP_{_symbol(i.key)}": i.opcode for i in isa.INSTRUCTIONS}, True)
    kinds = {"DP_OPERAND_NONE": 0, **{f"DP_OPERAND_{k.name}": n for n, k in enumerate(Operand, 1)}}
    yield from _enum("dp_operand", kinds)
    yield from _enum("dp_flow", {f"DP_FLOW_{flow.name}": n for n, flow in enumerate(Flow)})
    yield from _enum("dp_ex", {f"DP_EX_{code.name}": int(code) for code in exceptions.ExCode}, True)
    yield from _enum("dp_item", {f"DP_ITEM_{t.name}": int(t) for t in items.ItemToken})
    yield from _enum(
        "dp_exit",
        {
            f"DP_EXIT_{_symbol(name)}": code
            for code, name in (
                *exits.EXIT_NAMES.items(),
                (exits.ABORT, "abort"),
                (exits.DUMP_ONCE, "dump once"),
            )
        },
    )
    ends = {f"DP_END_{end.name}": int(end) for end in user_stack.StackEnd}
    yield from _enum("dp_stack_end", ends)
    yield from _enum("dp_kind", {f"DP_KIND_{_symbol(k.name)}": n for n, k in enumerate(maps.KINDS)})
    yield from _enum("dp_reg", {f"DP_REG_{_symbol(n)}": i for i, n in enumerate(USER_REGS)})
    yield from _enum("dp_cpu", {f"DP_CPU_{_symbol(n)}": i for i, n in enumerate(CPU)})
    insn_flags = ("LOCALS", "GLOBALS", "KERNEL", "WRITES", "HOLDS", "USTACK")
    for bit, name in enumerate(insn_flags):
        yield f"#define DP_INSN_{name} {1 << bit:#x}"
    yield ""
    for bit, name in enumerate(("FPU", "KERNEL", "POP_USER", "POP_KERNEL", "FLAGS")):
        yield f"#define DP_REG_{name} {1 << bit:#x}"
    yield ""
    yield _STRUCTS
    yield from _tables()


def checksum() -> int:
    """Of all that is in the header: who loads programs asks for it, so that the numbers on both
    sides are the same."""
    return zlib.crc32("\n".join(_body()).encode())


def header() -> str:
    """The whole header."""
    body = "\n".join(_body())
    return f"{_HEAD}\n#define DP_ISA_CRC {checksum():#010x}u\n\n{body}\n#endif /* DP_ISA_H */\n"


def main(arguments: list[str]) -> int:
    """Write or check the files; the process's exit status."""
    files = ((HEADER, header()), (CHECKSUM, _CHECKSUM.format(checksum())))
    return max(
        write_or_check("kernel_bridge.isa_header", path, text, arguments) for path, text in files
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
