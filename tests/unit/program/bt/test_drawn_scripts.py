"""Scripts that are drawn: each that compiles runs alike in both executors, ends, and says what can
be read back."""

from __future__ import annotations

import random
import re

from hypothesis import given, settings
from hypothesis import strategies as st

from dprobed.program.exceptions import ExCode
from dprobed.program.model import ProgramError
from tests.programs.cases import Region
from tests.unit.program.bt.running import AT, Running, text

#: {s}: statements, {e}: numbers, {t}: texts, {k}: keys, {n}: a small number.
GRAMMAR = {
    "s": [
        "$x = {e};", "@a[{e}] = {e};", "@b[{k}] = count();", "@a[{e}]++;", "print({e});",
        "if ({e}) {{ {s} }} else {{ {s} }}", "$i = 0; while ($i < 3) {{ $i++; {s} }}",
        "for ($j : 0..{n}) {{ {s} }}", 'printf("%d %s", {e}, {t});', "{{ {s} }}", "$x += {e};",
        "if ({e}) {{ return; }}", "@h = hist({e});", "delete(@a, {e});", "print(({e}, {t}));",
        "unroll(2) {{ {s} }}", "{{ let $q = {e}; print($q); }}", "{{ let $s = {t}; print($s); }}",
        "@m[{t}, {e}] = sum({e});", "{{ let $y = ({e}, {e}); print($y.1); print($y); }}",
        "@z = max({e});", "if ({t} == {t}) {{ {s} }}", "$x -= {e}; $x <<= {n};", "arg1 = {e};",
        "*(uint16*)(arg2) = {e};", "join(arg3);", 'printf("%r", buf({e}, {n}));',
        "print(ustack({n}));",
        "@t[{e}] = {t};", "@t[{e}] = {t};", "@u[{t}, {e}] = ({e}, {t});", "delete(@t, {e});",
        "print(@u[{t}, {e}]);", "@c[@t[{e}], {t}] = count();",
        "{{ let $t = ({e}, {t}); print($t.1); }}",
        "if (({e}, {t}) == @u[{t}, {e}]) {{ {s} }}", "@c[{t}, @u[{t}, {e}].1] = count();",
        "for ($j : 0..3) {{ if ($j == {n}) {{ break; }} {s} continue; }}",
    ],
    "e": [
        "1", "arg0", "$x", "@a[{e}]", "({e} + {e})", "({e} < {e})", "({e} && {e})", "!{e}",
        "({e} ? {e} : {e})", "pid", "-{e}", "$x++", "{{ $v = {e}; $v + 1 }}", "has_key(@a, {e})",
        "*(uint8*)({e})", "(int8){e}", "strlen(str({e}))", "({e} / {e})", "({e} >> {n})",
        "({e} % {e})", "({e} ^ {e})", "({e} >= {e})", "({e} == {e})", "({e} || {e})",
        "sizeof({e})", "arg2", "*(int32*)arg2", 'strcontains(str(arg2), "b")', "bswap((int64){e})",
        'strncmp(str({e}), "ab", 2)', "(({e}, {e})).1", "0xffffffffffffffff", "~{e}", "rand",
    ],
    "t": [
        "comm", '"a"', "str(arg2)", "str({e})", "str(arg2, {n})", '({e} ? "a" : str(arg2))',
        "probe", '"target"', "str(arg2, {e})", "@t[{e}]", "@u[{t}, {e}].1", "str(@t[{e}], 3)",
    ],
    "k": ["comm", '"a"', "str(arg2)", "str({e})", "str({e}, {n})"],
    "n": ["1", "2", "3", "5"],
}  # fmt: skip
_LAST = {"s": "", "e": "arg0", "t": '"a"', "k": "comm", "n": "2"}


def drawn(chance: random.Random, template: str, depth: int) -> str:
    """A template with all that is to be drawn in it."""

    def one(found: re.Match[str]) -> str:
        kind = found[1]
        if depth <= 0:
            return _LAST[kind]
        return drawn(chance, chance.choice(GRAMMAR[kind]), depth - 1)

    return re.sub(r"(?<!\{)\{([estkn])\}", one, template).replace("{{", "{").replace("}}", "}")


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 1 << 32))
def test_a_drawn_script_runs_alike_everywhere(seed: int) -> None:
    chance = random.Random(seed)
    body = " ".join(drawn(chance, "{s}", 4) for _ in range(3))
    place = chance.choice(["uprobe:m:f", "uretprobe:m:f", "usdt:m:p:n"])
    try:
        running = Running(f"{place} {{ $x = 1; {body} }}")
    except ProgramError as error:
        assert "this cannot be compiled" not in str(error)
        return
    memory = [text("abc"), Region(0x30000, bytearray(64), True)]
    first, second = chance.choice([0, 5, (1 << 64) - 1, AT]), chance.choice([0, 7, 1 << 63])
    context = running.thread(memory, rdi=first, rsi=second, rdx=AT, rcx=0x30000, rsp=0x30000)
    context.arguments = [lambda _, n=n: n for n in (5, 7, AT, 0x30000)]  # type: ignore[misc]
    for _ in range(2):
        running.hit()
        assert running.outcome is not None
        # Memory that can be read in part only ends the hit.
        exception = running.outcome.exception
        assert exception is None or exception[0] == ExCode.INVALID_ADDR
