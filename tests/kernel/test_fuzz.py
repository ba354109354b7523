"""Programs and requests that nobody would make harm neither the interpreter nor the kernel.

The inputs to begin with are the case files of the language, which are kept; what is made of them
depends on nothing else, so that a finding comes again.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import subprocess
from pathlib import Path
from random import Random
from typing import Final

import pytest

from dprobed.kernel.abi import REQUESTS, Attach, Query, Record, Vars
from dprobed.program.maps import KIND_NUMBERS
from dprobed.program.rpn.parser import assemble
from tests.kernel.c_interpreter import FLAGS, PARTS
from tests.kernel.device import (
    CLOSE,
    GETPPID,
    IOCTL,
    READ,
    RING,
    Device,
    attaching,
    check,
    ioctl,
    loading,
    text_of,
)
from tests.kernel.machine import AREA, Machine, called, result_of, written
from tests.kernel.test_bridge import PLACE
from tests.programs.cases import all_cases

#: Inputs that are made of the case files; and in the kernel.
ROUNDS: Final = int(os.environ.get("DPROBED_FUZZ", "100000"))
IN_KERNEL: Final = int(os.environ.get("DPROBED_FUZZ_IN_KERNEL", "300"))
#: ``struct head`` of ``fuzz.c``.
_HEAD: Final = struct.Struct("<4B5H2B4B")
_O_NONBLOCK, _FCNTL, _SETFL = 0o4000, 72, 4
#: What DPROBES_LOAD and DPROBES_ATTACH say that they may fail with.
LOAD_ERRORS: Final = {errno.EFAULT, errno.EINVAL, errno.EBADMSG, errno.ENOMEM}
ATTACH_ERRORS: Final = {
    *(errno.EINVAL, errno.EBUSY, errno.ENOENT, errno.EILSEQ, errno.EADDRNOTAVAIL, errno.EBADF),
    *(errno.EACCES, errno.ENOSPC, errno.ENOMEM),
}
PROGRAMS: Final = [assemble(case.source(), case.place) for case in all_cases() if not case.refused]


def _build(folder: Path) -> Path:
    """The fuzzer: the parts of the interpreter tell where they are."""
    program = folder / "fuzz"
    parts = sorted(map(str, PARTS.glob("*.c")))
    objects = [str(folder / f"{Path(part).stem}.o") for part in parts]
    for part, to in zip(parts, objects, strict=True):
        compiled = [*FLAGS, "-fsanitize-coverage=trace-pc", "-c", part, "-o", to]
        subprocess.run(["gcc", *compiled], check=True)
    fuzz = str(Path(__file__).parent / "fuzz.c")
    subprocess.run(["gcc", *FLAGS, fuzz, *objects, "-o", str(program)], check=True)
    return program


@pytest.mark.timeout(900)
def test_no_program_harms_the_interpreter(tmp_path: Path) -> None:
    program = _build(tmp_path)
    seeds = []
    for number, each in enumerate(PROGRAMS):
        head, probe = each.header, each.probes[0]
        is_kernel = head.modtype != "user"
        fields = (head.vars, head.gvars, head.jmpmax, len(each.names), head.logmax,
                  head.ex_logmax, probe.heap, probe.split, probe.ex_mask)  # fmt: skip
        limits = (*[0xFF] * 4, *[0xFFFF] * 5)
        least = [min(field, limit) for field, limit in zip(fields, limits, strict=True)]
        seed = tmp_path / f"{number}.seed"
        maps = [KIND_NUMBERS[one.kind] | one.keys << 4 for one in head.map[:4]]
        maps += [KIND_NUMBERS["count"]] * (4 - len(maps))
        fixed = _HEAD.pack(*least, head.autostacktrace, is_kernel, *maps)
        seed.write_bytes(fixed + each.code[:2000])
        seeds.append(str(seed))
    finding = tmp_path / "finding"
    command = [str(program), str(ROUNDS), "1", str(finding), *seeds]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = finding.read_bytes().hex() if finding.exists() else ""
    assert done.returncode == 0, f"{found}\n{done.stderr}"
    rounds, accepted, kept, edges = map(int, done.stdout.split())
    assert rounds == ROUNDS
    # The verifier has let enough of them through, and some have come to where none was before.
    assert accepted > ROUNDS / 20
    assert kept > len(seeds) * 1.1
    assert edges > 500


def _damaged(chance: Random, data: bytes, most: int) -> bytes:
    altered = bytearray(data)
    for _ in range(chance.randint(0, most)):
        size = chance.choice((1, 1, 1, 4, 8))
        at = chance.randrange(len(altered))
        word = chance.choice((0, 1, 4, 0x7F, 0x80, 0xFF, 1 << 16, 1 << 31, (1 << 64) - 1,
                              AREA, chance.getrandbits(64)))  # fmt: skip
        altered[at : at + size] = word.to_bytes(16, "little")[:size]
    return bytes(altered[: len(data)])


def _use(machine: Machine, fd: int, chance: Random) -> None:
    """Make requests on a program, and have it hit."""
    check(machine.call(_FCNTL, fd, _SETFL, _O_NONBLOCK))
    check(ioctl(machine, fd, "DPROBES_QUERY", Query()))
    attach = Attach.from_buffer_copy(_damaged(chance, bytes(attaching(PLACE)), 2))
    placed = ioctl(machine, fd, "DPROBES_ATTACH", attach)
    assert placed == 0 or -placed in ATTACH_ERRORS, placed
    machine.call(GETPPID, count=3)
    for name, kind in (("GETVARS", Vars), ("SETVARS", Vars), ("QUERY", Query)):
        argument = kind.from_buffer_copy(_damaged(chance, bytes(kind()), 4))
        asked = ioctl(machine, fd, f"DPROBES_{name}", argument)
        assert -asked in {0, errno.EINVAL, errno.EFAULT, errno.ENOMEM}, (name, asked)
    taken = machine.call(READ, fd, AREA, RING)
    assert taken >= ctypes.sizeof(Record) or -taken in {errno.EAGAIN, errno.EMSGSIZE}, taken


@pytest.mark.timeout(1800)
def test_no_request_harms_the_kernel(machine: Machine, device: Device) -> None:
    before = text_of(machine, "/sys/module/dprobes/refcnt")
    chance = Random(1)
    loaded = 0
    for _ in range(IN_KERNEL):
        program = chance.choice(PROGRAMS)
        header, arrays = loading(program, dict.fromkeys(map(str, program.facilities), 4), ())
        header.modtype = chance.choice((2, 2, 2, header.modtype))
        head = _damaged(chance, bytes(header), chance.choice((0, 0, 2)))
        message = head + _damaged(chance, arrays, 3)
        made = result_of(
            machine.exchange(
                written(AREA, message), called(IOCTL, device.fd, REQUESTS["DPROBES_LOAD"], AREA)
            )
        )
        if made >= 0:
            loaded += 1
            _use(machine, made, chance)
            check(machine.call(CLOSE, made))
        else:
            assert -made in LOAD_ERRORS, made
    assert loaded > IN_KERNEL / 20
    assert text_of(machine, "/sys/module/dprobes/refcnt") == before
