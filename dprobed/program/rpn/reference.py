"""Writes docs/language.md, the reference of the probe language, from the tables.

    python -m dprobed.program.rpn.reference            write it
    python -m dprobed.program.rpn.reference --check    fail if it is not what would be written

What the tables cannot say is in the texts below; every example among them is assembled by a test.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final

from dprobed.program import bytecode
from dprobed.program.exceptions import EXCEPTIONS
from dprobed.program.exits import INSTRUCTION_BUDGET
from dprobed.program.generated import write_or_check
from dprobed.program.isa import (
    CALL_FRAMES,
    GROUPS,
    INSTRUCTIONS,
    KEPT_WORDS,
    MAX_CODE,
    STACK_WORDS,
    Instruction,
    Operand,
)
from dprobed.program.items import TOKENS
from dprobed.program.keywords import HEADER, PROBE, Keyword, Value, defaults
from dprobed.program.model import Header, ProbeDefinition, ProgramError
from dprobed.program.registers import REGISTERS, Register
from dprobed.program.rpn.expression import LEVELS
from dprobed.program.rpn.parser import assemble
from dprobed.program.rpn.preprocessor import MAX_INCLUDES, MAX_TOKENS
from dprobed.program.rpn.reference_maps import maps_part
from dprobed.program.user_stack import USUAL_FRAMES
from dprobed.program.values import MAX_NAME
from dprobed.program.verifier import MAX_FACILITIES, MAX_PROBES

PAGE = Path(__file__).resolve().parents[3] / "docs" / "language.md"

INTRODUCTION = """\
<!-- Written by `python -m dprobed.program.rpn.reference`; change that, not this. -->
# The probe language

A probe program says where probes go and what happens when one is hit: a small stack program that
looks at registers and memory, keeps counts, logs what is of interest, and may alter what it found.
It is checked before any process is touched, it always ends, and an access to bad memory is an
exception in the program, never in the process.

```rpn
// Every allocation of a mebibyte and more: its size, and how many there have been.
#ifndef LEAST
#define LEAST 0x100000
#endif

name = libc.so.6
vars = 1

offset = malloc
    push r,rdi          // the size asked for
    push LEAST
    sub                 // size - LEAST; jumps test the word on top
    jlt small
    inc lv,0
    push lv,0
    push r,rdi
    log 2               // the size, then the count
    exit
small:
    abort               // nothing is logged
```

    dprobe run -D LEAST=4096 big.rpn -- ls -l

