"""Names of executables that are links: what a policy or a selection means by them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dprobed.daemon.deploy.selection import SelectionError, Selector
from dprobed.policy.errors import PolicyError
from dprobed.policy.glob import GlobError, linked, refuse_vain
from dprobed.policy.links import real
from dprobed.policy.match import ProcessFacts
from dprobed.policy.parse import parse
from dprobed.proc import processes
from dprobed.wire.messages import Selection
from tests.unit.policy.test_match import process

ROOT = Path(__file__).parents[3]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """``bin/tool`` → ``lib/[v]/tool-2``, ``sbin`` → ``bin``."""
    real_folder = tmp_path / "lib" / "[v]"
    real_folder.mkdir(parents=True)
    shutil.copy("/bin/true", real_folder / "tool-2")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "tool").symlink_to(real_folder / "tool-2")
    (tmp_path / "bin" / "plain").write_text("#!/bin/sh\n")
    (tmp_path / "bin" / "plain").chmod(0o755)
    (tmp_path / "sbin").symlink_to("bin")
    return tmp_path


@pytest.mark.parametrize(
    ("pattern", "path"),
    [
        ("tool", "lib/[v]/tool-2"),
        ("{tool,other}", "lib/[v]/tool-2"),
        ("@/bin/tool", "lib/[v]/tool-2"),
        ("@/sbin/tool", "lib/[v]/tool-2"),
        ("@/sbin/*", "bin/plain"),
        ("@/sbin/pl?in", "bin/plain"),
        ("@/{sbin,x}/plain", "bin/plain"),
        ("plain", "bin/plain"),
    ],
)
def test_what_a_name_leads_to(
    folder: Path, monkeypatch: pytest.MonkeyPatch, pattern: str, path: str
) -> None:
    monkeypatch.setenv("PATH", f"{folder}/bin")
    selector = Selector(Selection(exe=pattern.replace("@", str(folder))))
    assert selector.may_select([f"{folder}/{path}"])
    assert not selector.may_select([f"{folder}/lib/v/tool-2"])
    assert not selector.may_select(["/usr/bin/cat"])


@pytest.mark.parametrize("pattern", ["t*", "**", "/**", "@/bin/to*", "@/bin/plain", "[t]ool", "no"])
def test_what_leads_nowhere_else(
    folder: Path, monkeypatch: pytest.MonkeyPatch, pattern: str
) -> None:
    monkeypatch.setenv("PATH", f"{folder}/bin")
    assert linked(pattern.replace("@", str(folder)), real) == {}


@pytest.mark.parametrize("pattern", ["./tool", "bin/tool", "{/a,bin/b}", "?bin/tool"])
def test_a_path_that_can_never_match_is_refused(pattern: str) -> None:
    with pytest.raises(GlobError, match="never matches: a path begins with a slash"):
        refuse_vain(pattern)


@pytest.mark.skipif(os.geteuid() != 0, reason="gives files away")
def test_no_link_of_anybody_elses_widens_a_policy(tmp_path: Path) -> None:
    """Its user could have a policy for the user's tool mean root's shell."""
    (tmp_path / "tool").symlink_to("/bin/sh")
    os.lchown(tmp_path / "tool", 65534, 65534)
    path = tmp_path / "p.toml"
    path.write_text(f'[[policy]]\nname = "p"\nmatch.exe = "{tmp_path}/tool"\n')
    (policy,) = parse([path], trust=0)
    shell = ProcessFacts(process(exe=os.path.realpath("/bin/sh")))
    assert not policy.match.holds(shell)
    os.lchown(tmp_path / "tool", 0, 0)
    (policy,) = parse([path], trust=0)
    assert policy.match.holds(shell)
    (tested,) = policy.match.explain(shell)
    assert str(tested).endswith(f"fits {tmp_path}/tool → {os.path.realpath('/bin/sh')}")


def shipped() -> dict[str, tuple[str, ...]]:
    """The executables that the shipped policies name, and the README's."""
    found = {}
    for path in sorted((ROOT / "etc" / "policies").glob("*.toml")):
        for policy in parse([path]):
            for condition in policy.match.conditions:
                if condition.key in ("exe", "parent"):
                    found[f"{policy.name} {condition.key}"] = condition.written
    return found


def test_the_shipped_policies_can_match(tmp_path: Path) -> None:
    """Each executable that they name is there and is what a process of it shows; redis-server is
    a link on Debian 12."""
    named = [name for names in shipped().values() for name in names]
    assert "redis-server" in {name.partition(" ")[0] for name in named}
    for name in named:
        asked, _, leads_to = name.partition(" → ")
        path = leads_to or real(asked)
        if not path:  # not installed here (systemd), or with a wildcard
            continue
        assert Path(path).is_file()
        assert not Path(path).is_symlink()
        assert Path(path).read_bytes()[:4] == b"\x7fELF", f"{asked} is a script"
    if shutil.which("redis-server"):
        server = subprocess.Popen(
            ["redis-server", "--port", "0", "--unixsocket", tmp_path / "s", "--dir", tmp_path],
            stdout=subprocess.PIPE,
        )
        try:
            assert server.stdout is not None
            assert server.stdout.readline()
            found = processes.read(server.pid)
            assert found is not None
            (policy,) = parse([ROOT / "etc" / "policies" / "30-large-allocations.toml"])
            exe = next(each for each in policy.match.conditions if each.key == "exe")
            assert exe.test(ProcessFacts(found)) == (
                True,
                os.path.realpath("/usr/bin/redis-server"),
            )
        finally:
            server.kill()
            server.wait()
            if server.stdout is not None:
                server.stdout.close()


def test_the_policy_in_the_readme(tmp_path: Path) -> None:
    """With what it says to do before, in a folder instead of /etc."""
    text = (ROOT / "README.md").read_text()
    command = re.search(r"\(here after `(.*)`\)", text)
    policy = re.search(r"\n\n((?: {4}.*\n)*? {4}\[\[policy\]\]\n(?: {4}.*\n)+)", text)
    assert command is not None
    assert policy is not None
    done = command[1].replace("/etc/dprobed", str(tmp_path / "etc"))
    subprocess.run(["sh", "-ec", done], check=True, cwd=ROOT)
    path = tmp_path / "p.toml"
    path.write_text(
        re.sub(r"^ {4}", "", policy[1], flags=re.M).replace("/etc/dprobed", str(tmp_path / "etc"))
    )
    (found,) = parse([path])
    assert found.auto_insertion is not None
    assert len(found.auto_insertion.programs) == 1
    assert found.match.holds(ProcessFacts(process(exe="/usr/sbin/nginx", uid=33)))


def test_a_python_by_its_usual_name() -> None:
    """`python3` is `python3.11`."""
    if Path("/usr/bin/python3").is_symlink():
        target = os.path.realpath("/usr/bin/python3")
        assert Selector(Selection(exe="/usr/bin/python3")).may_select([target])
        assert Selector(Selection(exe="/bin/python3")).may_select([target])
    assert sys.executable


def test_a_relative_path_is_refused_in_a_policy_and_a_selection(tmp_path: Path) -> None:
    with pytest.raises(SelectionError, match=r"'\./worker' is not a valid pattern: this never"):
        Selector(Selection(exe="./worker"))
    path = tmp_path / "p.toml"
    for key in ("exe", "parent", "cgroup"):
        path.write_text(f'[[policy]]\nname = "p"\nmatch.{key} = "bin/worker"\n')
        with pytest.raises(PolicyError, match=r"3:1.: error: this never matches"):
            parse([path])
