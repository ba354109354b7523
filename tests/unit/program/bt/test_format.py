"""The formatter: it changes blanks only, and what it has formatted stays as it is."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dprobed.program import bytecode
from dprobed.program.bt.compiler import compile_script
from dprobed.program.bt.format import formatted
from dprobed.program.model import ProgramError

WRITTEN = """#!/usr/bin/env bpftrace
#define N 3
// first
struct foo{int a:3;
 char*name; /* in */
 struct {long d[4];} e;};
enum E{A,B=5};
config={max_strlen=200}
let @a=hash(10);
macro add(x,$y){$y+=x;$y}


BEGIN{printf("hi %d\\n",-1);@x=-$1*2;}
uprobe:libc:malloc,uprobe:libc:free/pid==3&&arg0/2>1/{
$f=(struct foo*)arg0;   // why
  if($f->a==-3){print($f.e.d[1]);}else if (!arg1){ print( *(uint32*)(arg0+8) ) }
else{$i=0;while($i<3){$i++;--$i;}}


for($i:0..3){ @[comm,ustack(3)]=count(); }
  let $q:uint64=arg0>3?1:2;
printf("%d %d",
arg0,
  (uint8)arg1);
  @h=hist(arg0 *  N)
}
end{clear(@)}
"""

FORMATTED = """#!/usr/bin/env bpftrace
#define N 3
// first
struct foo {
    int a : 3;
    char *name; /* in */
    struct { long d[4]; } e;
};
enum E { A, B = 5 };
config = { max_strlen = 200 }
let @a = hash(10);
macro add(x, $y) { $y += x; $y }

BEGIN { printf("hi %d\\n", -1); @x = -$1 * 2; }
uprobe:libc:malloc, uprobe:libc:free /pid == 3 && arg0 / 2 > 1/ {
    $f = (struct foo *)arg0;  // why
    if ($f->a == -3) { print($f.e.d[1]); } else if (!arg1) { print(*(uint32 *)(arg0 + 8)) }
    else { $i = 0; while ($i < 3) { $i++; --$i; } }

    for ($i : 0..3) { @[comm, ustack(3)] = count(); }
    let $q: uint64 = arg0 > 3 ? 1 : 2;
    printf("%d %d",
        arg0,
        (uint8)arg1);
    @h = hist(arg0 * N)
}
end { clear(@) }
"""


def test_a_script_is_formatted() -> None:
    assert formatted(WRITTEN, "x.bt") == FORMATTED
    assert formatted(FORMATTED, "x.bt") == FORMATTED


def test_what_is_formatted_means_the_same() -> None:
    before, after = compile_script(WRITTEN, "x.bt"), compile_script(FORMATTED, "x.bt")
    assert (before.actions, before.maps, before.strings) == (
        after.actions,
        after.maps,
        after.strings,
    )
    for one, other in zip(before.programs, after.programs, strict=True):
        assert bytecode.decode(one.code).code == bytecode.decode(other.code).code


@pytest.mark.parametrize("script", ["uprobe:m:f { $x = ; }", "uprobe:m:f { /* }", "{"])
def test_what_cannot_be_read_is_refused(script: str) -> None:
    with pytest.raises(ProgramError):
        formatted(script, "x.bt")


_STATEMENT = st.sampled_from(
    [
        "$a = 1;", "@x[comm, 1] = count();", "if (arg0 > 1) { print(1) } else { $b = -1; }",
        "// a comment\n", "/* another */", 'printf("%d /* no */ // \\n", $a ? 1 : 2);', "\n\n\n",
        "while ($i < 3) {\n $i++ }", "for ($kv : @x) { print($kv.0.1) }", "$p = (struct s *)arg0;",
        "$q = *$p->x;", "{ let $z = 3; print($z) }", "return;", "print((1, (2, 3)));",
        "$x = (uint8)-1;", "$y = $a - -1;", "unroll(3) { @y++; }", "@y -= $a * *$p;", ";", "\n",
        "$n = sizeof(struct s) + offsetof(struct s, a.b);", "$t = !$a && ~$b;",
    ]
)  # fmt: skip


@settings(max_examples=120, deadline=None)
@given(st.lists(_STATEMENT, max_size=12), st.sampled_from(["", "/pid == 1/", "/arg0 / 2/"]))
def test_formatting_changes_blanks_only_and_once(statements: list[str], predicate: str) -> None:
    text = f"uprobe:m:f {predicate} {{ {' '.join(statements)} }}"
    once = formatted(text, "x.bt")
    assert re.sub(r"\s", "", once) == re.sub(r"\s", "", text)
    assert formatted(once, "x.bt") == once
