"""C declarations of a script, and members, elements and pointers by them."""

from __future__ import annotations

from struct import pack
from typing import Any

import pytest

from tests.programs.cases import Region
from tests.unit.program.bt.running import AT, Running, refused, said, text

DECLARED = """
struct in { short s; char c[4]; };
typedef unsigned int u32_of_mine;
struct foo {
    int a : 3; unsigned b : 7;
    const char *name;
    struct in i;
    union { u32_of_mine u; char bytes[4]; };
    long arr[3];
    struct foo *next;
};
enum E { A, B = 5, C };
"""


def foo(following: int = 0) -> bytearray:
    """As a C compiler lays it out."""
    return bytearray(
        pack("<I4xQh4s2xI4x3qQ", 5 | 100 << 3, AT + 0x1000, -2, b"abc\0", 0x01020384, 7, -8, 9,
             following)
    )  # fmt: skip


MEMORY = [
    Region(AT, foo(AT + 0x2000), True),
    text("nm", AT + 0x1000),
    Region(AT + 0x2000, foo(), True),
]

CASES: list[tuple[str, Any]] = [
    ("$f->a", -3),
    ("$f.b", 100),
    ("str($f->name)", "nm"),
    ("$f->i.s", -2),
    ("$f->i.c[1]", 98),
    ("str($f->i.c)", "abc"),
    ("$f->u", 0x01020384),
    ("$f->bytes[0]", -124),
    ("$f->arr[1]", -8),
    ("$f->arr[arg1]", 9),
    ("$f->next->arr[0]", 7),
    ("$f->next->next", 0),
    ("$f->next->next->u", 0),
    ("$f.next == arg2", True),
    ("(*$f).u", 0x01020384),
    ("((struct foo *)arg0)[0].u", 0x01020384),
    ("&$f->i.s", AT + 16),
    ("*&$f->i.s", -2),
    ("$f + 1", AT + 64),
    ("$f->next - $f", 128),
    ("sizeof(struct foo)", 64),
    ("sizeof($f->i)", 6),
    ("offsetof(struct foo, i.c)", 18),
    ("offsetof($f, u)", 24),
    ("*(uint32 *)(arg0 + 24)", 0x01020384),
    ("*(int8 *)(arg0 + 24)", -124),
    ("((uint16 *)arg0)[12]", 0x0384),
    ("*(uint64 *)5", 0),
    ("(enum E)5", "B"),
    ("B", "B"),
    ("B + 1", 6),
    ("arg5 == A", True),
    ("(uint64)$f", AT),
    ("$f == 0", False),
    ("!$f", False),
]


@pytest.mark.parametrize(("expression", "worth"), CASES, ids=[each for each, _ in CASES])
def test_a_member(expression: str, worth: Any) -> None:
    running = Running(f"{DECLARED}uprobe:m:f {{ $f = (struct foo *)arg0; print({expression}) }}")
    running.thread(MEMORY, rdi=AT, rsi=2, rdx=AT + 0x2000)
    assert running.hit() == [("Print", worth)]


def test_a_whole_struct_is_logged_as_memory_with_its_type() -> None:
    running = Running(f"{DECLARED}uprobe:m:f {{ print(*(struct in *)(arg0 + 16)) }}")
    running.thread(MEMORY, rdi=AT)
    ((_, found),) = running.hit()
    assert found == {"memory": "fefe61626300".replace("fefe", "feff"), "address": AT + 16}
    (action,) = running.bundle.actions
    index = action.argument.of  # type: ignore[union-attr]
    assert running.bundle.types[index].name == "in"  # type: ignore[union-attr]


def test_packed_and_wide_layouts() -> None:
    script = """
    struct p { char a; long b; } __attribute__((packed));
    struct w { char a; double d; char t[3]; long double l; void (*call)(int); };
    struct bits { unsigned a : 30; unsigned b : 4; unsigned long c : 33; };
    uprobe:m:f { print((sizeof(struct p), offsetof(struct p, b), sizeof(struct w),
                        offsetof(struct w, l), sizeof(struct bits))) }
    """
    assert said(script) == [("Print", (9, 1, 64, 32, 16))]


def test_altering() -> None:
    running = Running(
        DECLARED + "uprobe:m:f { arg0 = 7; arg1 += 2; *(uint32 *)(arg2 + 8) = 9; "
        '((struct foo *)arg2)->i.s = 3; reg("ax") = 4; }'
    )
    memory = [Region(AT, foo(), True)]
    context = running.thread(memory, rdi=1, rsi=5, rdx=AT)
    running.hit()
    from dprobed.program.registers import USER_REGS

    found = [context.regs[USER_REGS.index(name)] for name in ("rdi", "rsi", "rax")]
    assert found == [7, 7, 4]
    assert context.read(AT + 8, 4) == (9).to_bytes(4, "little")
    assert context.read(AT + 16, 2) == (3).to_bytes(2, "little")
    program = running.programs[0].program
    assert program.alters(program.probes[0])


def test_a_function_is_skipped() -> None:
    running = Running("uprobe:m:f { skip(-1); print(1) }")
    stack = Region(0x7000, bytearray((0x1234).to_bytes(8, "little")), True)
    context = running.thread([stack], rsp=0x7000)
    assert running.hit() == [("Print", 1)]
    from dprobed.program.registers import USER_REGS

    found = [context.regs[USER_REGS.index(name)] for name in ("rax", "rsp", "rip")]
    assert found == [(1 << 64) - 1, 0x7008, 0x1234]


@pytest.mark.parametrize(
    ("body", "exit_"),
    [
        ("dump()", 2),
        ("debugger()", 1),
        ('exit_to("mine")', 9),
        ("rem()", None),
        ("dump(once)", None),
    ],
)
def test_a_hit_is_handed_over(body: str, exit_: int | None) -> None:
    running = Running(f"uprobe:m:f {{ print(1); {body}; print(2) }}")
    running.thread()
    assert running.hit() == [("Print", 1)]
    assert running.outcome is not None
    if exit_ is not None:
        assert running.outcome.exit == exit_
    else:
        assert running.outcome.exit != 0


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("struct a { nobody x; }; uprobe:m:f { }", "there is no type `nobody`"),
        ("struct a { int x : 40; }; uprobe:m:f { }", "a bit field of 40 bits"),
        ("struct a { int x; }; uprobe:m:f { print(((struct a *)arg0)->y) }",
         "struct a has no member `y`"),
        ("struct a { int x; }; uprobe:m:f { print(((struct a *)arg0)->xx) }", "did you mean `x`?"),
        ("uprobe:m:f { print(((struct a *)arg0)->x) }", "void * has no members"),
        ("struct a { int x : 3; }; uprobe:m:f { ((struct a *)arg0)->x = 3 }", "a bit field"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused(script: str, message: str) -> None:
    assert message in refused(script)
