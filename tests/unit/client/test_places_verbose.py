"""``dprobe places -v``: what a user sees of functions, variables and types."""

from __future__ import annotations

import json

from click.testing import CliRunner, Result
from dprobe.commands.places import places_command

from tests.unit.binary.dwarf.test_units import built

PATH = str(built("-O0", "-gdwarf-5"))


def told(*arguments: str) -> Result:
    return CliRunner().invoke(places_command, ["-v", PATH, *arguments])


def lines(*arguments: str) -> list[str]:
    done = told(*arguments)
    assert done.exit_code == 0, done.output
    return done.output.splitlines()


def test_a_function() -> None:
    found = lines("handle")
    assert found[0].startswith(
        "int handle(node_t *n, long int size, double ratio, struct point p, char *what)  "
    )
    assert found[0].endswith("variables.c:54")
    assert [" ".join(line.split()) for line in found[2:]] == [
        "node_t *n rdi", "long int size rsi", "double ratio xmm0", "struct point p rdx",
        "char *what rcx",
    ]  # fmt: skip


def test_a_function_that_is_inlined() -> None:
    found = lines("twice")
    assert found[0].startswith("int twice(int v)")
    assert "inlined into handle, called at" in found[1] and found[1].endswith("variables.c:62")


def test_a_line() -> None:
    found = [" ".join(line.split()) for line in lines("variables.c:63")]
    assert found[0].startswith("handle+0x") and found[1] == "in handle"
    assert "long int inner [rbp-56]" in found or any(
        each.startswith("long int inner [rbp-") for each in found
    )
    assert any(each.startswith("long int total [0x") for each in found)
    assert "int of_thread [thread+0x0]" in found


def test_a_type_and_a_variable() -> None:
    assert lines("struct point") == ["struct point  8 bytes", "      0  int x", "      4  int y"]
    assert lines("enum color")[1:] == ["      0  RED", "      5  GREEN", "      6  BLUE"]
    assert lines("counter")[1].strip().startswith("int counter  [0x")


def test_json() -> None:
    (row,) = (json.loads(line) for line in lines("passes", "--json"))
    assert row["type"] == "function" and row["place"] == "passes" and not row["inlined"]
    where = {each["name"]: each["location"] for each in row["arguments"]}
    assert where["pair"] == "xmm0:8 rdi:8" and where["large"] == "[rsp+8]"
    assert where["a"] == "rcx" and where["c"] == "r9" and where["small"] == "xmm1"


def test_what_is_not_there() -> None:
    done = told("handel")
    assert done.exit_code and "no symbol handel" in str(done.exception)
    assert "handle" in str(done.exception)
    assert "-v needs a function or a place" in str(told().exception)
