"""Maps: what is in them after hits, in the script's own terms."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.program.bt.running import AT, Running, refused, text

HELLO = [text("hello")]

CASES: list[tuple[str, str, str, int, Any]] = [
    ("count by keys", "@[comm, arg0] = count()", "@", 3, {("target", AT): 3}),
    ("count without a key", "@ = count()", "@", 2, {(): 2}),
    ("counted up only", "@c++", "@c", 3, {(): 3}),
    ("set and read", "@c += 2; @c *= 3", "@c", 2, {(): 24}),
    ("sum", "@[1] = sum(arg1)", "@", 2, {1: 12}),
    ("min and max", "@a = min(arg1); @b = max(-(int64)arg1)", "@b", 2, {(): -6}),
    ("avg", "@a = avg(arg1)", "@a", 2, {(): [2, 12, 0]}),
    ("stats", "@a = stats(arg1)", "@a", 2, {(): [2, 12, 0, 6, 6]}),
    ("hist", "@a = hist(arg1, 1)", "@a", 2, {(): [5, 2]}),
    ("tseries", '@a = tseries(arg1, 1s, 5, "sum")', "@a", 2, {(): [5, 12, 0]}),
    ("lhist", "@a = lhist(arg1, 0, 10, 5)", "@a", 2, {(): [1, 2]}),
    ("a text of the process", '@[str(arg0), "k", 3] = count()', "@", 2, {("hello", "k", 3): 2}),
    ("a text of so many letters", "@[str(arg0, 3)] = count()", "@", 1, {"he": 1}),
    ("a stack", "@[ustack(2), comm] = count()", "@", 1, {("stack", "target"): 1}),
    ("a tuple", "@[(1, arg1)] = count(); @[1, arg1] = count()", "@", 1, {(1, 6): 2}),
    ("a tuple in a tuple", "@[1, (arg1, 2)] = count()", "@", 1, {(1, (6, 2)): 1}),
    ("a constant as a value", '@[tid] = "x"; @[tid] = "yy"', "@", 1, {101: "yy"}),
    ("a text as a value", "@[tid] = str(arg0)", "@", 2, {101: "hello"}),
    ("a cut text as a value", "@ = str(arg0, 3)", "@", 1, {(): "he"}),
    ("no text as a value", "@ = str(1)", "@", 1, {(): ""}),
    ("the name as a value", "@[1] = comm", "@", 1, {1: "target"}),
    (
        "a tuple as a value",
        '@ = (arg1, comm, str(arg0), "k", (1, true))',
        "@",
        1,
        {(): (6, "target", "hello", "k", (1, True))},
    ),
    (
        "texts of all kinds",
        '@[1] = "constant"; @[2] = comm; @[3] = str(arg0)',
        "@",
        1,
        {1: "constant", 2: "target", 3: "hello"},
    ),
    (
        "tuples with texts of all kinds",
        '@[1] = (1, "x"); @[2] = (2, str(arg0)); $t = (3, comm); @[3] = $t',
        "@",
        1,
        {1: (1, "x"), 2: (2, "hello"), 3: (3, "target")},
    ),
    ("one of two texts", '@ = arg1 == 6 ? str(arg0) : "other"', "@", 1, {(): "hello"}),
    ("the other one of two texts", '@ = arg1 == 7 ? str(arg0) : "other"', "@", 1, {(): "other"}),
    ("a value as a key", "@f = str(arg0); @[@f, comm] = count()", "@", 2, {("hello", "target"): 2}),
    ("a value as a tuple's key", "@f = (str(arg0), 1); @[@f] = count()", "@", 2, {("hello", 1): 2}),
    ("a variable's tuple as a key", "$t = (comm, 1); @[$t] = count()", "@", 2, {("target", 1): 2}),
    (
        "the name or a constant as a key",
        '@[pid == 0 ? comm : "other"] = count()',
        "@",
        2,
        {"other": 2},
    ),
    (
        "one of two texts as a key",
        '@[arg1 == 6 ? str(arg0) : "other"] = count()',
        "@",
        2,
        {"hello": 2},
    ),
    (
        "keys of values in all ways",
        '@["hello"] += 1; @[str(arg0)] += 2; @[comm] += 4; @["target"] += 8',
        "@",
        1,
        {"hello": 3, "target": 12},
    ),
    ("a name of one letter more", "@_ = count(); @ = count()", "@_", 1, {(): 1}),
    ("counted down", "@c++; @c--; --@c", "@c", 1, {(): -1}),
    ("the pointer type is kept", "@p = (uint32 *)arg0; @p++", "@p", 1, {(): AT + 4}),
]


@pytest.mark.parametrize(
    ("name", "body", "of", "hits", "wanted"), CASES, ids=[each[0] for each in CASES]
)
def test_a_map_has(name: str, body: str, of: str, hits: int, wanted: dict[Any, Any]) -> None:
    running = Running(f"uprobe:m:f {{ {body} }}")
    running.thread(HELLO, rdi=AT, rsi=6)
    for _ in range(hits):
        running.hit()
    assert running.map(of) == wanted


def test_one_map_has_keys_that_are_written_in_several_ways() -> None:
    running = Running(
        'uprobe:m:f { @["hello"] = count(); @[str(arg0)] = count(); @[comm] = count(); }'
    )
    running.thread(HELLO, rdi=AT)
    running.hit()
    (shown,) = running.bundle.maps
    assert [(part.name, part.constant) for part in shown.parts] == [
        ("_", (True,)),
        ("___1", (False,)),
        ("___2", (False,)),
    ]
    assert running.map("@") == {"hello": 1, "target": 1}


def test_what_is_only_counted_up_is_a_count_which_merges() -> None:
    kinds = {
        one.name: one.kind
        for one in Running("uprobe:m:f { @a++; @b++; print(@b + 1); @c = 1 }").bundle.maps
    }
    assert kinds == {"@a": "count", "@b": "value", "@c": "value"}


@pytest.mark.parametrize(
    ("body", "wanted"),
    [
        ("@c[tid] = arg1; print(@c[tid] + 1)", [7]),
        ("print(@c[5]); @c[5] = 1", [0]),
        ("@c[1] = 1; print(delete(@c[1])); print(delete(@c, 1))", [True, False]),
        ("@c[1, 2] = 1; print(has_key(@c, (1, 2))); print(has_key(@c, (1, 3)))", [True, False]),
        ("print(@c++); print(++@c); print(@c--); print(@c + 0)", [0, 2, 2, 1]),
        ("@a[1] = 2; @b[2] = 7; print(@b[@a[1]])", [7]),
        ('@s = "x"; print(@s == "x"); print(@s == "y")', [True, False]),
        (
            "@a[1] = 2; let $v; print(find(@a, 1, $v)); print($v); print(find(@a, 3, $v)); "
            "print($v)",
            [True, 2, False, 2],
        ),
        ("@a[1] = 2; delete(@a, 1); print(@a[1])", [0]),
        (
            "@a[1] = (arg1, comm); print(@a[1].1); print(@a[1].0 + 1); print(@a[2])",
            ["target", 7, (0, "")],
        ),
        (
            "@a[1] = comm; print(has_key(@a, 1)); print(delete(@a, 1)); print(@a[1])",
            [True, True, ""],
        ),
        (
            '@a = comm; print(@a == "target"); print(@a == "target "); print(@a != "targe")',
            [True, False, True],
        ),
        (
            '@a = comm; print(@a == comm); print(strncmp(@a, "tarzan", 3)); print(strlen(@a))',
            [True, 0, 6],
        ),
        (
            '@a = comm; print(strcontains(@a, "arg")); print(str(@a, 4)); print(str(@a))',
            [True, "tar", "target"],
        ),
        (
            '@a = comm; @b[1] = "target, and more than that"; @b[2] = comm; print(@a == @b[1]); '
            "print(@a == @b[2])",
            [False, True],
        ),
        (
            '@a = (arg1, comm, "k"); print(@a == (6, "target", "k")); '
            'print((comm, 1) == ("other", 1)); '
            'print((1, (comm, str(9))) != (1, ("target", "")))',
            [True, False, False],
        ),
        (
            "@a = 1 == 1 ? comm : str(5); let $v; print(find(@c, 1, $v)); @c[1] = (2, 3); "
            "print(find(@c, 1, $v)); print($v.1)",
            [False, True, 3],
        ),
        ('@s[1] = "x"; print(@s[2]); print(@s[2] == "x"); print(@s[2] == "")', ["", False, True]),
        ('let $s; if (arg1 == 5) { $s = "x"; } print($s)', [""]),
    ],
)
def test_values_are_read_back(body: str, wanted: list[Any]) -> None:
    running = Running(f"uprobe:m:f {{ {body} }}")
    running.thread(rsi=6)
    assert [one[1] for one in running.hit()] == wanted


def test_a_text_that_was_kept_is_compared_with_one_of_the_process() -> None:
    running = Running(
        "uprobe:m:f { @a = str(arg0) } "
        "uprobe:m:g { print((@a == str(arg0), @a == str(arg1), str(arg2) == @a, @a)) }"
    )
    texts = [text("hello"), text("hello!", AT + 0x100), text("hell", AT + 0x200)]
    running.thread(texts, rdi=AT)
    running.hit(0)
    running.thread(texts, rdi=AT, rsi=AT + 0x100, rdx=AT + 0x200)
    assert running.hit(1) == [("Print", (True, False, False, "hello"))]


def test_whole_maps_are_for_whoever_shows() -> None:
    running = Running("uprobe:m:f { @a = count(); print(@a); clear(@a); zero(@a); print(@b[1]); "
                      "@b[1] = sum(3); delete(@b, 1) }")  # fmt: skip
    running.thread()
    assert running.hit() == [
        ("PrintMap", "@a"),
        ("Clear", "@a"),
        ("Zero", "@a"),
        ("PrintEntry", "@b", 1),
        ("Delete", "@b", 1),
    ]


def test_declared_maps_have_their_size() -> None:
    running = Running("let @a = lruhash(2);\nuprobe:m:f { @a[arg0] = count() }")
    for number in range(4):
        running.thread(rdi=number)
        running.hit()
    assert running.map("@a") == {0: 1, 1: 1}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("@a = count(); @a = sum(1)", "@a is a count() already"),
        ("@a[1] = 1; @a = 2", "@a has 1 keys, not 0"),
        ("@a[1] = 1; @a[comm] = 2", "a key of @a is int64, and cannot be string as well"),
        ("@a = 1; @a = comm", "@a has int64, and cannot have string as well"),
        ("@a = buf(arg0, 4)", "@a cannot keep buffer yet"),
        ("@a = (1, ustack)", "@a cannot keep (int64, ustack) yet"),
        ("@a = (1, 2); @a = (1, 2, 3)", "@a has (int64, int64), and cannot have (int64"),
        (
            "@a = (" + ", ".join(["str(arg0)"] * 5) + ")",
            "@a has 640 words of eight bytes at each key; 512 are possible",
        ),
        ("@a = str(arg0); print(strlen(@a))", "how long a text of 1024 bytes is"),
        ('@a = "x"; $x = @a; @b = str(arg0); @b = $x', "which text this is, is known only"),
        ("@a = count(); print(@a + 1)", "@a is a count(), which is not read at hits"),
        ("print(@nothing)", "nothing is ever put into @nothing"),
        ("@a = lhist(1, 5, 5, 1)", "no steps of 1 from 5 to 5"),
        ("@a = tseries(1, 1s, 5)", "only the sum of each interval can be kept so far"),
        ('@a = tseries(1, 100ns, 5, "sum")', "an interval is a whole number of milliseconds"),
        ("@a = hist(comm)", "`hist` takes a number, not string"),
        ("@a = count(3)", "`count` takes"),
        ("@a[buf(arg0, 2)] = count()", "buffer cannot be a key"),
        ("@a[1,2,3,4,5,6,7,8,9] = count()", "a key has 8 items at most, not 9"),
        ("for ($kv : @a) { } @a[1] = 1", "a loop over a map runs where output is shown"),
        ("@a = 1; print(len(@a))", "how long a map is"),
        ("@a = count(); print(@a, -1)", "the top of `print` is 0 or more, not -1"),
        ("@a = count(); print(@a, 5, 0)", "the divisor of `print` is 1 or more, not 0"),
        ("@a = count(); print(@a, 5, -2)", "the divisor of `print` is 1 or more, not -2"),
        ("".join(f"@m{n} = count(); " for n in range(17)), "this uses 17 maps; 16 are possible"),
    ],
)
def test_what_cannot_be_is_refused(body: str, message: str) -> None:
    assert message in refused(f"uprobe:m:f {{ {body} }}")


def test_blocks_have_as_many_maps_as_a_program() -> None:
    script = "".join(f"@m{n} = 1; " for n in range(17))
    assert "the blocks use 17 maps; 16 are possible" in refused(f"begin {{ {script} }}")


def test_probes_with_many_maps_are_several_programs() -> None:
    running = Running("".join(f"uprobe:m:f{n} {{ @m{n} = count(); }} " for n in range(20)))
    assert [len(each.probes) for each in running.bundle.programs] == [16, 4]
    running.thread()
    running.hit(15, 0)
    running.hit(3, 1)
    assert (running.map("@m15"), running.map("@m19"), running.map("@m0")) == ({(): 1}, {(): 1}, {})


@pytest.mark.parametrize("name", ["@", "@x", f"@{'long' * 30}"])
def test_no_map_is_another_one_by_its_name(name: str) -> None:
    others = [f"{name}_", f"{name}__1", f"{name}___1", f"{name[:56]}__1"]
    others = [each for each in dict.fromkeys(others) if each != name]
    counted = " ".join(f"{each}[{n}] = count();" for n, each in enumerate(others))
    script = f'uprobe:m:f {{ {name}["k"] = count(); {name}[str(arg0)] = count(); {counted} }}'
    running = Running(script)
    running.thread(HELLO, rdi=AT)
    running.hit()
    assert running.map(name) == {"k": 1, "hello": 1}
    assert [running.map(each) for each in others] == [{n: 1} for n in range(len(others))]


@pytest.mark.parametrize(
    "body",
    ["@x = (uint8)255; @x++", "@x = (uint8)255; @x += 1", "@x = (uint8)255; @x = @x + 1",
     "@x = (uint8)255; ++@x"],
)  # fmt: skip
def test_a_map_is_as_wide_as_what_it_is_counted_up_to(body: str) -> None:
    running = Running(f"uprobe:m:f {{ {body} }}")
    running.thread()
    running.hit()
    assert running.map("@x") == {(): 256}


def test_what_is_counted_up_at_hits_is_a_count_though_blocks_read_it() -> None:
    script = 'uprobe:m:f { @n++ } end { @n++; if (@n - 5 < 0) { printf("%d", @n - 5); } }'
    running = Running(script)
    assert running.bundle.maps[0].kind == "count"
    running.thread()
    running.hit()
    assert running.map("@n") == {(): 1}
    running.entries["@n"] = [([], 2)]
    assert running.fire("end") == [("Printf", "%d", -3)]


def test_a_value_belongs_to_one_module() -> None:
    script = "uprobe:a:f { @t[tid] = nsecs } uprobe:b:g { print(nsecs - @t[tid]) }"
    assert "@t is read or set in a and in b" in refused(script)
    Running("uprobe:a:f { @t[tid] = count() } uprobe:b:g { @t[tid] = count() }")
