"""The one table of instructions of the probe language, and the small tables around it.

Assembler, verifier, disassembler, executors and the reference page are all derived from what is
here; no other module knows an opcode by number. (Registers: ``registers``; exceptions and their
codes: ``exceptions``; the tokens of the log's items: ``items``.)

An instruction is one opcode byte and its operands, little-endian, without padding:

======== ===== ==============================================================================
kind     bytes value
======== ===== ==============================================================================
WORD     8     any word, unsigned or two's complement
U16      2     0..65535: an index of a variable, a major or minor number
COUNT16  2     1..1024: how many words
COUNT8   1     0..255: how many words
SHIFT    1     0..63: how many bits
BIT      1     1..64: which bit, from the least significant
ARGUMENT 1     0..63: which argument of a function
FLOAT    1     0..7: which of its floating arguments
KEPT     1     0..7: which word that an entry part leaves for the return
SLOT     2     -1024..1023, signed: a stack word relative to SBP or TOS
LABEL    4     offset of an instruction in the program's code
REGISTER 1     index in ``registers.REGISTERS``
FACILITY 2     index in the program's ``facilities``
NAME     2     index in the program's ``names``: of a value
SYMBOL   2     index in the program's ``names``: of a symbol of its module
DEPTH    1     1..255: how many frames of a stack
MAP      2     index in the header's ``map``
CELL     4     how many words a value of a map has (16 bits), then the index of the map
======== ===== ==============================================================================

Opcode numbers are those of IBM Dynamic Probes 3 (its ``dprobes_in.h``) where the instruction is the
same; what is ours alone is in 0x99..0xaf and from 0xc0 on, which it left free.
"""

from __future__ import annotations

from enum import Enum, IntEnum
from functools import cached_property, partial
from typing import Final

import msgspec

from dprobed.program.cell_operand import cell_words
from dprobed.program.exceptions import ExCode
from dprobed.program.registers import REGISTERS
from dprobed.program.user_stack import MOST_FRAMES
from dprobed.program.values import VALUE_KINDS

#: Words on the evaluation stack, and frames on the call stack.
STACK_WORDS: Final = 1024
CALL_FRAMES: Final = 32
WORD_BITS: Final = 64
WORD_MASK: Final = (1 << WORD_BITS) - 1
#: Local variables of a program, and global variables of a target, at most.
MAX_VARIABLES: Final = 256
#: Bytes of code of one program at most: more is refused as "too large".
MAX_CODE: Final = 1 << 16
#: Words that the entry part of a return probe leaves for its return part.
KEPT_WORDS: Final = 8


class Operand(Enum):
    """Kinds of operands: (bytes, lowest, highest value, how the reference page writes it)."""

    WORD = (8, 0, WORD_MASK, "word")
    U16 = (2, 0, 0xFFFF, "index")
    COUNT16 = (2, 1, STACK_WORDS, "count")
    COUNT8 = (1, 0, 0xFF, "count")
    SHIFT = (1, 0, WORD_BITS - 1, "bits")
    BIT = (1, 1, WORD_BITS, "bit")
    DEPTH = (1, 1, MOST_FRAMES, "depth")
    ARGUMENT = (1, 0, 63, "argument")
    FLOAT = (1, 0, 7, "argument")
    KEPT = (1, 0, KEPT_WORDS - 1, "kept")
    SLOT = (2, -STACK_WORDS, STACK_WORDS - 1, "slot")
    LABEL = (4, 0, 0xFFFFFFFF, "label")
    REGISTER = (1, 0, 0xFF, "register")
    FACILITY = (2, 0, 0xFFFF, "facility")
    NAME = (2, 0, 0xFFFF, "name")
    SYMBOL = (2, 0, 0xFFFF, "symbol")
    MAP = (2, 0, 0xFFFF, "map")
    CELL = (4, 1, 0xFFFFFFFF, "cell")

    def __init__(self, size: int, low: int, high: int, text: str) -> None:
        self.size = size
        self.low = low
        self.high = high
        self.text = text

    @property
    def signed(self) -> bool:
        """Whether the encoded number is two's complement."""
        return self.low < 0


