"""What man pages are written of: text comes out of roff as it was."""

from __future__ import annotations

import importlib.util
import subprocess
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parent.parent
MAN = ROOT / "docs" / "man"


@pytest.fixture(scope="module")
def man() -> ModuleType:
    spec = importlib.util.spec_from_file_location("man", ROOT / "etc" / "man.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def shown(roff: str) -> str:
    """As a terminal shows it, without its emphasis."""
    command = ["groff", "-man", "-ww", "-Tutf8", "-Kutf8", "-P-cbou", "-rLL=200n"]
    done = subprocess.run(command, input=roff, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return done.stdout


@pytest.mark.parametrize(
    "text",
    [
        r"a\b `c` ^ ~ -- don't",
        "'begins with a quote",
        ".begins with a point",
        "/run/x … µs · naïve",
        r"tab \t, line \n and \fB",
        "$(pidof nginx) --for 10s 'mal*' \"x\"",
    ],
)
def test_text_is_shown_as_it_is(man: ModuleType, text: str) -> None:
    page = "\n".join([*man.title("x", "1", "y"), ".SH A", *man.code([text])])
    assert text in [line.strip() for line in shown(page).split("\n")]


def test_a_document(man: ModuleType) -> None:
    text = (
        "# Title\nIntro with `--code` and a [link](x.md).\n\n## Part one\n"
        "- first\n  goes on\n- second\n\n    code  'here'\n\n"
        "| key | looks at |\n| --- | --- |\n| `a \\| b` | the *path* |\n"
    )
    lines = man.document(text)
    page = shown("\n".join([*man.title("x", "1", "y"), ".SH DESCRIPTION", *lines]))
    bare = [line.strip() for line in page.split("\n") if line.strip()]
    assert bare[3:-1] == [
        "DESCRIPTION", "Intro with --code and a link.", "PART ONE",
        "•   first goes on", "•   second", "code  'here'", "a | b  the path",
    ]  # fmt: skip


def test_every_option_of_every_command_is_in_its_page(man: ModuleType) -> None:
    import click
    from dprobe.main import _COMMANDS, cli

    above = click.Context(cli, info_name="dprobe")
    for name in _COMMANDS:
        command = cli.get_command(above, name)
        assert command is not None
        text = (MAN / f"dprobe-{name}.1").read_text()
        inner = list(command.commands.values()) if isinstance(command, click.Group) else []
        for each in (command, *inner):
            for option in each.params:
                if isinstance(option, click.Option) and not option.hidden:
                    assert man.escaped(option.opts[-1]) in text, (name, option.opts)
