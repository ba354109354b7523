"""What is shown of a real program's variables: containers, strings, enums, classes."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from dprobed.binary.file import Binary
from dprobed.binary.variables.information import DebugInformation
from dprobed.program.showing.nodes import ShownPointer, json_of_shown, text_of_shown
from dprobed.program.showing.values import Viewer
from dprobed.program.showing.variables import shown_variable
from dprobed.program.showing.viewing import ShowLimits
from tests.conftest import TARGETS, BuildTarget
from tests.integration.variables_support import shown_at, stopped

LIMITS = ShowLimits()


def line_of(source: str, mark: str) -> str:
    """The place of the line that has this comment."""
    lines = (TARGETS / source).read_text().splitlines()
    return f"{source}:{next(n for n, line in enumerate(lines, 1) if line.endswith(mark))}"


def texts(path: Path, folder: Path, place: str, limits: ShowLimits = LIMITS) -> dict[str, str]:
    found = shown_at(path, folder / "stops", place, limits)
    return {name: text_of_shown(shown) for name, shown in found.items()}


def test_values_of_c(build_target: BuildTarget, tmp_path: Path) -> None:
    path = build_target("variables.c", "-O0")
    place = line_of("variables.c", "/* leaves depth */")
    found = texts(path, tmp_path, place, ShowLimits(depth=1))
    node = found["of"].partition(" ")[2]
    assert ', .name = "hello", .flags = 5, .mode = 17, .change = -3, .color = GREEN,' in node
    assert ".as = { .number = 4609434218613702656, .real = 1.5 }" not in node  # deeper
    assert "{ .inner = 77 }" in node and node.startswith("{ .next = 0x")
    assert found["level"] == "LOW" and found["yes"] == "true" and found["half"] == "0.5"
    assert found["precise"] == "1.5" and found["ratios"] == "[0.5, 1.5, -2.25]"
    assert found["title"].endswith(' "a title"') and found["n"] == "0"


def test_values_of_the_standard_library(build_target: BuildTarget, tmp_path: Path) -> None:
    path = build_target("variables_cpp.cc", "-O0")
    shown = shown_at(
        path, tmp_path / "stops", line_of("variables_cpp.cc", "// all of them"), LIMITS
    )
    found = {name: text_of_shown(each) for name, each in shown.items()}
    assert found["numbers"] == "[1, 2, 3, 5]" and found["empty"] == "[]"
    assert found["ages"] == '{"ann": 30, "bob": 40}' and found["table"] == '{7: "seven"}'
    assert found["small"] == '"small"'
    assert found["large"] == '"a string that is longer than fifteen characters"'
    assert found["words"] == f'["small", {found["large"]}, ""]'
    assert found["bits"] == "[true, false, true]" and found["some"] == "[1, 2, 3]"
    assert found["three"] == "[1, 2, 3]"
    assert (
        found["owned"].endswith(" 42")
        and found["two"] == "{ .first = 1, .second = " + (found["two"].partition(".second = ")[2])
    )
    assert found["two"].endswith(' "two" }')
    shared = shown["shared"]
    assert isinstance(shared, ShownPointer) and shared.name == "used by 2, weakly by 1"
    assert json_of_shown(shared)["value"] == {
        "shapes::Base": {"id": 2},
        "shapes::Named": {"name": "circle"},
        "radius_": 4.0,
        "kind_": "square",
    }


def test_limits_hold(build_target: BuildTarget, tmp_path: Path) -> None:
    path = build_target("variables_cpp.cc", "-O0")
    place = line_of("variables_cpp.cc", "// all of them")
    found = texts(path, tmp_path, place, ShowLimits(depth=0, width=2, string=4))
    assert found["numbers"] == "[1, 2, ... 2 more]"
    assert found["small"] == '"smal"...' and found["some"] == "[1, 2, ... 1 more]"
    assert found["owned"].startswith("0x") and " " not in found["owned"]


def test_virtual_bases(build_target: BuildTarget, tmp_path: Path) -> None:
    path = build_target("variables_cpp.cc", "-O0")
    found = texts(path, tmp_path, line_of("variables_cpp.cc", "// caught"))
    assert found["both"] == (
        "{ .shapes::Left = { .shapes::Base = { .id = 1 }, .left = 10 }, "
        ".shapes::Right = { .shapes::Base = { .id = 1 }, .right = 20 }, .both = 30 }"
    )
    assert found["real"] == "{ .value = 2.5, .at = NULL }"


@pytest.mark.parametrize("optimize", ["-O0", "-O2"])
def test_arguments_at_the_entry(build_target: BuildTarget, tmp_path: Path, optimize: str) -> None:
    """Where the ABI has them, though code that is not optimized says where they will be."""
    path = build_target("variables.c", optimize)
    known = DebugInformation(Binary(os.open(path, os.O_RDONLY), str(path)))
    functions = {name: known.functions_named(name) for name in ("handle", "passes")}
    places = {found.functions[0].places[0].address: found for found in functions.values()}
    found: dict[str, str] = {}
    for stop in stopped(path, tmp_path / "stops", list(places)):
        told = places[stop.told["pc"]]
        for each in told.functions[0].places[0].parameters:
            viewer = Viewer(told.types, stop.read, LIMITS)
            shown = shown_variable(viewer, each.type, each.location, stop.thread)
            found[each.name] = text_of_shown(shown)
    assert found["size"] == "1001" and found["ratio"] == "2.5"
    assert found["p"] == "{ .x = 10, .y = -20 }" and str(path) in found["what"]
    assert found["pair"] == "{ .first = 2.5, .second = 41 }"
    assert found["large"] == "{ .words = [1, 2, 3, 4, 5] }"
    assert found["letter"] == "120" and found["number"] == "-5"
    assert [found[name] for name in "abc"] == ["1", "2", "3"] and found["small"] == "1.25"


def test_arguments_that_are_passed_by_address(build_target: BuildTarget, tmp_path: Path) -> None:
    path = build_target("variables_cpp.cc", "-O0")
    known = DebugInformation(Binary(os.open(path, os.O_RDONLY), str(path)))
    told = known.functions_named("by_value")
    (place,) = told.functions[0].places
    (stop,) = stopped(path, tmp_path / "stops", [place.address])
    found = {
        each.name: text_of_shown(
            shown_variable(Viewer(told.types, stop.read), each.type, each.location, stop.thread)
        )
        for each in place.parameters
    }
    assert found == {"copied": "{ .value = 3 }", "text": f'"{path}"', "reference": "1"}


@pytest.mark.slow
def test_values_of_rust(tmp_path: Path) -> None:
    compiler = shutil.which("rustc")
    if compiler is None:
        pytest.skip("needs rustc")
    path = tmp_path / "rust"
    environment = dict(os.environ, TMPDIR=str(tmp_path))
    source = TARGETS / "variables_rust.rs"
    subprocess.run([compiler, "-g", "-o", path, source], check=True, env=environment)
    found = texts(path, tmp_path, line_of("variables_rust.rs", "// all of them"))
    assert found["shapes"] == ('[Unit, Circle(2.5), Rect { .w = 3, .h = 4 }, Name("hello")]')
    assert found["v"] == "[1, 2, 3, 4, 5]" and found["letter"] == "'é'"
    assert found["tuple"] == "(1, -2, true)" and found["label"] == '"a label"'
    assert found["none"] == "None" and found["some"].startswith("Some(0x")
    assert found["level"] == "High"