class Flow(Enum):
    """Where the program goes on after an instruction."""

    NEXT = "next"
    JUMP = "jump"  # always to the label
    BRANCH = "branch"  # to the label or on
    CALL = "call"  # to the label, and on when it returns
    RETURN = "return"
    HANDLER = "handler"  # on; the label is only remembered, as this frame's exception handler
    RAISE = "raise"  # to a handler, to the end, or (a code that is ignored) on
    END = "end"

    @property
    def falls_through(self) -> bool:
        """Whether the next instruction can be executed right after this one."""
        return self not in (Flow.JUMP, Flow.RETURN, Flow.END)


class ModType(IntEnum):
    """What a program's module is (header keyword ``modtype``)."""

    USER = 1
    KERNEL = 2
    KMOD = 4


class Watch(IntEnum):
    """Kinds of data probes (probe keyword ``watchpoint``); the numbers of the R/W field of DR7."""

    X = 0
    W = 1
    IO = 2
    RW = 3


_WIDTHS: Final = {"u8": 1, "u16": 2, "u32": 4, "u64": 8}


class Instruction(msgspec.Struct, frozen=True, dict=True):
    """One entry of the table.

    ``name``: the words that are written before the operands; two entries may share it (the form
    with an immediate operand and the one that takes it from the stack): ``key`` tells them apart.
    ``pops``, ``pushes``: words; ``pushes`` is None where the depth afterwards is known only at run
    time (``pops`` is then the least that is needed). ``pops_each``, ``pushes_each``: words more for
    each unit of the count operand (for registers, ``pops_each`` says that it is a pop). ``peeks``:
    words below those popped that are looked at and stay. ``writes``: the program alters registers
    or memory of the target (or the kernel) with it. ``holds``: it makes threads of the target stand
    still, or go on. ``frames``: it looks at positions of the stack, at the frames of the call stack
    or at the exception trace, which are then kept in memory. ``varies``: what it takes of the
    instruction budget depends on a value. ``suffix``: a word that is written behind the operand.
    """

    name: str
    opcode: int
    group: str
    meaning: str
    operands: tuple[Operand, ...] = ()
    pops: int = 0
    pushes: int | None = 0
    pops_each: int = 0
    pushes_each: int = 0
    peeks: int = 0
    raises: tuple[ExCode, ...] = ()
    flow: Flow = Flow.NEXT
    kernel_only: bool = False
    writes: bool = False
    holds: bool = False
    frames: bool = False
    varies: bool = False
    suffix: str = ""

    @cached_property
    def spelling(self) -> str:
        """The name as it is written: ``push mem,u8``."""
        return self.name.replace(" ", "\0", 1).replace(" ", ",").replace("\0", " ")

    @cached_property
    def key(self) -> str:
        """The spelling with the operands' kinds, unique: ``push gv`` and ``push gv,index``."""
        if not self.operands:
            return self.spelling
        separator = "," if " " in self.name else " "
        written = self.spelling + separator + self.operands[0].text
        return f"{written} {self.suffix}" if self.suffix else written

    @cached_property
    def size(self) -> int:
        """Bytes of the encoded instruction."""
        return 1 + sum(operand.size for operand in self.operands)

    def map_index(self, operands: tuple[int, ...]) -> int | None:
        """Which map of the header it works on; None: on none."""
        if not self.operands or self.operands[0] not in (Operand.MAP, Operand.CELL):
            return None
        return operands[0] if self.operands[0] is Operand.MAP else operands[0] >> 16

    @cached_property
    def width(self) -> int:
        """Bytes of each number that it moves to or from memory, by its name (u8 to u64)."""
        return _WIDTHS[self.name.split()[-1]]

    def effect(self, operands: tuple[int, ...]) -> tuple[int, int | None]:
        """(words needed, words more afterwards); the latter None where only run time tells."""
        pops, pushes = self.pops, self.pushes
        if self.operands and self.operands[0] is Operand.REGISTER:
            register = REGISTERS[operands[0]]
            if self.pops_each:
                pops += register.words
            else:
                pops += register.takes
                pushes = register.words
        elif self.operands:
            count = cell_words(operands[0]) if self.operands[0] is Operand.CELL else operands[0]
            pops += self.pops_each * count
            if pushes is not None:
                pushes += self.pushes_each * count
        return pops + self.peeks, None if pushes is None else pushes - pops


