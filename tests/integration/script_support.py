"""A small program for scripts, and what a script prints about it."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

from tests.integration.client_support import DPROBE, PATIENCE, dprobe

#: Calls ``inner(0, "zero")``, ``inner(1, "one")``, ``inner(2, "two")`` by way of ``outer``; with an
#: argument, that many times for each line that it reads, which it then writes back.
SOURCE = """
#include <stdio.h>
#include <stdlib.h>
struct point { int x; unsigned char tag; short y; };
const char *names[] = {"zero", "one", "two"};
long total = 5;
__attribute__((noinline)) int inner(int number, const char *name)
{ __asm__ volatile("" ::: "memory"); return number + 1; }
__attribute__((noinline)) int outer(int number)
{
    total += number;
    int got = inner(number, names[number % 3]);
    __asm__ volatile("" ::: "memory");
    return got * 10;
}
__attribute__((noinline)) void take(struct point *at) { __asm__ volatile("" ::: "memory"); }
int main(int count, char **words)
{
    char line[100];
    struct point at = {-3, 7, 500};
    if (count == 1) {
        for (volatile int i = 0; i < 3; i++)
            outer(i);
        take(&at);
        return 0;
    }
    while (fgets(line, sizeof line, stdin)) {
        for (int i = 0; i < atoi(words[1]); i++)
            outer(i);
        fputs(line, stdout);
        fflush(stdout);
    }
    return 0;
}
"""


def built(folder: Path, name: str = "work") -> Path:
    """The program, with frame pointers and debug information."""
    source, binary = folder / f"{name}.c", folder / name
    source.write_text(SOURCE)
    flags = ["-g", "-O1", "-fno-omit-frame-pointer", "-fcf-protection=none"]
    subprocess.run(["gcc", *flags, "-o", binary, source], check=True, timeout=PATIENCE)
    return binary


def bpftrace(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    """``dprobe bpftrace``, through a daemon of its own."""
    return dprobe("bpftrace", *arguments, **options)


def started(*arguments: object, **options: Any) -> subprocess.Popen[str]:
    """``dprobe`` with a script, as it runs; its output is read by who started it."""
    command = [str(DPROBE), *map(str, arguments)]
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, text=True, **options)
