"""LLVM's representation as machine code, and what the machine code was found to do.

What comes out of LLVM is not taken on trust: every instruction is decoded, and code that uses
vector registers, leaves the blob or takes an unknown piece of the stack is refused.
"""

from __future__ import annotations

import io
from functools import cache
from typing import Any, Final

import iced_x86 as iced
import llvmlite.binding as llvm
import msgspec
from elftools.elf.elffile import ELFFile

from dprobed.program.exec.native.code import Value
from dprobed.program.registers import USER_REGS

_TRIPLE: Final = "x86_64-unknown-linux-gnu"
#: No vector and no x87 registers: those of the target stay as they are.
_FEATURES: Final = "-sse,-sse2,-mmx,-x87,+soft-float"
#: Of every function, and not known to llvmlite: no tables of jumps (they are data), and no loop
#: becomes a call of memcpy.
_ATTRIBUTES: Final = '"no-jump-tables"="true" "no-builtins"'
_SPEED: Final = 2

_GENERAL: Final = {name: n for n, name in enumerate(USER_REGS)}


class MachineCodeError(Exception):
    """LLVM's code is not what a blob may be."""


class MachineCode(msgspec.Struct, frozen=True):
    """``clobbers``: as ``Blob`` has them."""

    code: bytes
    stack_bytes: int
    clobbers: int


@cache
def _machine() -> Any:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    # Of inline assembly: system calls.
    llvm.initialize_native_asmparser()
    return llvm.Target.from_triple(_TRIPLE).create_target_machine(
        cpu="x86-64", features=_FEATURES, opt=_SPEED, reloc="pic", codemodel="small"
    )


def machine_code(module: Value) -> MachineCode:
    """The code of a module, whose first function is ``run``; raises MachineCodeError."""
    machine = _machine()
    module.triple = _TRIPLE
    module.data_layout = str(machine.target_data)
    text = str(module).replace(" noredzone", f" noredzone {_ATTRIBUTES}")
    parsed = llvm.parse_assembly(text)
    parsed.verify()
    options = llvm.create_pipeline_tuning_options(speed_level=_SPEED)
    builder = llvm.create_pass_builder(machine, options)
    passes = llvm.create_new_module_pass_manager()
    # The whole of LLVM's second level takes 20 ms for what 4 ms do nearly as well, and makes calls
    # of memcpy and memset out of loops.
    passes.add_sroa_pass()
    passes.add_simplify_cfg_pass()
    passes.add_instruction_combine_pass()
    passes.add_simplify_cfg_pass()
    passes.run(parsed, builder)
    return checked(_text_of(machine.emit_object(parsed)))


def _text_of(data: bytes) -> bytes:
    file = ELFFile(io.BytesIO(data))
    for section in file.iter_sections():
        if section["sh_flags"] & 2 and section["sh_size"] and section.name != ".text":
            raise MachineCodeError(f"there is a section {section.name}")
        if section["sh_type"] in ("SHT_REL", "SHT_RELA"):
            raise MachineCodeError("there are relocations")
    symbols: Any = file.get_section_by_name(".symtab")
    if [s["st_value"] for s in symbols.get_symbol_by_name("run")] != [0]:
        raise MachineCodeError("`run` is not at the beginning")
    text: Any = file.get_section_by_name(".text")
    return bytes(text.data())


def checked(code: bytes) -> MachineCode:
    """Code that is a blob's; raises MachineCodeError."""
    walk = _Walk(code)
    deepest = walk.function(0)
    return MachineCode(code, deepest + 8, walk.clobbers)