_X = ExCode
_ADDR = (_X.INVALID_ADDR,)
_JMP = (_X.MAX_JMPS,)
_LOG = (_X.LOG_OVERFLOW,)
_LOG_MEMORY = (_X.INVALID_ADDR, _X.LOG_OVERFLOW)
_OPERAND = (_X.INVALID_OPERAND,)
_HEAP = (_X.HEAP_INVALID_HANDLE, _X.HEAP_INVALID_OFFSET)


def _control() -> list[Instruction]:
    def one(name: str, opcode: int, meaning: str, **more: object) -> Instruction:
        return Instruction(name, opcode, "control", meaning, **more)  # type: ignore[arg-type]

    label = (Operand.LABEL,)
    found = [
        one("nop", 0x00, "Nothing."),
        one("jmp", 0x01, "Jump.", operands=label, raises=_JMP, flow=Flow.JUMP),
    ]
    tests = (
        ("jlt", "below 0"), ("jle", "below or equal to 0"), ("jgt", "above 0"),
        ("jge", "above or equal to 0"), ("jz", "0"), ("jnz", "not 0"),
    )  # fmt: skip
    for opcode, (name, text) in enumerate(tests, 0x02):
        found.append(
            one(name, opcode, f"Jump if TOS (signed) is {text}; TOS stays. Counted when taken.",
                operands=label, peeks=1, raises=_JMP, flow=Flow.BRANCH)
        )  # fmt: skip
    found += [
        one("loop", 0x08, "Decrement TOS and jump if it is not 0; TOS stays. Always counted.",
            operands=label, peeks=1, raises=_JMP, flow=Flow.BRANCH),
        one("call", 0x09, "Call a subroutine: a new frame, SBP is its base.", operands=label,
            raises=(_X.CALL_STACK_OVERFLOW,), flow=Flow.CALL, frames=True),
        one("ret", 0x0A, "Return from a subroutine.", raises=(_X.CALL_STACK_OVERFLOW,),
            flow=Flow.RETURN, frames=True),
        one("abort", 0x0B, "End; nothing is logged.", flow=Flow.END),
        one("rem", 0x0C, "End; log, then remove this probe.", flow=Flow.END),
        one("exit", 0x0D, "End; log.", flow=Flow.END),
        one("exit", 0x0E, "End; log, then hand over to the facility of this number or name.",
            operands=(Operand.FACILITY,), raises=_OPERAND, flow=Flow.END),
        one("exit", 0xE0, "For `dump` only: as `exit FACILITY`; no core if the probe had one.",
            operands=(Operand.FACILITY,), raises=_OPERAND, flow=Flow.END, suffix="once"),
        one("suspend", 0x0F, "Hold the thread after the program has ended, until it is resumed.",
            holds=True),
        one("resume", 0x10, "Resume every thread of this target that a `suspend` holds.",
            holds=True),
    ]  # fmt: skip
    return found


def _log() -> list[Instruction]:
    def one(name: str, opcode: int, meaning: str, **more: object) -> Instruction:
        return Instruction(name, opcode, "log", meaning, **more)  # type: ignore[arg-type]

    u16 = (Operand.U16,)
    return [
        one("setmin", 0x11, "Set the record's minor number.", operands=u16),
        one("setmin", 0x12, "Set the record's minor number to TOS (16 bits).", pops=1),
        one("setmaj", 0x13, "Set the record's major number.", operands=u16),
        one("setmaj", 0x14, "Set the record's major number to TOS (16 bits).", pops=1),
        one("log str", 0x15, "Log the string at address TOS, at most NOS bytes, up to its NUL.",
            pops=2, raises=_LOG_MEMORY, varies=True),
        one("log mrf", 0x17, "Log the memory at address TOS, NOS bytes.", pops=2,
            raises=_LOG_MEMORY, varies=True),
        one("log ustack", 0xE8, "Log the stack of the thread in user mode, 127 frames at most.",
            raises=_LOG, varies=True),
        one("log ustack", 0xE9, "Log so many frames of the thread's stack in user mode at most.",
            operands=(Operand.DEPTH,), raises=_LOG, varies=True),
        one("log kstack", 0xEA, "Log the thread's stack in the kernel, 127 frames at most.",
            raises=_LOG, varies=True, kernel_only=True),
        one("log kstack", 0xEB, "Log so many frames of the thread's stack in the kernel at most.",
            operands=(Operand.DEPTH,), raises=_LOG, varies=True, kernel_only=True),
        one("log", 0x1B, "Log so many words off the stack, raw (no prefix), TOS first.",
            operands=(Operand.COUNT16,), pops_each=1, raises=_LOG),
        one("push lp", 0x70, "Push the length of the log.", pushes=1),
        one("push plp", 0x71, "Push the length of the log before its last item.", pushes=1),
        one("pop lp", 0x72, "Cut the log to TOS bytes; it never grows by this.", pops=1),
        one("log", 0x8A, "Log TOS words off the stack below it, with a prefix.", pops=1,
            pushes=None, raises=_LOG, varies=True),
        one("log lv", 0x8B, "Log TOS local variables from index NOS on.", pops=2,
            raises=(_X.INVALID_OPERAND, _X.LOG_OVERFLOW), varies=True),
        one("log gv", 0x8C, "Log TOS global variables from index NOS on.", pops=2,
            raises=(_X.INVALID_OPERAND, _X.LOG_OVERFLOW), varies=True),
    ]  # fmt: skip


