"""Scripts read a program's own variables: arguments, locals by their blocks, statics, members."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import BuildTarget
from tests.integration.client_support import dprobe
from tests.integration.test_variables_shown import line_of


def printed(script: str, program: Path) -> list[str]:
    """What a script prints about a run of a program, which prints one line itself."""
    done = dprobe("run", "-e", script, "--", program)
    assert done.returncode == 0, done.stderr
    return [line for line in done.stderr.splitlines() if line.startswith("= ")]


@pytest.mark.parametrize("optimize", ["-O0", "-O2"])
def test_arguments_and_what_they_point_to(build_target: BuildTarget, optimize: str) -> None:
    path = build_target("variables.c", optimize)
    script = f"""uprobe:{path}:handle {{
        printf("= %d %s %d %d %d %d\\n", args.size, str(args.n->name), args.n->mode,
               args.n->change, args.n->color, args.n->at[1].y);
    }}"""
    assert printed(script, path) == ["= 1001 hello 17 -3 5 4"]


def test_locals_statics_and_globals_at_a_line(build_target: BuildTarget) -> None:
    path = build_target("variables.c", "-O0")
    script = f"""uprobe:{path}:"{line_of("variables.c", "/* behind the loop */")}" {{
        printf("= %d %d %d %ld %s\\n", local, calls, counter, total, str(n->next->name));
    }}"""
    assert printed(script, path) == ["= 3025 1 3 4052 hello"]


def test_of_two_with_one_name_the_inner_one_is_meant(build_target: BuildTarget) -> None:
    path = build_target("variables.c", "-O0")
    script = f"""uprobe:{path}:"{line_of("variables.c", "mine += n;")}" {{
        printf("= %d %d\\n", n, mine);
    }}"""
    assert printed(script, path) == [f"= {3 * n + 1} {3 * n}" for n in (3, 2, 1, 0)]


def test_what_is_not_there_is_said_with_where_it_is(build_target: BuildTarget) -> None:
    path = build_target("variables.c", "-O2")
    place = line_of("variables.c", "/* passes */")
    script = f'uprobe:{path}:"{place}" {{ printf("= %d\\n", letter); }}'
    done = dprobe("run", "-e", script, "--", path)
    if done.returncode == 2:  # as this compiler has it, else there is a value
        assert "`letter` is not there" in done.stderr and "Traceback" not in done.stderr
    unknown = dprobe("run", "-e", f'uprobe:{path}:"{place}" {{ print(nowhere); }}', "--", path)
    assert unknown.returncode == 2 and "nowhere" in unknown.stderr
    assert len(unknown.stderr.splitlines()) < 8 and "Traceback" not in unknown.stderr
