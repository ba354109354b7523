"""The registers of a thread: the names that programs know, and where each is kept.

``REGISTERS`` is the language's table (an operand of `push r` is an index in it), ``USER_REGS`` the
order in which the kernel hands over a stopped thread's general registers.
"""

from __future__ import annotations

from typing import Final, NamedTuple

#: Names of ``struct user_regs_struct`` in the kernel's order (arch/x86/include/asm/user_64.h); the
#: index of a name is its index in ``Context.regs``.
USER_REGS: Final[tuple[str, ...]] = (
    "r15", "r14", "r13", "r12", "rbp", "rbx", "r11", "r10", "r9", "r8", "rax", "rcx", "rdx",
    "rsi", "rdi", "orig_rax", "rip", "cs", "eflags", "rsp", "ss", "fs_base", "gs_base", "ds",
    "es", "fs", "gs",
)  # fmt: skip

#: Offset and bytes of the fields of the FXSAVE image (Intel SDM vol. 1, table 10-2).
_FXSAVE_FIELDS: Final = {"fcw": (0, 2), "fsw": (2, 2), "ftw": (4, 1), "mxcsr": (24, 4)}
_FXSAVE_X87: Final = 32
_FXSAVE_SSE: Final = 160


class Register(NamedTuple):
    """A register that `push r`, `pop r`, `push u` and `pop u` know by name.

    ``words`` are pushed, the low one on TOS; ``takes`` are popped first by a push (the number of a
    model-specific register, the leaf of ``cpuid``). ``user``/``kernel``: whether programs for user
    and kernel modules may pop it. ``part_of``: the register whose low 32 bits this one is; popping
    it clears the upper half, as the processor does.
    """

    name: str
    bits: int
    meaning: str
    words: int = 1
    takes: int = 0
    pop_user: bool = True
    pop_kernel: bool = True
    kernel_only: bool = False
    part_of: str | None = None

    def may_pop(self, kernel: bool) -> bool:
        """Whether a program for a kernel (or user) module may alter it."""
        return self.pop_kernel if kernel else self.pop_user

    @property
    def user_index(self) -> int:
        """Its place in ``USER_REGS`` (that of the whole register for a low half)."""
        name = self.part_of or self.name
        return USER_REGS.index("eflags" if name == "rflags" else name)

    @property
    def fxsave(self) -> tuple[tuple[int, int], ...]:
        """(offset, bytes) of each of its words in the FXSAVE image, the low one first.

        Empty for a register that is not kept there.
        """
        if self.name in _FXSAVE_FIELDS:
            return (_FXSAVE_FIELDS[self.name],)
        if self.name.startswith("fr"):
            at = _FXSAVE_X87 + 16 * int(self.name[2:])
            return (at, 8), (at + 8, 2)
        if self.name.startswith("xmm"):
            at = _FXSAVE_SSE + 16 * int(self.name[3:])
            return (at, 8), (at + 8, 8)
        return ()


def _general() -> list[Register]:
    whole = ["rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp"]
    halves = {name: "e" + name[1:] for name in whole}
    for number in range(8, 16):
        whole.append(f"r{number}")
        halves[f"r{number}"] = f"r{number}d"
    found = [Register(name, 64, "general register") for name in whole]
    found.append(Register("rsp", 64, "stack pointer", pop_kernel=False))
    found.append(
        Register("rip", 64, "address of the probed instruction; popped: go on there",
                 pop_kernel=False)
    )  # fmt: skip
    found.append(Register("rflags", 64, "flags; popped: all but the trap flag", pop_kernel=False))
    found.extend(
        Register(half, 32, f"low half of {name}", part_of=name) for name, half in halves.items()
    )
    # A stack pointer or program counter cut to 32 bits can only crash the target: never popped.
    for half, name in (("esp", "rsp"), ("eip", "rip")):
        found.append(
            Register(half, 32, f"low half of {name}", pop_user=False, pop_kernel=False,
                     part_of=name)
        )  # fmt: skip
    found.append(Register("eflags", 32, "low half of rflags", pop_kernel=False, part_of="rflags"))
    return found


def _fixed(name: str, bits: int, meaning: str, words: int = 1, takes: int = 0) -> Register:
    return Register(name, bits, meaning, words, takes, pop_user=False, pop_kernel=False)


def _registers() -> tuple[Register, ...]:
    found = _general()
    found.extend(
        _fixed(name, 16, "segment register") for name in ("cs", "ss", "ds", "es", "fs", "gs")
    )
    found.extend(_fixed(f"{name}_base", 64, f"base of segment {name}") for name in ("fs", "gs"))
    found.append(Register("fcw", 16, "x87 control word"))
    found.append(Register("fsw", 16, "x87 status word"))
    found.append(Register("ftw", 8, "x87 tag word, abridged as FXSAVE stores it"))
    found.append(Register("mxcsr", 32, "SSE control and status; popped: the low 16 bits"))
    found.extend(Register(f"fr{n}", 80, "x87 data register, ST order", 2) for n in range(8))
    found.extend(Register(f"xmm{n}", 128, "SSE register", 2) for n in range(16))
    kernel = [_fixed(f"cr{n}", 64, "control register") for n in (0, 2, 3, 4)]
    kernel.extend(_fixed(f"dr{n}", 64, "debug register") for n in range(8))
    kernel.append(_fixed("gdtr", 80, "base (TOS) and limit of the GDT", 2))
    kernel.append(_fixed("idtr", 80, "base (TOS) and limit of the IDT", 2))
    kernel.append(_fixed("ldtr", 16, "selector of the LDT"))
    kernel.append(_fixed("tr", 16, "selector of the task segment"))
    kernel.append(_fixed("msr", 64, "the model-specific register whose number is on TOS", 1, 1))
    kernel.append(_fixed("cpuid", 128, "the leaf on TOS: eax (TOS), ebx, ecx, edx", 4, 1))
    found.extend(register._replace(kernel_only=True) for register in kernel)
    return tuple(found)


REGISTERS: Final[tuple[Register, ...]] = _registers()
REGISTER_INDEX: Final[dict[str, int]] = {r.name: i for i, r in enumerate(REGISTERS)}