def _values() -> list[Instruction]:
    """`log i32` and its like, with a name and without one."""
    found = []
    for number, kind in enumerate(VALUE_KINDS):
        meaning = f"Log TOS as a value: {kind.meaning}"
        for named, operands in ((False, ()), (True, (Operand.NAME,))):
            text = meaning + (", with a name." if named else ".")
            found.append(
                Instruction(f"log {kind.name}", 0xC0 + 2 * number + named, "log", text,
                            operands=operands, pops=1, raises=_LOG)
            )  # fmt: skip
    return found


def _variables(kind: str, opcode: int) -> list[Instruction]:
    group, noun = ("globals", "global") if kind == "gv" else ("locals", "local")

    def pair(verb: str, number: int, meaning: str, **more: int) -> list[Instruction]:
        """The form with an immediate index, and the one that pops it (see ``_pop_index``)."""
        stack = dict(more)
        stack["pops"] = stack.get("pops", 0) + 1
        where = "below the value on TOS" if verb == "pop" else "on TOS"
        return [
            Instruction(f"{verb} {kind}", number, group, f"{meaning}.", (Operand.U16,),
                        raises=_OPERAND, **more),  # type: ignore[arg-type]
            Instruction(f"{verb} {kind}", number + 1, group, f"{meaning}; its index is {where}.",
                        raises=_OPERAND, **stack),  # type: ignore[arg-type]
        ]  # fmt: skip

    return [
        *pair("push", opcode, f"Push a {noun} variable", pushes=1),
        *pair("pop", opcode + 2, f"Pop into a {noun} variable", pops=1),
        *pair("move", opcode + 4, f"Store TOS (it stays) into a {noun} variable", peeks=1),
        *pair("inc", opcode + 6, f"Add 1 to a {noun} variable"),
        *pair("dec", opcode + 8, f"Subtract 1 from a {noun} variable"),
    ]


