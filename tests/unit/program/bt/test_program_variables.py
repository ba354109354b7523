"""What debug information says: arguments by name, what a function returns, variables of the
program where they are; and that what is not there is refused with the reason."""

from __future__ import annotations

from collections.abc import Sequence
from struct import pack, unpack
from typing import Any

import pytest

from dprobed.program.bt.world import NoWorld, Parameter, ProgramVariable, Typed
from dprobed.program.types import (
    EnumType,
    FloatType,
    IntegerType,
    Member,
    PointerType,
    StructType,
    Type,
)
from dprobed.program.variables import LocationStep as Step
from dprobed.program.variables import VariableLocation as Where
from tests.programs.cases import Region
from tests.unit.program.bt.running import AT, Running, refused, text

TYPES: tuple[Type, ...] = (
    IntegerType("int", 4, True),
    IntegerType("char", 1, True, character=True),
    PointerType(1),
    FloatType("double", 8),
    StructType("struct", "req", 16, (Member("state", 0, 0), Member("path", 2, 8))),
    PointerType(4),
    EnumType("color", 4, values=(("RED", 0), ("BLUE", 2))),
    IntegerType("bool", 1, boolean=True),
)
INT, TEXT, DOUBLE, REQ, REQ_POINTER, COLOR, BOOL = 0, 2, 3, 4, 5, 6, 7


def typed(index: int) -> Typed:
    return Typed(TYPES, index)


class World(NoWorld):
    """A program `m` with its debug information."""

    def module(self, function: str) -> str | None:
        return "m"

    def parameters(self, module: str, function: str) -> Sequence[Parameter] | None:
        found = {
            "handle": [("n", INT), ("d", DOUBLE), ("path", TEXT), ("c", COLOR), ("e", DOUBLE),
                       ("b", BOOL)],
            "taken": [("whole", REQ), ("n", INT)],
        }.get(function)  # fmt: skip
        return None if found is None else [Parameter(name, typed(one)) for name, one in found]

    def result(self, module: str, function: str) -> Typed | None:
        return typed({"area": DOUBLE}.get(function, INT))

    def named_type(self, module: str, name: str) -> Typed | None:
        return typed(REQ) if name == "struct req" else None

    def anchor(self, module: str) -> tuple[str, int] | None:
        return "main", 0x1000

    def variable(self, module: str, place: str, name: str) -> ProgramVariable | None:
        assert (module, place) in (("m", "a.c:3"), ("m", "handle"))
        found = {
            "len": (INT, Where("bytes", data=b"\x09\0\0\0")),
            "n": (INT, Where("memory", (Step("register", 6), Step("plus", -20)))),
            "req": (REQ_POINTER, Where("register", (Step("register", 3),))),
            "count": (INT, Where("value", (Step("constant", 7), Step("register", 0), Step("add")))),
            "total": (INT, Where("memory", (Step("address", 0x1040),))),
            "whole": (REQ, Where("memory", (Step("register", 6),))),
            "ratio": (DOUBLE, Where("register", (Step("register", 18),))),
            "fixed": (INT, Where("bytes", data=b"\x05\0\0\0")),
            "gone": (INT, Where("absent", reason="optimized out", there=((0x10, 0x20),))),
            "split": (REQ, Where("pieces")),
        }.get(name)
        return None if found is None else ProgramVariable(typed(found[0]), found[1])


def test_arguments_have_their_names_and_types() -> None:
    running = Running(
        'uprobe:m:handle { printf("%d %f %s %s %f %d", args.n, args.d, str(args.path), args.c, '
        "args.e, args.b) }",
        None,
        World(),
    )
    context = running.thread([text("/x")], rdi=(7 << 32) | 0xFFFFFFFF, rsi=AT, rdx=2, rcx=0x101)
    context.fp[160:168] = pack("<d", 1.5)
    context.fp[176:184] = pack("<d", 2.5)
    ((_, _, n, d, path, c, e, b),) = running.hit()
    numbers = [unpack("<d", pack("<Q", each))[0] for each in (d, e)]
    assert (n, path, c, b, numbers) == (-1, "/x", "BLUE", True, [1.5, 2.5])


