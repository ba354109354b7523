"""Writes docs/scripts.md: the script language, with the tables of its builtins and functions."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from dprobed.program.bt.builtins import BUILTINS
from dprobed.program.bt.builtins import REFUSED as REFUSED_NAMES
from dprobed.program.bt.compiler import FUNCTIONS
from dprobed.program.bt.functions_ours import REFUSED
from dprobed.program.generated import write_or_check
from dprobed.program.isa import KEPT_WORDS
from dprobed.program.maps import MAX_KEY_ITEMS, MAX_MAPS

PAGE: Final = Path(__file__).parents[3] / "docs" / "scripts.md"

_TEXT: Final = """\
<!-- Written by `python -m dprobed.program.bt.reference`; change that, not this. -->
# Scripts

A script is one line instead of a program of the [probe language](language.md): bpftrace's language
for probes in processes, compiled to such a program, and with what bpftrace does not have.

```bt
uprobe:libc:malloc /arg0 > 4096/ { @[comm, ustack(3)] = hist(arg0); }
```

    dprobe run -e 'malloc { @ = hist(arg0) }' -- ls
    dprobe attach -e 'handle:return { @ = hist(elapsed) }' 1234

Contents: [probes](#probes) · [in the kernel](#in-the-kernel) · [values](#values) ·
[statements](#statements) · [maps](#maps) · [blocks](#blocks) · [names](#names) ·
[functions](#functions) · [altering](#altering) · [files](#other-files-macros-settings) ·
[editors](#editors) ·
[what is not there](#what-is-not-there)

A script is places, maybe a condition, and what is done, as often as wanted:

```bt
begin { printf("%-8s %s\\n", "PID", "FILE"); }

uprobe:libc:open, uprobe:libc:open64
/comm != "bash"/
{
    printf("%-8d %s\\n", pid, str(arg0));
}
```

## Probes

| place | |
| --- | --- |
| `uprobe:MODULE:FUNCTION` | a function that is entered. The module is a path, or a name as \
`libc`; both may have `*`, `?` and `[…]` |
| `uprobe:MODULE:FUNCTION+0x4`, `uprobe:MODULE:0x1234` | an instruction |
| `uprobe:MODULE:FILE.c:LINE` | the code of a line, by debug information |
| `uprobe:MODULE:cpp:"ns::run(int)"` | a function by its name in C++ |
| `uretprobe:MODULE:FUNCTION` | its return |
| `usdt:MODULE:PROVIDER:NAME`, `usdt:MODULE:NAME` | a static probe |
| `watchpoint:0xADDRESS:LENGTH:w` | memory that is written (`w`), read or written (`rw`), \
executed (`x`) |
| `kprobe:FUNCTION`, `kprobe:MODULE:FUNCTION`, `kprobe:FUNCTION+0x4` | [in the kernel]\
(#in-the-kernel): a function that is entered, an instruction; may have `*`, `?` and `[…]` |
| `kretprobe:FUNCTION` | its return |
| `rawtracepoint:NAME`, `tracepoint:CATEGORY:NAME` | a tracepoint of the kernel; its arguments are \
`arg0`, `arg1`… |
| `watchpoint:FUNCTION+argN:LENGTH:w` (`asyncwatchpoint` is the same) | memory whose address \
the function is given, from soon after it was entered with it; in processes that are named (`-p`, \
a command). A processor has four watchpoints |
| `begin`, `end`, `interval:s:1`, `self:signal:SIGUSR1` | [blocks](#blocks), which no process \
fires |
| `malloc`, `malloc:return` | short: a function, and its return, in the module of the process \
that has it |
| `server.c:120` | short: a line |
| `usdt:PROVIDER:NAME` | short: a static probe |
| `syscall:NAME` | short: the `syscall` instructions of the executable, libc, the loader and other \
libraries that are known at the start, where they make that system call; `arg0`… are its \
arguments. \
Not seen: what is loaded or made later, the vDSO, and where a call is left |
| `watch NAME`, `watch NAME:8:rw` | short: a variable |

Several places with commas between them share what is done. The condition stands between slashes,
or behind `if`: `server.c:120 if n > 3 { … }`. What a bad address has is 0, or an empty text.

At a return, arguments are those of the entry of the same call: an entry part keeps up to
@KEPT@ of them. `elapsed` at `FUNCTION:return` is how long the call took; everywhere else, as
in bpftrace, how long the script has been running.

## In the kernel

A script whose probes are in the kernel runs there, for all processes, by the module dprobes, which
root's dprobed loads or says how to get ([the kernel bridge](../kernel_bridge/README.md)):

    dprobe attach -e 'kprobe:vfs_read { @[comm] = count() }'
    dprobe attach -e 'kretprobe:vfs_read /retval > 0/ { @ = hist(retval) }'
    dprobe attach -e 'kprobe:vfs_fsync_range { @[comm, kstack(5)] = count() }'
    dprobe attach -e 'kprobe:vfs_read { @t[tid] = nsecs }
        kretprobe:vfs_read /@t[tid]/ { @ns[comm] = hist(nsecs - @t[tid]); delete(@t[tid]) }'

`kstack` is the stack there, `curtask` the address of the task. Arguments are numbers: types of the
kernel are not known, but those that the script declares are. A script's probes are in the kernel or
in processes, not both. Values that blocks set do not come into it.

## Values

Numbers have 64 bits; a type of fewer bits is what a cast, a member or `args.x` says. A comparison
or division is unsigned where one side is and neither is a number written out. `x / 0` is 0, with a
warning where the 0 is known before the script runs.
Pointers know what they point to: `(struct req *)arg0`, `$r->path`, `$r.path`, `$r->list[3]`, \
`*$p`,
`&$r->path`, `$p + 1`. Types come from the script (`struct`, `union`, `enum`, `typedef`, bit
fields, arrays), from debug information, or from a value (`let $x: typeof($y)`). Texts
are compared by `==` and `!=`; a text of the
process is read where it is used, and only while the hit lasts.

`log("n={n} path={r->path}")` prints a line, in which what stands between braces is shown as suits
what it is: the address of letters as the text, a struct by its members; `{{` is a brace. With
`--json` each value has its name. [`dprobe logpoint`](guide.md#logpoints-and-snapshots) is made of
it.

`str(x, n)` has `n - 1` bytes at most, as the last one is for the NUL, and is compared with no more
than these. A text in quotes may have any byte (`"\\xff"`, `"\\377"`), which comes out as it is; a
NUL ends it, but in the formats of `printf`.

Numbers are `10`, `0x0a`, `012` (octal), `1_000`, `1e6`; with `ns us ms s m h d` behind them they
are nanoseconds.

## Statements

`$x = 1;` gives a variable of the block a value; `let $x;`, `let $x: uint64 = 1;` declare one.
`if`, `else`, `while (…)`, `for ($i : 0..10)`, `for ($kv : @map)` ([in blocks](#blocks)),
`unroll (3)`, `break`, `continue`, `return`, `CONDITION ? A : B`, `++`, `--`, `+=` and their like,
`{ …; value }` as a value. A hit runs a million instructions at most; a loop that goes on is ended.

## Maps

`@name[key, …]` are kept for as long as the script runs, and shown at its end. A key has
@KEYS@ items at most (numbers, texts, tuples, stacks), and a module's probes @MAPS@ maps.

| | |
| --- | --- |
| `@ = count()`, `sum(n)`, `min(n)`, `max(n)`, `avg(n)`, `stats(n)`, `hist(n[, bits])`, \
`lhist(n, least, greatest, step)`, `tseries(n, 1s, 10, "sum")` | exact, merged over all threads \
and processes |
| `@ = n`, `@ += n`, `@++`, `@--` | a value, which the script reads too: each process has \
its own; what was set last is shown, in whichever process (an ended one too) or block |

What is only ever counted up by `@x++` at hits is a `count()`, also where blocks read it. A value is
of one module's probes; it can be a number, a pointer, a text (`@file[tid] = str(arg0)`, `comm`) or
a tuple of these. A text that is kept has as many bytes as `str()` may have; whoever keeps many
takes fewer: `str(arg0, 64)`. What aggregates have is
not read at hits, only in blocks: `(int64)@c[1]`, `has_key(@c, 1)`, `len(@c)`.

## Blocks

`begin`, `end`, `interval` and `self:signal` are run by whoever shows the script's output. There
loops over maps are possible: `for ($kv : @map) { print($kv.0); }`: `$kv.0` is the key (a tuple \
where
it has several items; stacks and symbols are their text), `$kv.1` the value. The keys of values
that a block sets or deletes are set or
deleted in every process when the block has ended; all others stay as hits have set them. A block
has no process: no arguments, no registers, no stack.

## Names

| name | |
| --- | --- |
| `arg0`… | the integer and pointer arguments of the function or of the static probe |
| `args.NAME` | an argument by its name, by debug information |
| `retval` | what the function returns, at its return |
| `NAME` | a local or global variable of the program, at a place with debug information; one \
that is optimized out is refused with where it is there |
| `$1`…, `$#` | the parameters of the script, and how many there are; one that C reads as a \
number is a number (`0x10`, and `010` is 8), every other a text; what is not there is 0 |
@NAMES@

Error numbers (`ENOENT`), signals (`SIGTERM`) and flags of `open` (`O_CREAT`) have their names.

## Functions

| function | |
| --- | --- |
@FUNCTIONS@

A conversion of a format is `%`, flags (`-+ #0`), a width, `.` and a precision, the length of a C
type (`hh h l ll`, without one 32 bits count) and `d i u o x X c p s`, `e f g E F G`, or of a
`buf()` `r rx rh`. Widths and precisions count letters, not bytes; `%c` is a byte. On a terminal,
control characters in a text of a process are shown (`\\x1b`), and what the script itself writes is
done. Formats of `time` and `strftime` are those of the C library; `%f` is microseconds.

## Altering

`arg0 = 1`, `retval = -1`, `reg("ax") = 0`, `*(uint32 *)(arg0 + 8) = 7`, `$r->state = 3` and
`total = 7` (a variable of the program that is in memory) alter the process; `skip(-1, ENOSPC)`
returns from a function at once, as it is entered, and sets its error number (where the module is
libc). Who may alter is as with other programs; `dump()`, `debugger()`, `exit_to("NAME")` and
`rem()` end a hit as `exit` with a facility and `rem` do.

## Other files, macros, settings

`#include "file.h"` takes C declarations (of a file beside the script, or in a folder that
`dprobe bpftrace -I DIR` names; `--include FILE` does so from outside), `#define NAME text` names
a value, `#ifdef` and its like leave lines out; `import "file.bt"` takes another script in.
`macro add(x, $y, @z) { … }` is put in where it is called; its own variables are its own.
`config = { max_strlen=200; stack_mode=perf }` are bpftrace's settings (a text that
is cut off ends without a mark: `str_trunc_trailer` is refused). `let @x = hash(100);`
says how many keys a map has;
what finds no room in it is told at the end.

## Editors

`etc/editor` is a package for VS Code that colours scripts: link it into `~/.vscode/extensions`.
Other editors take its TextMate grammar, `bt.tmLanguage.json`. `dprobe lsp` is a language server
(it needs the package pygls): it says what is wrong with a script as it is written, completes words,
and functions behind `uprobe:MODULE:`, and shows what they mean. With `-p PID` it knows the
functions, lines and variables of that process; without, short places in libc alone.

## What is not there

`fentry` and `fexit`, tracepoints of system calls (`tracepoint:syscalls:…`), `hardware`, `software`,
`iter`, `bench` and `profile` are refused, each in one line; so are arithmetic with floating-point
numbers (they are shown by `%f`), stacks and `buf()` as values of maps, and these:

| name | |
| --- | --- |
@REFUSED@
"""

_MEANINGS: Final = {
    "pid": "the process",
    "tid": "the thread",
    "uid": "its real user id",
    "gid": "its real group id",
    "cpu": "the processor",
    "nsecs": "monotonic nanoseconds",
    "comm": "the thread's name",
    "username": "the user's name",
    "rand": "a number of 32 bits that looks like chance",
    "elapsed": "nanoseconds since the script began; at `FUNCTION:return`, since the call did",
    "probe": "the probe's name",
    "probetype": "its first part",
    "func": "the function that is probed",
    "caller": "where the function was called",
    "cpid": "the process of `-c`",
    "has_cpid": "whether there is one",
    "ncpus": "how many processors there are",
    "usermode": "1, in the kernel 0",
    "curtask": "the address of the task, in the kernel",
}


def page() -> str:
    """All of it."""
    return (
        _TEXT.replace("@NAMES@", "\n".join(_names()))
        .replace("@FUNCTIONS@", "\n".join(_functions()))
        .replace("@REFUSED@", "\n".join(_refused()))
        .replace("@KEPT@", str(KEPT_WORDS))
        .replace("@KEYS@", str(MAX_KEY_ITEMS))
        .replace("@MAPS@", str(MAX_MAPS))
    )


def _names() -> Iterator[str]:
    for name in BUILTINS:
        yield f"| `{name}` | {_MEANINGS[name]} |"


def _functions() -> Iterator[str]:
    for name, one in sorted(FUNCTIONS.items()):
        if name not in REFUSED:
            yield f"| `{one.usage}` | {one.meaning} |"


def _refused() -> Iterator[str]:
    for name, why in sorted({**REFUSED, **REFUSED_NAMES}.items()):
        yield f"| `{name}` | {why} |"


def main(arguments: list[str]) -> int:
    """Write the page, or check it."""
    return write_or_check("dprobed.program.bt.reference", PAGE, page(), arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