def _maps() -> list[Instruction]:
    """Keys are gathered item by item; what follows them uses the key up (``map_use``)."""

    def one(name: str, opcode: int, meaning: str, **more: object) -> Instruction:
        return Instruction(name, opcode, "maps", meaning, **more)  # type: ignore[arg-type]

    of_map = (Operand.MAP,)
    return [
        one("key", 0xD8, "Add so many words off the stack to the key, TOS first, each an item.",
            operands=(Operand.COUNT8,), pops_each=1),
        one("key str", 0xD9,
            "Add the string at address TOS, at most NOS bytes, up to its NUL, to the key.",
            pops=2, raises=(_X.INVALID_ADDR, _X.INVALID_OPERAND), varies=True),
        one("key comm", 0xDA, "Add the thread's name to the key."),
        one("key text", 0xE4, "Add the string in so many words off the stack, up to its NUL, to "
            "the key: TOS has its first bytes.", operands=(Operand.COUNT8,), pops_each=1,
            raises=(_X.INVALID_OPERAND,)),
        one("push text", 0xE5, "Push the string at address TOS, at most NOS bytes, up to its NUL "
            "or to where it cannot be read, as so many words: TOS gets its first bytes, and zeros "
            "come behind it.", operands=(Operand.COUNT8,), pops=2, pushes_each=1, varies=True),
        one("key ustack", 0xE2, "Add the thread's stack in user mode to the key, 127 frames at "
            "most, and as many as have room.", varies=True),
        one("key ustack", 0xE3, "Add so many frames of the thread's stack in user mode to the key "
            "at most.", operands=(Operand.DEPTH,), varies=True),
        one("key kstack", 0xEC, "Add the thread's stack in the kernel to the key, 127 frames at "
            "most, and as many as have room.", varies=True, kernel_only=True),
        one("key kstack", 0xED, "Add so many frames of the thread's stack in the kernel to the key "
            "at most.", operands=(Operand.DEPTH,), varies=True, kernel_only=True),
        one("madd", 0xDB, "Add TOS to what the map has at the key.", operands=of_map, pops=1),
        one("minc", 0xDC, "Count 1 at the key: of a `count` map, or add it to a `value`.",
            operands=of_map),
        one("mget", 0xDD, "Push the value at the key, 0 if it is not in the map.",
            operands=of_map, pushes=1),
        one("mhas", 0xDE, "Push 1 if the key is in the map, else 0.", operands=of_map, pushes=1),
        one("mset", 0xDF, "Pop the value at the key.", operands=of_map, pops=1),
        one("mload", 0xE6, "Push the words of the value at the key, the first one on TOS; 0 if it "
            "is not in the map.", operands=(Operand.CELL,), pushes_each=1),
        one("mstore", 0xE7, "Pop the words of the value at the key, the first one from TOS.",
            operands=(Operand.CELL,), pops_each=1),
        one("mdel", 0xE1, "Delete the key, if it is in the map.", operands=of_map),
    ]  # fmt: skip


def _arithmetic() -> list[Instruction]:
    def one(name: str, opcode: int, meaning: str, pushes: int = 1, pops: int = 2) -> Instruction:
        raises = (_X.DIV_BY_ZERO,) if name.endswith("div") else ()
        return Instruction(
            name, opcode, "arithmetic", meaning, pops=pops, pushes=pushes, raises=raises
        )

    return [
        one("add", 0x33, "NOS + TOS."),
        one("sub", 0x34, "NOS - TOS."),
        one("mul", 0x35, "NOS * TOS, the low word."),
        one("div", 0x62, "NOS / TOS, unsigned: the quotient on TOS, the remainder below it.", 2),
        one("idiv", 0x63, "NOS / TOS, signed, rounded to 0: quotient on TOS, remainder below.", 2),
    ]


def _bits() -> list[Instruction]:
    def one(name: str, opcode: int, meaning: str, pops: int, kind: Operand | None) -> Instruction:
        raises = _OPERAND if name[0] == "p" and kind is None else ()
        operands = () if kind is None else (kind,)
        return Instruction(
            name, opcode, "bits", meaning, operands, pops=pops, pushes=1, raises=raises
        )

    found = [
        one("neg", 0x36, "Bitwise complement of TOS.", 1, None),
        one("and", 0x37, "NOS & TOS.", 2, None),
        one("or", 0x38, "NOS | TOS.", 2, None),
        one("xor", 0x39, "NOS ^ TOS.", 2, None),
    ]
    shifts = (
        ("rol", "Rotate TOS left", "its low 6 bits count"),
        ("ror", "Rotate TOS right", "its low 6 bits count"),
        ("shl", "Shift TOS left", "64 and more give 0"),
        ("shr", "Shift TOS right, zeros come in", "64 and more give 0"),
    )
    for number, (name, meaning, much) in enumerate(shifts):
        opcode = 0x3A + 2 * number
        found.append(one(name, opcode, f"{meaning}.", 1, Operand.SHIFT))
        found.append(one(name, opcode + 1, f"{meaning} by NOS bits; {much}.", 2, None))
    masks = (
        ("pbl", 0x64, "Copy bit n of TOS to all bits left of it"),
        ("pbr", 0x65, "Copy bit n of TOS to all bits right of it"),
        ("pzl", 0x68, "Zero the bits of TOS left of bit n"),
        ("pzr", 0x69, "Zero the bits of TOS right of bit n"),
    )
    for name, opcode, meaning in masks:
        found.append(one(name, opcode + 2, f"{meaning}.", 1, Operand.BIT))
        found.append(one(name, opcode, f"{meaning}; n is NOS.", 2, None))
    return found