def test_arguments_are_kept_for_the_return() -> None:
    running = Running(
        "handle:return { print((args.n, str(args.path), retval)) }"
        "area:return { print(retval) }"
        "uretprobe:m:handle { print(retval) }"
        "uretprobe:m:area { print(retval); @a = retval }",
        None,
        World(),
    )
    context = running.thread([text("/x")], rdi=3, rsi=AT, rax=(9 << 32) | 0xFFFFFFFE)
    assert running.hit() == [("Print", (3, "/x", -2))]
    context.fp[160:168] = pack("<d", 6.25)
    ((_, found),) = running.hit(1)
    assert unpack("<d", pack("<Q", found)) == (6.25,)
    ((_, found),) = running.hit(3)
    assert unpack("<d", pack("<Q", found)) == (6.25,)
    # As bpftrace has it.
    assert running.hit(2) == [("Print", (9 << 32) | 0xFFFFFFFE)]


@pytest.mark.parametrize(
    ("expression", "worth"),
    [
        ("n", -5),
        ("n + 1", -4),
        ("len", 9),
        ("strlen(str(req->path)) + len", 11),
        ("req->state", 11),
        ("str(req->path)", "/x"),
        ("count", 8),
        ("total", 77),
        ("whole.state", 11),
        ("fixed", 5),
        ("&n", AT - 20),
        ("*&n", -5),
        ("((struct req *)arg5)->state", 11),
    ],
)
def test_a_variable_of_the_program(expression: str, worth: Any) -> None:
    running = Running(f"a.c:3 {{ print({expression}) }}", None, World())
    request = pack("<i4xQ", 11, AT + 0x5000)
    memory = [
        Region(AT - 20, bytearray(pack("<i", -5)), True),
        Region(AT, bytearray(request), True),
        text("/x", AT + 0x5000),
        Region(0x7040, bytearray(pack("<i", 77)), True),
    ]
    running.thread(memory, rbp=AT, rbx=AT, rax=1, r9=AT)
    running.programs[0].symbols[:] = [0x7000]
    assert running.hit() == [("Print", worth)]


def test_a_floating_variable_in_a_register() -> None:
    running = Running('a.c:3 { printf("%f", ratio) }', None, World())
    context = running.thread()
    context.fp[176:184] = pack("<d", 0.5)
    ((_, _, found),) = running.hit()
    assert unpack("<d", pack("<Q", found)) == (0.5,)


def test_variables_in_memory_are_set() -> None:
    running = Running("a.c:3 { n = 7; n += 2; total = n; req->state = 3 }", None, World())
    memory = [
        Region(AT - 20, bytearray(8), True),
        Region(AT, bytearray(16), True),
        Region(0x7040, bytearray(8), True),
    ]
    context = running.thread(memory, rbp=AT, rbx=AT)
    running.programs[0].symbols[:] = [0x7000]
    running.hit()
    assert [context.read(at, 8)[0] for at in (AT - 20, 0x7040, AT)] == [9, 9, 3]
    program = running.programs[0].program
    assert program.alters(program.probes[0])


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("a.c:3 { count = 3 }", "this cannot be set"),
        ("a.c:3 { args = 3 }", "there is nothing called `args`"),
        ("handle:return { arg0 = 3 }", "arguments are set where the function is entered"),
        ("usdt:m:p:n { arg0 = 3 }", "arguments are set where the function is entered"),
        ("a.c:3 { print(gone) }", "`gone` is not there: optimized out"),
        ("a.c:3 { print(gone) }", "it is there from 0x10 to 0x20"),
        ("a.c:3 { print(split) }", "where `split` is cannot be computed at a hit yet"),
        ("a.c:3 { print(nobody) }", "there is nothing called `nobody`"),
        ("handle:return { print(n) }", "`n` is gone at the return"),
        ("uprobe:m:handle { print(args.x) }", "has no argument `x`"),
        ("uprobe:m:handle { print(args.x) }", "there are: n, d, path, c, e, b"),
        ("uprobe:m:taken { print(args.whole) }", "`whole` is passed in a way"),
        ("uprobe:m:taken { print(args.n) }", "where `n` is passed, behind a structure"),
        ("uprobe:m:other { print(args.n) }", "nothing is known of the arguments"),
        ("handle:return { print(args.d) }", "`d` is gone at the return"),
        ("a.c:3 { print(ratio + 1) }", "floating-point numbers are only shown so far"),
    ],
)
def test_what_is_not_there_is_refused(script: str, message: str) -> None:
    assert message in refused(script, World())