Contents: [source files](#source-files) · [header](#header-keywords) · [probes](#probe-keywords) ·
[places](#places) · [returns](#returns) · [machine](#the-machine) · [maps](#keys-and-maps) ·
[instructions](#instructions) · [registers](#registers) · [exceptions](#exceptions) ·
[log](#the-log) · [what is refused](#what-is-refused) ·
[bytecode](#bytecode) · [.dpb files](#dpb-files)
"""

SOURCE = f"""\
## Source files

A `.rpn` file is a header, then one or more probe definitions. A line is empty, or holds labels and
then nothing or one of these:

- `keyword = value`. Before the first `offset` or `address` line it belongs to the header; such a
  line begins a probe definition, and the keywords after it belong to that. Text with blanks or
  other unusual characters in it is written in double quotes.
- an instruction and its operand. Blanks and commas separate words alike: `push r,rdi`. The
  instructions of a probe follow its keywords, up to the next definition; running past the last one
  ends the program as `exit` does.

**Labels** are written `name:` and hold for the whole file. Jumps and exception handlers (`sx`)
must stay within the instructions of one probe; `call` may go to any label of the file, so a
subroutine can be written behind the `exit` of any probe and be called by all.

**Numbers** are those of C: `10`, `0x0a`, `012` (octal), `0b1010`, `'\\n'`, with a suffix `u`, `l`
if you like. Operands and values are constant expressions with brackets, the operators `- + ~ !` of
one operand, and from the weakest: {{operators}}. The exception codes have names: {{codes}}. Other
names must be macros.

**Comments** are `// …` and `/* … */`.

**The preprocessor** is a small C preprocessor: `#define NAME text`, `#define NAME(a, b) text`,
`#undef`, `#include "file"` (looked for beside the file that says it), `#if` (with `defined`),
`#ifdef`, `#ifndef`, `#elif`, `#else`, `#endif`, `#error text`, `#line n "file"`. A `\\` at the end
of a line joins the next to it. `-D NAME=text` on the command line is a `#define` before the first
line (`-D NAME` alone: 1). Files include each other at most {MAX_INCLUDES} deep, and macros make at
most {MAX_TOKENS:,} words. There are no `#` and `##` operators.

```rpn
#define ARG1 rdi
#define LOG_STRING(register, most) push most

name = libc.so.6
offset = puts
    LOG_STRING(ARG1, 64)
    push r,ARG1
    log str
    call count          // a subroutine of the next probe
    exit

offset = putchar
    call count
    exit
count:
    push tid
    log 1
    ret
```
"""

PLACES = """\
## Places

| `offset =` | |
| --- | --- |
| `malloc` | a function of the module; an IFUNC: what it resolves to |
| `malloc+0x4`, `malloc-8` | bytes from it, which must be where an instruction begins |
| `sort.c:120` | the code of a source line, by the debug information; maybe several places |
| `0x1234` | a position in the file |
| `tracepoint:task_rename` | kernel programs: a tracepoint; rdi, rsi, rdx, rcx, r8: its arguments |
| `hook:ledger_posted` | kernel programs: a hook; rdi, rsi, rdx, rcx, r8, r9: its words |

| `address =` | |
| --- | --- |
| `counter` | a symbol |
| `counter:8` | for a watchpoint: with its length; without, the symbol's own size |
| `0x7f0012340000` | an absolute address |

```rpn
name = a.out
vars = 1

address = counter:8
watchpoint = w
max_hits = 100          // then the probe is disabled
    push r,rip
    log 1
```

Hits are counted from -`pass_count`; the program runs while the count is 0 or more. A probe that is
hit by what its own program does is not run again; it is counted as missed.
"""

RETURNS = f"""\
## Returns

With `at = return` a probe is placed at a function, by its name, and fires each time that the
function is left: in the thread that called it, before the next instruction of its caller. `push
r,rax` is then what it returned (`xmm0` what it returned as a number with a fraction). Nothing on
the stack of the process is altered.

What stands between the labels `entry:` and `return:` is its *entry part*, which runs when the
function is entered. It keeps up to {KEPT_WORDS} words for the return of that call: `pop e,0` to
`pop e,{KEPT_WORDS - 1}` there, `push e,0` to `push e,{KEPT_WORDS - 1}` at the return (what was not
kept is 0). It may look at everything, and alter arguments, but it reports nothing: `log` and
its like, `rem`, `suspend` and facilities are for the return part. It ends by `exit`, or by
`return:`; ended by `abort` it passes this call over, and its return is no hit. An exception that
nothing handles passes the call over as well: it is reported as a record, and the call counted as
missed.

```rpn
// How long each fsync takes, and what it returns.
name = libc.so.6

offset = fsync
at = return
entry:
    push time
    pop e,0             // when it began
    push a,0
    pop e,1             // the file
return:
    push time
    push e,0
    sub
    log u64 ns
    push e,1
    log i32 fd
    push r,rax
    log i32 result
```

Hits are returns: `pass_count` and `max_hits` count them, and the record says how many there were.
A call that is left without returning (by `longjmp`, an exception that is thrown through it,
`pthread_exit` or cancellation, or because its thread ended) is counted as *unwound*. A function
that ends by calling another one in its place (a tail call) returns when that one does. A call that
was running when the probe went in is not known, and no hit.

In a program of Go's a function's entry is behind the look at the stack with which it begins, where
registers and stack are as at its first instruction: so a call is one hit, also where the runtime
made the stack larger and began the function again. Returns are found wherever the goroutine's stack
was moved to, and in whatever thread it goes on. `a,n` are the arguments of C's functions; Go's are
in other registers (by debug information: the script language, the argument's name alone).

`push a,n` pushes the n-th integer or pointer argument, counted from 0, of the function at whose
entry the probe is: six of them are in registers, further ones on the stack (a structure that is
passed by value may take several of either). `push f,n` pushes the low word of the n-th floating
argument, of the first eight. Both are for ordinary probes at functions and for entry parts: at the
return the arguments are gone.
"""

MACHINE = f"""\
## The machine

- A **word** has 64 bits. Arithmetic wraps.
- The **stack** has {STACK_WORDS} words and is circular. TOS is its top, NOS the word below. It is
  empty and all zeros at each hit. Pushing more words than it has, or popping more than there are,
  wraps around silently, unless RPN_STACK_WRAP is in `ex_mask`: then it raises that. SBP is the
  position of the base of the current frame: 0 at first, and in a subroutine the depth at its call.
- The **call stack** has {CALL_FRAMES} nested calls. A frame holds where to return to, its
  exception handler, what traces show of it, and the caller's SBP.
- **Local variables** (`vars`) belong to the program: all its probes in a process share them, and
  they keep their values from hit to hit. What they have in the end is told: in the summary of `run`
  and `attach`, and in `query`, summed over all processes; with their names where `vars` gives them
  some. **Global variables** (`gvars`) are shared by all programs
  in a process. All are 0 at first.
- The **heap** (`heap`), the **log** and the **exception trace** are empty at each hit.
- A program ends by `exit`, `exit` with a facility, `abort`, `rem`, an exception that nothing
  handles, or by running past its last instruction. Everything that was logged is one record then;
  after `abort` there is none.
- It always ends: at most `jmpmax` jumps are taken in one hit (MAX_JMPS), and at most
  {INSTRUCTION_BUDGET:,} instructions, after which it is ended, with its log and the exit `budget`.
- `suspend` does not stop the program. When it has ended, its thread is held before the probed
  instruction until `dprobe resume`, or until a program in the same process executes `resume`,
  which resumes all threads that are held there.
- `exit FACILITY` names who gets the record, by number or by name. Each must exist when the program
  is inserted, else it is refused; one that has gone since raises INVALID_OPERAND.
- `exit dump` writes a core of the process, where limits allow it; where not, the record's exit is
  `no dump`. `exit dump once` writes one only if this probe has had none before: in this process, as
  long as the program is inserted, also after `exec`, and together with the fork children that got
  the program from it. A core that could not be written does not count. A program that is put into
  many processes (`dprobe insert --exe`) has one in each.
- `exit debugger` holds the process for a debugger; where it cannot, the record's exit is
  `no debugger`.
"""

REGISTERS_TEXT = """\
## Registers

`push r` and `pop r` know these names; `push u` and `pop u` the same in a user program, and in a
kernel program those of the task in user mode. A register of two words is pushed with its low word
on TOS, and popped in that order. Popping the low half of a general register clears its upper half,
as the processor does; of a narrower one the low bits count. Popping `rip` makes the thread go on
there, in place of the probed instruction.

`return VALUE`, at the first instruction of a function, makes it return that at once, without having
run; `return VALUE, errno=ENOSPC` sets the thread's error number as well (a program for
`libc.so.6`, or for one that is linked statically). It stands for the instructions that put the
value into `rax` and take the return address off the stack; where one of them fails, nothing is
altered. `push addr,SYMBOL` and `push tls,SYMBOL` push where a symbol of the program's module is in
the process: the second one the running thread's own copy of a thread-local variable, of a program
or of a library that was loaded with it. Symbols that are not there are told when the program is
inserted, and thread-local ones of a library that was opened later (`dlopen`), of which each thread
may have its own anywhere.

| registers | bits | words | may be popped by | |
| --- | --- | --- | --- | --- |
"""

EXCEPTIONS_TEXT = """\
## Exceptions

An instruction that fails has popped its operands and done nothing else (only `log str` and `log
mrf` have logged what they could read, and a fault item), and raises an exception: three words,
parm2, parm1 and the code on TOS, are pushed, and the program goes on at the handler
that the current frame has set by `sx`. That handler is then no longer set. A frame without one is
left as by `ret`, and its caller's is taken; where there is none at all the program ends with its
log, and the record names the exception.

A code that is not in the probe's `ex_mask` reaches no handler: it ends the program if it is within
0x0fff, and is ignored otherwise. `rx` raises any code.

With `autostacktrace = yes` every exception appends a trace to the exception trace, which follows
the log in the record; `log st` does so at any time. A trace shows of each frame what `trace pv`,
`trace lv` and `trace gv` have asked for.

```rpn
name = libc.so.6
offset = strlen
    sx unreadable
    push r,rdi
    push mem,u64        // raises INVALID_ADDR where there is no memory
    log 1
    exit
unreadable:
    log 2               // the code and the address
    ros 1
    exit
```

| exception | code | parm1 | parm2 | |
| --- | --- | --- | --- | --- |
"""

LOG_TEXT = f"""\
## The log

The log of a hit is a row of items, at most `logmax` bytes in all; an item is in it as a whole or
not at all (LOG_OVERFLOW). `log` with a count writes words without any prefix, TOS first. All other
items begin with a token byte (signed) and a 16-bit count; all numbers are little-endian.

`log str` and `log mrf` of memory that cannot all be read log what lies before the first byte that
cannot, if there is any, then a memory fault with the address of that byte, and raise INVALID_ADDR
with the same address. With no handler the record has all of it, and its exit is `exception`; with
one the program goes on and may log more.

```rpn
name = libc.so.6
offset = open
    sx bad
    push 4096
    push r,rdi
    log str             // the path, or as much of it as there is, and the fault
bad:
    push r,rsi
    log 1               // the flags, in either case
```

`log i32 NAME` and its like say what a word means: `i8` to `i64` and `u8` to `u64` that so many of
its low bits are a signed or an unsigned number, `f32` and `f64` a floating-point one, `hex` that it
reads best in hexadecimal, `ptr` that it is an address: `dprobe run`, `attach`, `log` and `trace
show`, `stat --by` and `convert` (but to CTF) show it as symbol+offset (in JSON as `place`, too)
while the process runs. With a name it is a field of that name everywhere: in text (`result=-1`),
JSON, CTF, in conditions (`-w 'result<0'`) and histograms of
`dprobe trace`. A name has letters, digits and `_`, {MAX_NAME} at most, and is none that records
have themselves (`pid`, `time`, `word_0`…).

`log ustack` logs the return addresses of the thread in user mode, innermost frame first: where the
probe is, then its callers, at most {USUAL_FRAMES} or as many as are given. They are found by the
unwinding information (CFI) of the files, by frame pointers where there is none, through the frames
of signal handlers. Each is an address in a file, which the item names by path and build-id, so that
it can be shown as function, file and line later, too. A function that has given its frame to
another one (a tail call) is on no stack; gdb may infer it from debug information. As many of the
frames as fit are logged; only where not one does is it LOG_OVERFLOW. Why a stack has no more frames
is in the item: it was whole, as deep as asked for, or could not be walked further (memory that
cannot be read, code without unwinding information, a stack that is corrupt). A frame takes 8 bytes,
each file that is named some 60, once. In the kernel `log kstack` logs the frames there, which are
in `[kernel]`: each says how far it is from the kernel's first address, which names it for those to
whom the kernel shows its symbols (root), and tells nobody where the kernel is.

| token | item | the count is of | then |
| --- | --- | --- | --- |
"""

REFUSED_SOURCE = """\
name = libc.so.6
offset = malloc
    push r,rdj
    push lv,1
    add
    jmp again
    callk
"""

REFUSED_TEXT = f"""\
## What is refused

Before any process is touched a program is checked, all of it, and everything that is wrong with it
is reported at once, with its place, the line and what to do. Refused are: unknown keywords,
instructions, registers and labels; values and operands out of range, among them variables that the
header does not ask for; jumps out of the program, into the middle of an instruction or into
another probe, or from one part of a probe into the other; arguments at a return, or where no
function begins; what only kernel programs may use; a stack that on every path is too shallow or too
deep for an instruction, `ret` outside of any subroutine, calls that nest too deep or can never
return; and what is too large: more than {MAX_CODE:,} bytes of code, {MAX_PROBES:,} probes or
{MAX_FACILITIES} facilities. What cannot be proved is checked while the program runs.

"""

BYTECODE_TEXT = """\
## Bytecode

An instruction is its code, one byte, and its operands, little-endian and without padding:

| operand | bytes | value |
| --- | --- | --- |
"""

_OPERAND_MEANING: Mapping[Operand, str] = {
    Operand.WORD: "any word",
    Operand.U16: "an index of a variable, or a number",
    Operand.COUNT16: "how many words",
    Operand.COUNT8: "how many words",
    Operand.SHIFT: "how many bits",
    Operand.BIT: "which bit, from the least significant one",
    Operand.DEPTH: "how many frames",
    Operand.ARGUMENT: "which argument, from 0",
    Operand.FLOAT: "which floating argument, from 0",
    Operand.KEPT: "which of the words that are kept, from 0",
    Operand.SLOT: "which stack word from SBP or TOS, signed",
    Operand.LABEL: "offset of an instruction in the code",
    Operand.REGISTER: "number of a register, in the order of the table above",
    Operand.FACILITY: "index in the program's list of facilities",
    Operand.NAME: "index in the program's list of names",
    Operand.SYMBOL: "index in the program's list of names",
    Operand.MAP: "index in the program's list of maps",
    Operand.CELL: "how many words a value has, and behind these 16 bits the index of the map",
}


#: Operands whose range says something.
_RANGES: Final = frozenset(
    {
        Operand.U16, Operand.COUNT16, Operand.COUNT8, Operand.SHIFT, Operand.BIT, Operand.DEPTH,
        Operand.ARGUMENT, Operand.FLOAT, Operand.KEPT, Operand.SLOT,
    }
)  # fmt: skip


def _table_row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _default(keyword: Keyword, unset: Mapping[str, object]) -> str:
    value = unset.get(keyword.name)
    if keyword.name in ("name", "offset"):
        return "required"
    if keyword.value is Value.YES_NO:
        return "no"
    if keyword.name == "ex_mask":
        return f"{value:#06x}"
    return "" if value is None else str(value)


def _keywords(known: Mapping[str, Keyword], model: type[Header | ProbeDefinition]) -> Iterator[str]:
    unset = defaults(model)
    yield "| keyword | value | default | meaning |"
    yield "| --- | --- | --- | --- |"
    for name, keyword in known.items():
        yield _table_row(f"`{name}`", keyword.range, _default(keyword, unset), keyword.meaning)


def stack_text(instruction: Instruction) -> str:
    """What an instruction takes off the stack and puts on it: ``2 → 1``."""
    register = Operand.REGISTER in instruction.operands
    unit = "words" if register else "count"
    if register:
        return f"{unit} → 0" if instruction.pops_each else f"0 → {unit}"

    def side(fixed: int, each: int) -> str:
        parts = [str(fixed)] if fixed or not each else []
        return " + ".join(parts + [unit] * each)

    pops = side(instruction.pops, instruction.pops_each)
    if instruction.pushes is None:
        return f"{pops}… → …"
    if instruction.peeks:
        pops += f", looks at {instruction.peeks}"
    return f"{pops} → {side(instruction.pushes, instruction.pushes_each)}"


def _group(group: str) -> Iterator[str]:
    yield f"### {GROUPS[group]}\n"
    yield "| code | instruction | stack | meaning | raises |"
    yield "| --- | --- | --- | --- | --- |"
    for instruction in INSTRUCTIONS:
        if instruction.group != group:
            continue
        written = instruction.spelling
        if instruction.operands:
            text = instruction.operands[0].text
            name = "MAP" if instruction.operands[0] is Operand.CELL else text.upper()
            written = instruction.key.replace(text, name)
        raises = ", ".join(code.name for code in instruction.raises)
        yield _table_row(
            f"{instruction.opcode:02x}",
            f"`{written}`",
            stack_text(instruction),
            instruction.meaning,
            "any" if len(instruction.raises) == len(EXCEPTIONS) else raises,
        )
    yield ""


def _who_pops(register: Register) -> str:
    if register.kernel_only:
        return "nobody; kernel programs only"
    if register.pop_user and register.pop_kernel:
        return "all"
    return "user programs" if register.pop_user else "nobody"


def _register_rows() -> Iterator[str]:
    """One row for each run of registers that differ in nothing but their names."""
    runs: list[list[Register]] = []
    for register in REGISTERS:
        meaning = register.meaning if register.part_of is None else "low half"
        last = runs[-1][0] if runs else None
        same = last is not None and (
            last._replace(name="", meaning="", part_of=None)
            == register._replace(name="", meaning="", part_of=None)
            and meaning == (last.meaning if last.part_of is None else "low half")
        )
        if same:
            runs[-1].append(register)
        else:
            runs.append([register])
    for run in runs:
        first = run[0]
        meaning = first.meaning
        if first.part_of is not None:
            meaning = "low halves of " + ", ".join(str(r.part_of) for r in run)
        yield _table_row(
            " ".join(f"`{register.name}`" for register in run),
            str(first.bits),
            str(first.words),
            _who_pops(first),
            meaning,
        )


def _refusal() -> str:
    """The real report on REFUSED_SOURCE."""
    try:
        assemble(REFUSED_SOURCE, "wrong.rpn")
    except ProgramError as error:
        return str(error)
    raise AssertionError("the example of a refused program is not refused")


def _indented(text: str) -> str:
    return "\n".join(f"    {line}".rstrip() for line in text.splitlines())


def _parts() -> Iterator[str]:
    yield INTRODUCTION
    operators = ", then ".join(" ".join(f"`{name}`" for name in names) for names in LEVELS)
    codes = ", ".join(f"`EX_{info.code.name}`" for info in EXCEPTIONS)
    yield SOURCE.replace("{operators}", operators).replace("{codes}", codes)
    yield "## Header keywords\n"
    yield from _keywords(HEADER, Header)
    yield "\n## Probe keywords\n"
    yield from _keywords(PROBE, ProbeDefinition)
    yield ""
    yield PLACES
    yield RETURNS
    yield MACHINE
    yield from maps_part()
    yield "## Instructions\n"
    yield (
        "*stack*: words popped → words pushed; *count* is the operand, *words* those of the\n"
        "register, and … what only run time tells. Where an instruction has two forms, the one\n"
        "with an operand takes it from there, the other from the stack. Any instruction may\n"
        "raise RPN_STACK_WRAP.\n"
    )
    for group in GROUPS:
        yield from _group(group)
    yield REGISTERS_TEXT.rstrip("\n")
    yield from _register_rows()
    yield ""
    yield EXCEPTIONS_TEXT.rstrip("\n")
    for info in EXCEPTIONS:
        yield _table_row(info.code.name, f"{info.code:#06x}", info.parm1, info.parm2, info.meaning)
    yield ""
    yield LOG_TEXT.rstrip("\n")
    for token in TOKENS:
        name = token.token.name.lower().replace("_", " ")
        yield _table_row(str(int(token.token)), name, token.counts, token.body)
    yield ""
    yield REFUSED_TEXT + _indented(_refusal()) + "\n"
    yield BYTECODE_TEXT.rstrip("\n")
    for kind in Operand:
        limits = f"{_OPERAND_MEANING[kind]}: {kind.low} to {kind.high}"
        if kind not in _RANGES:
            limits = _OPERAND_MEANING[kind]
        yield _table_row(kind.name.lower(), str(kind.size), limits)
    yield "\n## .dpb files\n"
    yield from _layout((bytecode.__doc__ or "").splitlines())


def _layout(lines: Iterable[str]) -> Iterator[str]:
    """The documentation of the format without its title, its drawing as a block of its own."""
    text = list(lines)[2:]
    yield "`dprobe compile` writes a verified program as a `.dpb` file.\n"
    yield "\n".join(text).strip("\n")


def page() -> str:
    """The whole page."""
    return "\n".join(_parts()).rstrip("\n") + "\n"


def main(arguments: list[str]) -> int:
    """Write or check the page; the process's exit status."""
    return write_or_check("dprobed.program.rpn.reference", PAGE, page(), arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