def _stack() -> list[Instruction]:
    def one(name: str, opcode: int, meaning: str, **more: object) -> Instruction:
        return Instruction(name, opcode, "stack", meaning, **more)  # type: ignore[arg-type]

    count8 = (Operand.COUNT8,)
    found = [
        one("xchg", 0x42, "Exchange TOS and NOS.", pops=2, pushes=2),
        one("dup", 0x43, "Push so many more copies of TOS.", operands=count8, pops=1, pushes=1,
            pushes_each=1),
        one("dup", 0x44, "Pop the value TOS and the count NOS (8 bits); push count + 1 copies.",
            pops=2, pushes=None, varies=True),
        one("ros", 0x45, "Drop so many words.", operands=count8, pops_each=1),
    ]  # fmt: skip
    framed = partial(one, frames=True)
    slot = (Operand.SLOT,)
    for base, number, copy in (("sbp", 0, 0x88), ("tsp", 2, 0x89)):
        word = f"the stack word at {base.upper() if base == 'sbp' else 'TOS'} + "
        found += [
            framed(f"push {base}", 0x78 + number, f"Push {word}TOS (popped).", pops=1, pushes=1),
            framed(f"pop {base}", 0x79 + number, f"Store TOS to {word}NOS (both popped).", pops=2),
            framed(f"push {base}", 0x7C + number, f"Push {word}slot.", operands=slot, pushes=1),
            framed(f"pop {base}", 0x7D + number, f"Pop into {word}slot, as it was before the pop.",
                operands=slot, pops=1),
            framed(f"copy {base}", 0x80 + number // 2, f"Store TOS (it stays) to {word}slot.",
                operands=slot, peeks=1),
            framed(f"copy {base}", copy, f"Pop n; store the new TOS (it stays) to {word}n.", pops=1,
                peeks=1),
        ]  # fmt: skip
    found += [
        framed("save sbp", 0x84, "Push SBP.", pushes=1),
        framed("restore sbp", 0x85, "Pop SBP (modulo 1024).", pops=1),
        framed("save tsp", 0x86, "Push the stack pointer as it was before.", pushes=1),
        framed("restore tsp", 0x87, "Pop the stack pointer (modulo 1024).", pops=1, pushes=None),
    ]
    return found


def _registers_and_data() -> list[Instruction]:
    register = (Operand.REGISTER,)
    found = []
    for letter, opcode, whose in (
        ("r", 0x46, "at the probe"),
        ("u", 0x48, "of the task in user mode (the same in a user program)"),
    ):
        found.append(
            Instruction(f"push {letter}", opcode, "registers", f"Push a register {whose}.",
                        register, pushes=1, raises=_OPERAND if letter == "r" else ())
        )  # fmt: skip
        found.append(
            Instruction(f"pop {letter}", opcode + 1, "registers", f"Pop into a register {whose}.",
                        register, pops_each=1, writes=True)
        )  # fmt: skip
    found.append(
        Instruction("push", 0x4C, "data", "Push the word.", (Operand.WORD,), pushes=1),
    )
    for opcode, kind, what in (
        (0x9E, "addr", "a symbol of the program's module"),
        (0x9F, "tls", "the thread's own copy of a thread-local variable of the program's module"),
    ):
        found.append(
            Instruction(f"push {kind}", opcode, "data", f"Push the address of {what}.",
                        (Operand.SYMBOL,), pushes=1)
        )  # fmt: skip
    for number, size in enumerate(("u8", "u16", "u32", "u64")):
        found.append(
            Instruction(f"push mem {size}", 0x4D + number, "data",
                        f"Push the {size} at address TOS.", pops=1, pushes=1, raises=_ADDR)
        )  # fmt: skip
        found.append(
            Instruction(f"pop mem {size}", 0x51 + number, "data",
                        f"Store TOS as {size} to address NOS.", pops=2, raises=_ADDR, writes=True)
        )  # fmt: skip
    return found


def _functions() -> list[Instruction]:
    def one(name: str, opcode: int, meaning: str, kind: Operand, **more: object) -> Instruction:
        return Instruction(
            name, opcode, "functions", meaning, (kind,), **more  # type: ignore[arg-type]
        )  # fmt: skip

    return [
        one("push a", 0xA0, "Push an integer or pointer argument of the function that is entered, "
            "or an argument of the static probe, counted from 0.",
            Operand.ARGUMENT, pushes=1, raises=_ADDR),
        one("push f", 0xA1, "Push the low word of a floating argument, counted from 0. At entry "
            "only.", Operand.FLOAT, pushes=1),
        one("push e", 0xA2, "Push a word that the entry part has left.", Operand.KEPT, pushes=1),
        one("pop e", 0xA3, "Pop into a word that is left for the return part. In entry parts only.",
            Operand.KEPT, pops=1),
    ]  # fmt: skip