class _Walk:
    """Follows every way through the code, function by function."""

    def __init__(self, code: bytes) -> None:
        self._code = code
        self._deepest: dict[int, int] = {}
        self._info = iced.InstructionInfoFactory()
        self._seen: set[int] = set()
        #: Registers that ``run`` changes and does not restore.
        self.clobbers = 0

    def function(self, start: int) -> int:
        """The most bytes of the stack that the function takes, without its return address."""
        if start in self._deepest:
            if self._deepest[start] < 0:
                raise MachineCodeError("a function calls itself")
            return self._deepest[start]
        self._deepest[start] = -1
        depths = {start: 0}
        waiting = [start]
        deepest = 0
        while waiting:
            offset = waiting.pop()
            for after, depth, used in self._follow(offset, depths[offset]):
                deepest = max(deepest, used)
                if depths.setdefault(after, depth) != depth:
                    raise MachineCodeError(f"the stack at {after:#x} is of two depths")
                waiting.append(after)
            deepest = max(deepest, depths[offset])
        self._deepest[start] = deepest
        return deepest

    def _follow(self, offset: int, depth: int) -> list[tuple[int, int, int]]:
        """The instructions behind the one at an offset that were not seen yet, the depth there, and
        what the instruction itself takes at most."""
        seen = self._seen
        if offset in seen:
            return []
        seen.add(offset)
        decoder = iced.Decoder(64, self._code[offset : offset + 15], ip=offset)
        one = decoder.decode()
        if one.is_invalid:
            raise MachineCodeError(f"no instruction at {offset:#x}")
        self._look(one)
        flow = one.flow_control
        now = depth - one.stack_pointer_increment
        used = max(depth, now)
        if flow == iced.FlowControl.RETURN:
            if depth != 0:
                raise MachineCodeError("the stack is not level at a return")
            return []
        if flow == iced.FlowControl.EXCEPTION:
            return []
        if flow == iced.FlowControl.CALL:
            if one.op_kind(0) != iced.OpKind.NEAR_BRANCH64:
                # A system call is one by iced's reckoning.
                if one.mnemonic != iced.Mnemonic.SYSCALL:
                    raise MachineCodeError(f"a call by a pointer at {offset:#x}")
                return [(one.next_ip, depth, depth)]
            self._inside(one.near_branch_target)
            used = depth + 8 + self.function(one.near_branch_target)
            return [(one.next_ip, depth, used)]
        targets = [] if flow == iced.FlowControl.UNCONDITIONAL_BRANCH else [one.next_ip]
        if flow in (iced.FlowControl.UNCONDITIONAL_BRANCH, iced.FlowControl.CONDITIONAL_BRANCH):
            self._inside(one.near_branch_target)
            targets.append(one.near_branch_target)
        elif flow != iced.FlowControl.NEXT:
            raise MachineCodeError(f"a jump by a pointer at {offset:#x}")
        else:
            now = self._moved(one, now)
        return [(target, now, max(used, now)) for target in targets]

    def _inside(self, target: int) -> None:
        if not 0 <= target < len(self._code):
            raise MachineCodeError(f"a jump out of the code, to {target:#x}")

    @staticmethod
    def _moved(one: Any, depth: int) -> int:
        """The depth where an instruction adds to rsp, or takes from it."""
        writes_rsp = (
            one.op_count
            and one.op_kind(0) == iced.OpKind.REGISTER
            and (one.op0_register == iced.Register.RSP)
        )
        if not writes_rsp or one.mnemonic in (iced.Mnemonic.CMP, iced.Mnemonic.TEST):
            return depth
        constant = one.op_count == 2 and one.op_kind(1) in (
            iced.OpKind.IMMEDIATE8TO64,
            iced.OpKind.IMMEDIATE32TO64,
        )
        if one.mnemonic == iced.Mnemonic.SUB and constant:
            return int(depth + one.immediate(1))
        if one.mnemonic == iced.Mnemonic.ADD and constant:
            return int(depth - one.immediate(1))
        raise MachineCodeError(f"the stack is moved by what is not known: {one}")

    def _look(self, one: Any) -> None:
        """Whether it is of another kind, or touches registers that it may not."""
        if not _KINDS.issuperset(one.cpuid_features()):
            raise MachineCodeError(f"{one} is of no kind that is expected")
        info = self._info.info(one)
        for each in info.used_registers():
            register = iced.RegisterExt.full_register(each.register)
            if iced.RegisterExt.is_gpr(register):
                if each.access not in _READS:
                    self._clobbered(register)
            elif not iced.RegisterExt.is_segment_register(register):
                raise MachineCodeError(f"{one} touches more than general registers")
            elif each.access not in _READS:
                raise MachineCodeError(f"{one} alters a segment register")

    def _clobbered(self, register: int) -> None:
        name = _NAMES[register]
        if name not in _PRESERVED:
            self.clobbers |= 1 << _GENERAL[name]


#: Instructions of general registers; those of x87 registers do not even name them.
_KINDS: Final = frozenset(
    (
        iced.CpuidFeature.INTEL8086,
        iced.CpuidFeature.INTEL186,
        iced.CpuidFeature.INTEL286,
        iced.CpuidFeature.INTEL386,
        iced.CpuidFeature.INTEL486,
        iced.CpuidFeature.X64,
        iced.CpuidFeature.CMOV,
        iced.CpuidFeature.MULTIBYTENOP,
        iced.CpuidFeature.PAUSE,
        iced.CpuidFeature.SYSCALL,
    )
)
_READS: Final = (
    iced.OpAccess.READ,
    iced.OpAccess.COND_READ,
    iced.OpAccess.NO_MEM_ACCESS,
    iced.OpAccess.NONE,
)
_NAMES: Final = {
    getattr(iced.Register, name.upper()): name
    for name in (*(n for n in USER_REGS if n[0] == "r" and n != "rip"),)
}
#: What the calling convention preserves.
_PRESERVED: Final = ("rbx", "rbp", "r12", "r13", "r14", "r15", "rsp")
