"""The part of the language reference about maps."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from dprobed.program.maps import (
    BUCKET_BYTES,
    DEFAULT_SIZE,
    KINDS,
    MAX_BUCKETS,
    MAX_KEY_ITEMS,
    MAX_MAPS,
    MAX_SIZE,
    PROGRAM_BYTES,
    STRING_BYTES,
    TARGET_BYTES,
    MapKind,
)

_BEFORE: Final = f"""\
## Keys and maps

A map keeps something at each key: how often, a sum, a histogram. It is declared in the header,

    map = NAME, KIND[,ARGUMENT…][, keys=N][, size=M][, signed]

once for each map ({MAX_MAPS} at most). `keys=N`: its key is a list of N items (0 to
{MAX_KEY_ITEMS}; 0, as where nothing is said: there is one cell, which has no key). `size=M`: at
most so many keys (1 to {MAX_SIZE}; {DEFAULT_SIZE}). `signed`: words that are added are two's
complement; without it they are unsigned. The kinds:

| kind | what is at a key | instructions |
| --- | --- | --- |
"""

_AFTER: Final = f"""\

`key …` instructions gather the items of a key, and the next instruction on a map uses it up:

```rpn
name = libc.so.6
map = sizes, hist
map = calls, count, keys=2
map = seen, value, keys=1
offset = malloc
    push r,rdi
    madd sizes          // a histogram of what was asked for
    key comm
    push pid
    key 1
    madd calls          // how often, by name and process; a count takes no value
    push tid
    key 1
    mhas seen           // 1 if this thread was here before
    jnz again
    push 1
    push tid
    key 1
    mset seen
again:
    abort               // no record
```

- `key N` pops N words, the former TOS becomes the first of these items. `key str` reads a string;
  the strings of a key have {STRING_BYTES} bytes together, and one that is longer raises
  INVALID_OPERAND (5, the length asked for). One that cannot be read raises INVALID_ADDR.
- `key ustack` takes the thread's stack, and `key ustack,8` eight frames of it at most; stacks share
  the room of strings, and have as many frames as fit. A frame is module and offset, so that the
  same stack is the same key in all processes; who shows it says function and line.
- `key kstack` and `key kstack,8` take the stack in the kernel, of programs that are there.
- Where a program stands in a key is known before it runs: on all paths to an instruction the key
  has the same items (`word`, `string`, `name`, `stack`); none is open at a `call`, a `ret` or the
  end, nor behind an exception. All keys of a map are of items of the same kinds. Else it is
  refused.
- `key text,N` pops N words that are a string, as `push text,N` makes them of one in memory and
  `push comm` of the thread's name: to what `key str` makes of the same string, it is the same.
- A `value,N` has N words (1 to 512) at each key: `mload` pushes all of them, and `mstore` pops and
  sets them in one piece, whatever other threads do. In a `value,N,1` the first of the words is the
  time at which it was set, which the program pushes (`push time`): of several processes, ended ones
  too, the latest is told. `minc` adds 1 to the word behind the time.
- `madd` of a `count` is `minc`, and takes no value. A `value` is a word that wraps round; `mget` of
  a key that is not there pushes 0, which `mhas` tells apart. Sums have 128 bits, and do not.
- A `hist` has buckets of powers of two; with `hist,BITS` each is divided into 2^BITS equal ones (0
  to 5). `lhist,MIN,MAX,STEP` has at most {MAX_BUCKETS} steps, and a bucket for what is below and
  above; a MIN below 0 needs `signed`. `tseries,INTERVAL,BUCKETS` has the sum in each of the latest
  BUCKETS intervals of INTERVAL milliseconds.
- **No room.** A key beyond `size` is refused, and counted as lost; so is a key or a bucket for
  which there are no bytes: the maps of a program have {PROGRAM_BYTES >> 20} MiB in a process, those
  of all programs in it {TARGET_BYTES >> 20} MiB (a key is about 200 bytes and 40 a word, a bucket
  {BUCKET_BYTES}). What is lost is shown wherever the map is; if nothing is, the map is exact.
- **How long they last.** Maps live as long as their program is in, one in each process; they are
  shown merged over processes, ended ones included. A `value` belongs to its process and is never
  merged. A `fork` child begins with the values of its parent, as with variables, and with all other
  maps empty, so that nothing is counted twice. For maps a new image is a new process: at `exec` all
  of them are empty, sums and histograms as well; who wants what is before asks for it before.
- In the kernel a program has one map for all processors: keys are the same for all, what is added
  is kept by each on its own and put together when it is read, so it is exact and nobody waits for
  anybody. A `value` is of the kernel, too. Room is made when the program is inserted: 8 MiB for the
  keys of a map, 16 MiB for what is added on all processors together; what needs more is counted as
  lost. `--clear` and `--zero` lose nothing of what is counted meanwhile. Values cannot be set from
  outside there yet.
"""


def maps_part() -> Iterator[str]:
    """The section, line by line."""
    yield _BEFORE.rstrip("\n")
    for kind in KINDS:
        takes = ", ".join(f"`{name}`" for name in kind.takes)
        yield f"| `{_written(kind)}` | {kind.meaning} | {takes} |"
    yield _AFTER


def _written(kind: MapKind) -> str:
    """``hist[,BITS]``."""
    arguments = ""
    for argument in kind.arguments:
        text = f",{argument.name.upper()}"
        arguments += text if argument.default is None else f"[{text}]"
    return kind.name + arguments
