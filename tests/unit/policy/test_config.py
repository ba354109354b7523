"""The configuration file: what it says of the kernel's module."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dprobed.policy import config
from dprobed.policy.errors import PolicyError
from dprobed.policy.model import Rights
from dprobed.policy.rights import Right


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("", False), ("load_kernel_module = false\n", False), ("load_kernel_module = true\n", True)],
)
def test_whether_the_kernels_module_is_loaded(tmp_path: Path, text: str, wanted: bool) -> None:
    file = tmp_path / "dprobed.toml"
    file.write_text(text)
    assert config.load(file, os.geteuid()).load_kernel_module is wanted


@pytest.mark.parametrize("value", ['"yes"', "1", "[]"])
def test_that_is_true_or_false(tmp_path: Path, value: str) -> None:
    file = tmp_path / "dprobed.toml"
    file.write_text(f"load_kernel_module = {value}\n")
    with pytest.raises(PolicyError, match="`load_kernel_module` is"):
        config.load(file, os.geteuid())


def test_who_may_have_programs_in_the_kernel(tmp_path: Path) -> None:
    file = tmp_path / "dprobed.toml"
    file.write_text('[kernel]\ngroup.0 = ["observe", "alter"]\nuser.77 = "deny"\n')
    given = config.load(file, os.geteuid()).kernel
    both = frozenset({Right.OBSERVE, Right.ALTER})
    assert given == Rights(users={77: frozenset()}, groups={0: both})
    assert given.named(5, frozenset({0, 5})) == both
    assert given.named(77, frozenset({0})) == frozenset()
    assert given.named(5, frozenset({5})) is None
    file.write_text("")
    assert config.load(file, os.geteuid()).kernel == Rights()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("self = 'all'", "self"),
        ("group.0 = ['see']", "see"),
        ("group.no_such_group = 'all'", "no_such_group"),
        ("group.0 = ['all', 'alter']", "cannot be combined"),
    ],
)
def test_what_is_wrong_with_that(tmp_path: Path, text: str, reason: str) -> None:
    file = tmp_path / "dprobed.toml"
    file.write_text(f"[kernel]\n{text}\n")
    with pytest.raises(PolicyError, match=reason):
        config.load(file, os.geteuid())


@pytest.mark.parametrize(
    ("listen", "wanted"),
    [
        ("/run/dprobed/metrics.sock", Path("/run/dprobed/metrics.sock")),
        ("127.0.0.1:9464", ("127.0.0.1", 9464)),
        ("127.3.2.1:1", ("127.3.2.1", 1)),
        ("[::1]:9464", ("::1", 9464)),
    ],
)
def test_where_metrics_are_served(tmp_path: Path, listen: str, wanted: object) -> None:
    file = tmp_path / "dprobed.toml"
    file.write_text("")
    assert config.load(file, os.geteuid()).metrics is None
    file.write_text(f'[metrics]\nlisten = "{listen}"\n')
    assert config.load(file, os.geteuid()).metrics == wanted


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('metrics = "127.0.0.1:9464"', "`metrics` is a table"),
        ("[metrics]\nport = 1", "unknown key `port`"),
        ("[metrics]\nlisten = 9464", "`listen` is text"),
        ('[metrics]\nlisten = "0.0.0.0:9464"', "on this machine alone"),
        ('[metrics]\nlisten = "[::]:9464"', "on this machine alone"),
        ('[metrics]\nlisten = "192.0.2.1:9464"', "on this machine alone"),
        ('[metrics]\nlisten = "localhost:9464"', "a path from / on, or an address"),
        ('[metrics]\nlisten = "metrics.sock"', "a path from / on, or an address"),
        ('[metrics]\nlisten = ""', "a path from / on, or an address"),
        ('[metrics]\nlisten = "127.0.0.1"', "a path from / on, or an address"),
        ('[metrics]\nlisten = "127.0.0.1:"', "`` is no port"),
        ('[metrics]\nlisten = "127.0.0.1:0"', "`0` is no port"),
        ('[metrics]\nlisten = "127.0.0.1:65536"', "`65536` is no port"),
        ('[metrics]\nlisten = "127.0.0.1:9464x"', "`9464x` is no port"),
        (f'[metrics]\nlisten = "/{"x" * 107}"', "at most 107 bytes"),
    ],
)
def test_metrics_go_nowhere_else(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "dprobed.toml"
    file.write_text(f"{text}\n")
    with pytest.raises(PolicyError, match=message):
        config.load(file, os.geteuid())


def test_what_snapshots_show_at_most(tmp_path: Path) -> None:
    file = tmp_path / "dprobed.toml"
    file.write_text('[snapshots]\ndepth = 2\nframes = 100000\nredact = ["*card*", "pin"]\n')
    found = config.load(file, os.geteuid()).snapshots
    assert (found.depth, found.width, found.frames) == (2, 1000, 255)
    assert found.redact == ("*card*", "pin")
    file.write_text("[snapshots]\ndepth = 0\ndeep = 1\nredact = 3\n")
    with pytest.raises(PolicyError) as raised:
        config.load(file, os.geteuid())
    said = str(raised.value)
    assert "unknown key `deep`" in said and "`redact` is text or a list" in said
    assert "depth" in said