def _system() -> list[Instruction]:
    def one(name: str, opcode: int, meaning: str, pushes: int = 1, pops: int = 0) -> Instruction:
        group = "checking" if name.startswith("vfy") else "system"
        return Instruction(name, opcode, group, meaning, pops=pops, pushes=pushes)

    return [
        one("push task", 0x5D, "Push the address of the task structure; user programs: the tid."),
        one("push pid", 0x5E, "Push the process id."),
        one("push procid", 0x5F, "Push the number of the CPU."),
        one("push wid", 0x90, "Push the width of a word in bits, negative on little-endian: -64."),
        one("push tid", 0x99, "Push the thread id."),
        one("push uid", 0x9A, "Push the thread's real user id."),
        one("push gid", 0x9B, "Push the thread's real group id."),
        one("push time", 0x9C, "Push the monotonic time in nanoseconds."),
        one("push comm", 0x9D, "Push the thread's name, 16 bytes; the first eight on TOS.", 2),
        one("vfy r", 0x60, "1 if the byte at address TOS cannot be read, else 0.", pops=1),
        one("vfy rw", 0x61, "1 if the byte at address TOS cannot be read and written, else 0.",
            pops=1),
    ]  # fmt: skip


def _exceptions() -> list[Instruction]:
    def one(name: str, opcode: int, meaning: str, **more: object) -> Instruction:
        return Instruction(name, opcode, "exceptions", meaning, **more)  # type: ignore[arg-type]

    return [
        one("sx", 0x6C, "Set this frame's exception handler; it serves one exception.",
            operands=(Operand.LABEL,), flow=Flow.HANDLER, frames=True),
        one("ux", 0x6D, "Unset this frame's exception handler.", frames=True),
        one("rx", 0x6E, "Raise the exception with code TOS, parm1 NOS and parm2 below.", pops=3,
            raises=tuple(ExCode), flow=Flow.RAISE),
        one("push x", 0x6F, "Push the last exception: parm2, parm1, code (TOS).", pushes=3),
        one("log st", 0x73, "Append a stack trace to the exception trace.", frames=True,
            varies=True),
        one("purge st", 0x74, "Empty the exception trace.", frames=True),
        one("trace lv", 0x75, "Traces show TOS local variables from index NOS on for this frame.",
            pops=2, frames=True),
        one("trace gv", 0x76, "Traces show TOS global variables from index NOS on for this frame.",
            pops=2, frames=True),
        one("trace pv", 0x77, "Traces show TOS stack words from position NOS on for this frame.",
            pops=2, frames=True),
        one("push stp", 0x82, "Push the length of the exception trace.", pushes=1, frames=True),
        one("pop stp", 0x83, "Cut the exception trace to TOS bytes; it never grows by this.",
            pops=1, frames=True),
    ]  # fmt: skip


def _heap() -> list[Instruction]:
    found = [
        Instruction("malloc", 0x8E, "heap", "Pop a size in bytes, push the handle of a new block.",
                    pops=1, pushes=1, raises=(_X.HEAP_NOMEM,), varies=True),
        Instruction("free", 0x8F, "heap", "Free the block with handle TOS.", pops=1,
                    raises=(_X.HEAP_INVALID_HANDLE,)),
    ]  # fmt: skip
    count = (Operand.COUNT16,)
    for number, size in enumerate(("u8", "u16", "u32", "u64")):
        found.append(
            Instruction(f"pushh {size}", 0x91 + number, "heap",
                        f"Push so many {size} of block NOS, the one at byte offset TOS last.",
                        count, pops=2, pushes_each=1, raises=_HEAP)
        )  # fmt: skip
        found.append(
            Instruction(f"poph {size}", 0x95 + number, "heap",
                        f"Pop so many {size} into block NOS, the first to byte offset TOS.",
                        count, pops=2, pops_each=1, raises=_HEAP)
        )  # fmt: skip
    return found


