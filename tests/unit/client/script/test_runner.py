"""A script at work without any process: its blocks, its records, and what is printed of them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from dprobe.lib.script.decode import Decoder, moment
from dprobe.lib.script.runner import Runner
from dprobe.lib.script.values import Address, Buffer, NamedNumber, Shown, StackText
from dprobe.view.script.output import ScriptOutput

from dprobed.program.bt import bundle as bt
from dprobed.program.bt.compiler import Options, compile_script
from dprobed.program.types import IntegerType, Member, StructType


class NoNames:
    """Names nothing."""

    def learn(self, pid: int, comm: str) -> None:
        """Nothing is looked at."""

    def symbol(self, pid: int, address: int, comm: str, *, offset: bool) -> str:
        """The number."""
        return f"{address:#x}"

    def frames(self, stack: dict[str, Any], pid: int, mode: str) -> tuple[str, ...]:
        """One line for each frame."""
        return tuple(f"f{frame['offset']}" for frame in stack["ustack"])


def run(script: str, capfd: pytest.CaptureFixture[str], form: str = "text") -> tuple[str, str]:
    """What a script that has only blocks prints; and what is said of it."""
    said = _run(script, form)
    return capfd.readouterr().out, "\n".join(said)


def _run(script: str, form: str) -> list[str]:
    said: list[str] = []
    bundle = compile_script(script, "stdin", Options(unsafe=True))
    output = ScriptOutput(form, None, 1, bare=True)
    runner = Runner(bundle, output, NoNames(), said.append)
    runner.begin()
    output.attached(runner.probes)
    runner.start()
    runner.drain()
    runner.end()
    output.close()
    return said


@pytest.mark.parametrize(
    ("script", "wanted"),
    [
        ("BEGIN { @a[1] = 10; @a[2] = 20; for ($kv : @a) { print($kv.1); } }",
         "10\n20\n@a[1]: 10\n@a[2]: 20\n"),
        ('BEGIN { @c["x"] = count(); @c["x"] = count(); for ($kv : @c) { '
         'printf("%s=%d\\n", $kv.0, (int64)$kv.1); } clear(@c); }', "x=2\n"),
        ("BEGIN { @a[1] = 1; print(len(@a)); if (has_key(@a, 1)) { print(7); } }",
         "1\n7\n@a[1]: 1\n"),
        ("BEGIN { @ = count(); @ = count(); if (@ > 1) { print(5); } }", "5\n@: 2\n"),
        ('BEGIN { print("a"); exit(); print("b"); } END { print("c"); }', "a\nc\n"),
        ("BEGIN { @x = 1; zero(@x); @y = 5; delete(@y); }", "@x: 0\n"),
        ("BEGIN { @x = 1; print(@x); @x = 2; clear(@x); @x = 3; }", "@x: 1\n@x: 3\n"),
        ("BEGIN { @c[1] = count(); print(@c[1]); @c[1] = count(); zero(@c); @c[1] = count(); }",
         "@c[1]: 1\n@c[1]: 1\n"),
        ("BEGIN { @a[1] = 1; @a[2] = 2; for ($kv : @a) { print(@a[$kv.0]); @a[3] = $kv.1; "
         "print(@a, 1); } clear(@a); }", "1\n@a[2]: 2\n2\n@a[3]: 2\n"),
        ('BEGIN { @c["a", 1] = count(); @c["b", 2] = count(); for ($kv : @c) { print(@c[$kv.0]); '
         "print(@c[$kv.0] + 1); print(has_key(@c, $kv.0)); @d[$kv.0] = 1; } clear(@c); }",
         "@c[a, 1]: 1\n2\ntrue\n@c[b, 2]: 1\n2\ntrue\n@d[a, 1]: 1\n@d[b, 2]: 1\n"),
        ('BEGIN { @c["a", 1] = count(); @c["b", 2] = count(); delete(@c, ("a", 1)); print(@c); '
         "delete(@c[\"b\", 2]); @h[comm] = hist(5); delete(@h, comm); delete(@h, comm); }",
         "@c[b, 2]: 1\n"),
        ("BEGIN { @a[1] = 1; print(len(@a)); } END { print(7); clear(@a); print(8); }",
         "1\n7\n8\n"),
        ("BEGIN { $x = 5; print($x); } END { let $y; if (@n == 5) { $y = 1; } print($y); }",
         "5\n0\n"),
        ("BEGIN { $t = (1, (2, 3)); @x[$t] = 1; @x[1, (2, 3)]++; print(@x[$t]); }",
         "2\n@x[1, (2, 3)]: 2\n"),
        ("BEGIN { @x = 1; $y = 1 + { clear(@x); 2 }; print($y); }", "3\n"),
    ],
)  # fmt: skip
def test_what_blocks_print(script: str, wanted: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(script, capfd) == (wanted, "")


@pytest.mark.parametrize(
    ("body", "wanted"),
    [
        (r'printf("\xff%c\0%s", 0xfe, "\x80")', b"\xff\xfe\0\x80"),
        (r'printf("%c%c", 0xc3, 0xa9)', "é".encode()),
        (r'print("a\xff")', b"a\xff\n"),
        (r'@["\xff"] = "\xfe"', b"@[\xff]: \xfe\n"),
        (r'time("\xff é % %%")', b"\xff \xc3\xa9 % %"),
        (r'system("printf \"\xff\"")', b"\xff"),
        (r'join(0, "\xff")', b"\n"),
    ],
)
def test_bytes_come_out_as_they_are(
    body: str, wanted: bytes, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    _run(f"begin {{ {body} }}", "text")
    assert capfdbinary.readouterr() == (wanted, b"")


def test_bytes_in_json_are_escaped(capfd: pytest.CaptureFixture[str]) -> None:
    out, _ = run(r'begin { printf("\xff%c", 0xfe); @["\xff"] = 1 }', capfd, "json")
    first, second = map(json.loads, out.splitlines())
    assert first == {"type": "printf", "data": r"\xff\xfe"}
    assert second == {"type": "map", "data": {"@": {r"\xff": 1}}}


@pytest.mark.parametrize(
    ("body", "wanted"),
    [
        ('cat("/etc/%c", 0)', r"ERROR: failed to open file '/etc/\0': there is a NUL in it"),
        ('system("echo %c", 0)', r"ERROR: failed to run 'echo \0': there is a NUL in it"),
        (
            f'system(": {"%4096s" * 50}", {", ".join(["1 == 1"] * 50)})',
            f"ERROR: failed to run ': {' ' * 198}': Argument list too long",
        ),
    ],
)
def test_what_the_system_cannot_be_given_is_told_of(
    body: str, wanted: str, capfd: pytest.CaptureFixture[str]
) -> None:
    _run(f"begin {{ {body}; print(1) }}", "text")
    assert capfd.readouterr() == ("1\n", f"{wanted}\n")


def test_what_is_no_number_is_none_in_json(capfd: pytest.CaptureFixture[str]) -> None:
    output = ScriptOutput("json", None, 1, bare=True)
    for each in (float("nan"), float("-inf"), 0.5):
        output.value(each)
    output.close()
    data = [
        json.loads(line, parse_constant=pytest.fail)["data"]
        for line in capfd.readouterr().out.splitlines()
    ]
    assert data == ["nan", "-inf", 0.5]


def test_a_block_that_does_not_end_is_ended_and_told_of(
    capfd: pytest.CaptureFixture[str],
) -> None:
    out, said = run("BEGIN { print(1); $i = 1; while ($i > 0) { $i++; } print(2); }", capfd)
    assert out == "1\n"
    assert said == "BEGIN: it did more than a block may do, and was ended"


def test_a_loop_over_what_another_loop_has(capfd: pytest.CaptureFixture[str]) -> None:
    script = (
        'BEGIN { @a["p"] = 1; @b["q"] = 2; for ($x : @a) { for ($y : @b) '
        '{ printf("%s%s\\n", $x.0, $y.0); } } clear(@a); clear(@b); }'
    )
    assert run(script, capfd) == ("pq\n", "")


def decoded(arguments: tuple[bt.Value, ...], *log: dict[str, Any]) -> list[Shown]:
    """The arguments of one action, of a record's log."""
    strings = ("constant",)
    point = StructType("struct", "point", 8, (Member("x", 1, 0), Member("y", 1, 4)))
    bundle = bt.Bundle(
        actions=(bt.Printf("", arguments),),
        strings=strings,
        types=(point, IntegerType("int", 4, True)),
    )
    acts = list(Decoder(bundle, NoNames()).acts([{"words": [0]}, *log], 1, "comm"))
    return list(acts[0].values) if acts else []


