"""Which system call each ``syscall`` instruction of a file makes."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from dprobed.binary.file import Binary
from dprobed.binary.system_calls import system_calls

SOURCE = """
    .text
    .globl plain, zeroed, copied, two, immediate
    .type plain,@function
plain:  mov $39, %eax
        mov %rdi, %r10
first:  syscall
        ret
    .type zeroed,@function
zeroed: xor %eax, %eax
second: syscall
        ret
    .type copied,@function
copied: mov $1, %eax
        mov %rdi, %rax
third:  syscall
        ret
    .type two,@function
two:    mov $3, %eax
fourth: syscall
        mov $0x5050f, %edx      # the bytes of the instruction, and no instruction
        mov $4, %rax
fifth:  syscall
        ret
    .type _start,@function
    .globl _start
_start: syscall
"""


def test_the_number_is_what_eax_was_given_last(tmp_path: Path) -> None:
    (tmp_path / "calls.s").write_text(SOURCE)
    path = tmp_path / "calls"
    command = ["gcc", "-nostdlib", "-static", "-o", str(path), str(tmp_path / "calls.s")]
    subprocess.run(command, check=True, timeout=60)
    elf = Binary(os.open(path, os.O_RDONLY | os.O_CLOEXEC), str(path))

    def at(name: str) -> int:
        return elf.symbols.find(name)[0].value

    found = system_calls(elf)
    # Behind a system call, eax is what it returned.
    assert found.by_number == {
        39: (at("first"),),
        0: (at("second"),),
        3: (at("fourth"),),
        4: (at("fifth"),),
    }
    assert found.unknown == (at("third"), at("_start"))