def _kernel() -> list[Instruction]:
    def one(name: str, opcode: int, meaning: str, **more: object) -> Instruction:
        return Instruction(
            name, opcode, "kernel", meaning, kernel_only=True, **more  # type: ignore[arg-type]
        )  # fmt: skip

    found = [
        one("callk", 0x8D, "Call the hook whose number is TOS. Its exits see the six words below, "
            "which stay; push the value that they leave.", pops=1, pushes=1, writes=True,
            raises=_OPERAND),
        one("seg2lin", 0xB0, "Linear address of selector NOS, offset TOS.", pops=2, pushes=1,
            raises=(_X.SEG_FAULT,)),
    ]  # fmt: skip
    for number, size in enumerate(("u8", "u16", "u32")):
        # What is read from a port is often gone from its device: it alters that.
        found.append(one(f"push io {size}", 0xB1 + number, f"Read {size} from port TOS.", pops=1,
                         pushes=1, writes=True, raises=_OPERAND))  # fmt: skip
        found.append(one(f"pop io {size}", 0xB4 + number, f"Write TOS as {size} to port NOS.",
                         pops=2, writes=True, raises=_OPERAND))  # fmt: skip
    return found


INSTRUCTIONS: Final[tuple[Instruction, ...]] = tuple(
    sorted(
        (
            *_control(), *_log(), *_values(), *_variables("gv", 0x1F), *_variables("lv", 0x29),
            *_maps(), *_arithmetic(), *_bits(), *_stack(), *_registers_and_data(), *_functions(),
            *_system(), *_exceptions(), *_heap(), *_kernel(),
        ),
        key=lambda instruction: instruction.opcode,
    )
)  # fmt: skip

#: Groups in the order of the reference page, with its headings.
GROUPS: Final[dict[str, str]] = {
    "control": "Control",
    "log": "Log",
    "globals": "Global variables",
    "locals": "Local variables",
    "maps": "Maps",
    "arithmetic": "Arithmetic",
    "bits": "Bits",
    "stack": "Stack",
    "registers": "Registers",
    "functions": "Functions: arguments, and what is kept until the return",
    "data": "Data",
    "system": "System",
    "checking": "Checking addresses",
    "exceptions": "Exceptions",
    "heap": "Heap",
    "kernel": "Kernel",
}

BY_OPCODE: Final[dict[int, Instruction]] = {i.opcode: i for i in INSTRUCTIONS}
BY_KEY: Final[dict[str, Instruction]] = {i.key: i for i in INSTRUCTIONS}


class DecodeError(Exception):
    """The bytes at ``offset`` are not a whole instruction."""

    def __init__(self, offset: int, message: str) -> None:
        super().__init__(f"code offset {offset:#x}: {message}")
        self.offset = offset
        self.message = message


def decode_at(code: bytes, offset: int) -> tuple[Instruction, tuple[int, ...], int]:
    """The instruction at ``offset``, its operands, and the offset of the next one.

    Operands are numbers as encoded (a ``LABEL`` is a code offset, a ``REGISTER`` an index in
    ``REGISTERS``, a ``FACILITY``, a ``NAME``, a ``SYMBOL`` or a ``MAP`` an index in the program's
    lists); only SLOT is signed. Their ranges are the verifier's business. Raises DecodeError.
    """
    if not 0 <= offset < len(code):
        raise DecodeError(offset, "outside of the code")
    instruction = BY_OPCODE.get(code[offset])
    if instruction is None:
        raise DecodeError(offset, f"unknown opcode {code[offset]:#04x}")
    end = offset + instruction.size
    if end > len(code):
        raise DecodeError(offset, f"`{instruction.name}` is cut short by the end of the code")
    operands = []
    at = offset + 1
    for kind in instruction.operands:
        raw = code[at : at + kind.size]
        operands.append(int.from_bytes(raw, "little", signed=kind.signed))
        at += kind.size
    return instruction, tuple(operands), end


def encode_one(instruction: Instruction, operands: tuple[int, ...]) -> bytes:
    """The bytes of one instruction; a WORD may be given signed. Raises OverflowError."""
    parts = [bytes((instruction.opcode,))]
    for kind, value in zip(instruction.operands, operands, strict=True):
        if kind is Operand.WORD:
            value &= WORD_MASK
        parts.append(value.to_bytes(kind.size, "little", signed=kind.signed))
    return b"".join(parts)