@pytest.mark.parametrize(
    ("value", "log", "wanted"),
    [
        (bt.Integer(4), [{"words": [0xFFFFFFFF]}], -1),
        (bt.Integer(8, False), [{"words": [1 << 63]}], 1 << 63),
        (bt.Boolean(), [{"words": [1]}], True),
        (bt.Pointer(), [{"words": [16]}], Address(16)),
        (bt.Float(), [{"words": [0x3FF8000000000000]}], 1.5),
        (bt.Enum("e", (("ONE", 1),)), [{"words": [1]}], NamedNumber(1, "ONE")),
        (bt.Enum("e", (("ONE", 1),)), [{"words": [2]}], 2),
        (bt.String(), [{"string": "text"}], "text"),
        (bt.String(), [{"words": [0]}], "constant"),
        (bt.String(), [{"string": "cut"}, {"fault": 5}], "cut"),
        (bt.String(), [{"string": "\\xff", "bytes": "ff"}], "\udcff"),
        (bt.ShortText(), [{"words": [0x6D6D6F63, 0]}], "comm"),
        (bt.Memory(), [{"memory": "00ff", "address": 1}], Buffer(b"\x00\xff")),
        (bt.Memory("inet"), [{"memory": "7f000001", "address": 1}], "127.0.0.1"),
        (bt.Memory("mac"), [{"memory": "0504030201ff", "address": 1}], "05:04:03:02:01:FF"),
        (bt.Memory(), [{"words": [0]}], Buffer(b"")),
        (bt.Struct(0), [{"memory": "fdffffff07000000", "address": 1}], {"x": -3, "y": 7}),
        (bt.Struct(0), [{"words": [0]}], None),
        (bt.Stack(), [{"ustack": [{"offset": 1}, {"offset": 2}]}], StackText(("f1", "f2"))),
        (bt.Tuple((bt.Integer(), bt.String())), [{"words": [5]}, {"string": "a"}], (5, "a")),
        (bt.Strings(), [{"string": "a"}, {"string": "b"}, {"words": [0]}], ["a", "b"]),
        (bt.ErrorText(), [{"words": [28]}], "No space left on device"),
        (bt.ErrorText(), [{"words": [-28 & 0xFFFFFFFF]}], "No space left on device"),
        (bt.ErrorText(), [{"words": [0x80000000]}], "Unknown error 2147483648"),
        (bt.SignalName(), [{"words": [10]}], "SIGUSR1"),
        (bt.UserName(), [{"words": [0]}], "root"),
        (bt.InternetAddress(), [{"words": [0x0100007F]}], "127.0.0.1"),
    ],
)
def test_what_the_tokens_of_an_argument_are(
    value: bt.Value, log: list[dict[str, Any]], wanted: Shown
) -> None:
    assert decoded((value,), *log) == [wanted]


