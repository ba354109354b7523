"""Nothing is lost of what threads count at the same time, or it is counted as lost."""

from __future__ import annotations

import mmap
import os
import subprocess
from pathlib import Path

from dprobed.program.exec.native import maps
from dprobed.program.exec.native.abi import Data, Hit
from dprobed.program.exec.native.compiler import compile_unit
from dprobed.program.exec.unit import part_of
from dprobed.program.rpn.parser import assemble
from tests.programs.native import SOURCE

THREADS, RUNS = 8, 20_000
PAGE = 4096
SOURCE_TEXT = """\
name = x
vars = 1
map = counts, count, keys=2
map = sums, sum, signed
map = least, min, keys=1
map = all, stats, keys=1, signed
map = spread, hist,2, keys=1
map = few, count, keys=1, size=3
map = words, value, keys=1
map = gone, value, keys=2
offset = 0x1000
 inc lv,0
 push 3
 push r,rsi
 and
 push r,rdi
 key 2
 minc counts
 push 0xffffffffffffffff
 madd sums
 push r,rsi
 push 7
 key 1
 madd least
 push r,rsi
 push 7
 key 1
 madd all
 push r,rsi
 push 3
 push r,rsi
 and
 key 1
 madd spread
 push r,rdi
 key 1
 minc few
 push 1
 push r,rsi
 and
 key 1
 minc words
 push 5
 push r,rsi
 push r,rdi
 key 2
 mset gone
 push r,rsi
 push r,rdi
 key 2
 mdel gone
 exit
"""


def test_what_threads_count_together(tmp_path: Path) -> None:
    runner, code = tmp_path / "runner", tmp_path / "code"
    source = SOURCE.with_name("native_threads.c")
    flags = ("-g", "-O1", "-Wall", "-Wextra", "-Werror", "-pthread")
    subprocess.run(["gcc", *flags, str(source), "-o", str(runner)], check=True)
    program = assemble(SOURCE_TEXT, "x")
    unit = part_of(program, program.probes[0], 0, ()).unit
    code.write_bytes(compile_unit(unit).code)
    definitions = program.header.map
    size = PAGE + maps.bytes_of(definitions)
    descriptor = os.memfd_create("maps")
    try:
        os.ftruncate(descriptor, size)
        memory = memoryview(mmap.mmap(descriptor, size))
        maps.begin(memory[PAGE:], definitions)
        offsets = (Data.MAPS, Hit.SCRATCH)
        numbers = map(str, (descriptor, size, THREADS, RUNS, *map(int, offsets)))
        arguments = [str(runner), str(code), *numbers]
        done = subprocess.run(arguments, pass_fds=[descriptor], check=False)
        assert done.returncode == 0
    finally:
        os.close(descriptor)
    total = THREADS * RUNS
    assert int.from_bytes(memory[Data.LOCALS : Data.LOCALS + 8], "little") == total
    found = {each.definition.name: each for each in maps.shared_maps(memory[PAGE:], definitions)}
    cells = {
        name: {tuple(key): cell for key, cell in each.contents().entries}
        for name, each in found.items()
    }
    per_key = RUNS // 4
    expected = {(thread, n): [per_key] for thread in range(THREADS) for n in range(4)}
    assert cells["counts"] == expected
    minus = (1 << 128) - total
    assert cells["sums"] == {(): [minus & (1 << 64) - 1, minus >> 64]}
    assert cells["least"] == {(7,): [0]}
    once = RUNS * (RUNS - 1) // 2
    assert cells["all"] == {(7,): [total, once * THREADS, 0, 0, RUNS - 1]}
    spread = {key[0]: sum(cell[1::2]) for key, cell in cells["spread"].items()}
    assert spread == dict.fromkeys(range(4), THREADS * per_key)
    assert sum(cell[0] for cell in cells["few"].values()) == 3 * RUNS
    assert found["few"].lost == (THREADS - 3) * RUNS
    words = sum(cell[0] for cell in cells["words"].values())
    assert words + found["words"].lost == total
    # One that was not set, or not taken away again, is counted as well.
    assert len(found["gone"]) <= found["gone"].lost
    assert len(cells["gone"]) == len(found["gone"])