def test_what_is_cut_off_is_not_shown() -> None:
    assert decoded((bt.Integer(), bt.String()), {"words": [5]}) == []


def test_times_have_microseconds(monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    monkeypatch.setattr(time, "localtime", time.gmtime)
    assert moment("%H:%M:%S.%f %%f", 3_600_000_123_000) == "01:00:00.000123 %f"


def test_records_that_were_lost_are_told_of(capfd: pytest.CaptureFixture[str]) -> None:
    for form, wanted in (
        ("text", "Lost 5 events\n"),
        ("json", '{"type": "lost_events", "data": {"events": 5}}\n'),
    ):
        output = ScriptOutput(form, None, 1, bare=True)
        runner = Runner(compile_script("END { }", "stdin"), output, NoNames(), lambda _: None)
        output.attached(1)
        runner.end(5)
        output.close()
        assert capfd.readouterr().out == wanted


def test_a_failing_hit_is_told_of_once(capfd: pytest.CaptureFixture[str]) -> None:
    said: list[str] = []
    output = ScriptOutput("text", None, 1, bare=True)
    bundle = bt.Bundle(actions=(bt.Print(bt.Integer()),))
    runner = Runner(bundle, output, NoNames(), said.append)
    record = {
        "type": "record", "program": "script", "place": "f+0x0", "pid": 1, "tid": 1,
        "comm": "x", "log": [{"words": [0, 7]}], "exit": "exception",
        "exception": {"code": 1, "name": "INVALID_ADDR", "parm1": 0, "parm2": 0},
    }  # fmt: skip
    output.attached(1)
    for _ in range(2):
        runner.record(json.dumps(record).encode())
    runner.drain()
    output.close()
    assert capfd.readouterr().out == "7\n7\n"
    assert len(said) == 1
    assert "INVALID_ADDR" in said[0]


def test_output_that_nobody_reads_ends_it() -> None:
    output = ScriptOutput("text", "/dev/full", 1, bare=True)
    output.attached(1)
    output.text("printf", "x")
    output.flush()
    output.close()
    assert (output.broken, output.status) == (True, 1)
