"""Globs, conditions, and which policy decides what about a process."""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dprobed.policy import config
from dprobed.policy.errors import PolicyError
from dprobed.policy.glob import GlobError, translate
from dprobed.policy.match import ProcessFacts
from dprobed.policy.model import Decision, Policies
from dprobed.policy.parse import parse
from dprobed.policy.protected import KINDS
from dprobed.policy.rights import ALL, Right
from dprobed.policy.store import PolicyStore, files
from dprobed.policy.trust import distrusted
from dprobed.proc import processes
from dprobed.proc.processes import Process
from dprobed.program.bytecode import decode
from dprobed.wire.limits import Limits

REFUSALS = Path(__file__).parents[2] / "policies" / "refusals"
NOBODY = 65534
OBSERVE = frozenset({Right.OBSERVE})


def process(**facts: Any) -> Process:
    uid = facts.pop("uid", 33)
    plain: dict[str, Any] = {
        "pid": 4321,
        "start": 1,
        "parent": os.getpid(),
        "comm": "nginx",
        "exe": "/usr/sbin/nginx",
        "cmdline": ("nginx", "-g", "daemon on;"),
        "uids": (uid, uid, uid),
        "gids": (33, 33, 33),
        "groups": (33, 4),
        "cgroup": "/system.slice/nginx.service",
        "unit": "nginx.service",
        "user_unit": "",
        "container": "",
        "foreign": False,
        "kernel_thread": False,
    }
    return Process(**plain | facts)


@pytest.mark.parametrize(
    ("pattern", "text", "fits"),
    [
        ("/usr/sbin/nginx", "/usr/sbin/nginx", True),
        ("/usr/sbin/nginx", "/usr/sbin/nginx2", False),
        ("nginx", "/usr/sbin/nginx", True),
        ("ngin?", "/usr/sbin/nginx", True),
        ("/usr/*", "/usr/nginx", True),
        ("/usr/*", "/usr/sbin/nginx", False),
        ("/usr/**", "/usr/sbin/nginx", True),
        ("**", "/usr/sbin/nginx", True),
        ("/usr/?bin/nginx", "/usr/sbin/nginx", True),
        ("/usr?sbin/nginx", "/usr/sbin/nginx", False),
        ("/opt/py[0-9]", "/opt/py3", True),
        ("/opt/py[!0-9]", "/opt/py3", False),
        ("/opt/py[]]", "/opt/py]", True),
        ("/opt/[[]x", "/opt/[x", True),
        ("/opt/[a^]x", "/opt/^x", True),
        ("/opt/{a,bc*}/d", "/opt/bcd/d", True),
        ("/opt/{a,bc*}/d", "/opt/b/d", False),
        ("/opt/{a,{b,c}d}", "/opt/cd", True),
        ("/opt/a.b", "/opt/axb", False),
        ("/opt/a,b}", "/opt/a,b}", True),
        ("/opt/a\nb", "/opt/a\nb", True),
    ],
)
def test_globs_of_paths(pattern: str, text: str, fits: bool) -> None:
    assert bool(translate(pattern, path=True).fullmatch(text)) is fits


def plainly(pattern: str, path: bool) -> re.Pattern[str]:
    """A pattern as an expression that tries everything."""
    one, many = ("[^/]", "[^/]*") if path else (".", ".*")
    words = {"**": ".*", "*": many, "?": one, "[!a]": f"(?!{'/' * path or '$^'})[^a]"}
    words |= {"{": "(?:", "}": ")", ",": "|"}
    parts = re.findall(r"\*+|\[!a\]|.", pattern)
    if path and "/" not in pattern and pattern != "**":
        parts = ["**", "/", *parts]
    return re.compile("".join(words.get(each, each) for each in parts))


@pytest.mark.parametrize("seed", range(20))
def test_globs_find_what_they_would_if_they_tried_everything(seed: int) -> None:
    choose = random.Random(seed)
    pieces = (
        "a",
        "b",
        "/",
        "*",
        "**",
        "?",
        "[!a]",
        "a*",
        "/*",
        "**/",
        "{a*,ab}",
        "{,b/}",
        "{a,*b}",
    )
    for _ in range(100):
        pattern = "".join(choose.choices(pieces, k=choose.randint(1, 6)))
        pattern = re.sub(r"\*{3,}", "**", pattern)
        path = choose.random() < 0.7
        quick, plain = translate(pattern, path=path), plainly(pattern, path)
        for _ in range(20):
            text = "".join(choose.choices("ab/", k=choose.randint(0, 9)))
            assert bool(quick.fullmatch(text)) == bool(plain.fullmatch(text)), (pattern, text, path)


@pytest.mark.parametrize(
    ("pattern", "text", "path"),
    [
        ("*--a*b*c*", "--a" * 200_000 + "b" * 200_000, False),
        ("{*a,*b}*a*b*{c,d}", "ab" * 300_000, False),
        ("/**/*a*a*a*b/c", "/" + "a" * 255 + "/" + "a" * 255, True),
        ("**a**a**a**b", "/a" * 2000, True),
    ],
)
def test_no_text_makes_a_glob_slow(pattern: str, text: str, path: bool) -> None:
    """In a process of its own, which can be ended: an expression that is at work cannot."""
    code = "import sys; from dprobed.policy.glob import translate as t\n"
    code += f"sys.exit(bool(t({pattern!r}, path={path}).fullmatch(sys.stdin.read())))"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, input=text, text=True, timeout=20, check=False)
    assert done.returncode == 0


@pytest.mark.parametrize(
    "pattern",
    [
        "{a,b}" * 8 + "[!abc]*?" * 500,
        "{a,b}" * 8 + f"[{'abcdefgh' * 400}]",
        f"[{'abcdefgh' * 400}]" + "{a,b}" * 8,
    ],
)
def test_globs_that_would_take_long_to_read_are_refused(pattern: str) -> None:
    with pytest.raises(GlobError, match="with its braces expanded it has more than 16384"):
        translate(pattern, path=True)
    assert translate("/" + "{a,b}" * 8 + "x" * 50, path=True).fullmatch("/" + "ab" * 4 + "x" * 50)


def test_a_glob_of_what_is_no_path_does_not_stop_at_slashes() -> None:
    assert translate("*--conf=/etc/*", path=False).fullmatch("x --conf=/etc/a/b\nc")
    assert not translate("conf", path=False).fullmatch("x/conf")


@pytest.mark.parametrize(("pattern", "at"), [("", 0), ("ab[", 2), ("a{b", 1), ("[z-a]", 0)])
def test_bad_globs(pattern: str, at: int) -> None:
    with pytest.raises(GlobError) as error:
        translate(pattern, path=True)
    assert error.value.at == at


def policies(folder: Path, text: str) -> Policies:
    path = folder / "test.toml"
    path.write_text(text)
    return Policies(parse([path]))


def one(folder: Path, match: str) -> Policies:
    return policies(folder, f'[[policy]]\nname = "p"\nmatch = {{ {match} }}\n')


@pytest.mark.parametrize(
    ("match", "fits"),
    [
        ('exe = "nginx"', True),
        ('exe = ["apache2", "nginx"]', True),
        ('exe = "apache2"', False),
        ('cmdline = "* daemon on;"', True),
        ('user = "www-data"', True),
        ('user = ["root", "33"]', True),
        ('user = "root"', False),
        ('group = "adm"', True),
        ('group = "root"', False),
        ('cgroup = "/system.slice/**"', True),
        ('unit = "nginx.service"', True),
        ('unit = "nginx*", user = "root"', False),
        ('user_unit = "**"', False),
        ('container = "*"', False),
        ('parent = "python*"', True),
        ('parent = "bash"', False),
        ('exe = "nginx", not = { container = "*" }', True),
        ('exe = "nginx", not = { user = "www-data" }', False),
        ('exe = "nginx", not = { user = "www-data", unit = "x" }', True),
        ('exe = "nginx", not = [{ unit = "x" }, { group = "adm" }]', False),
        ('not = { exe = "nginx" }', False),
        ('not = { exe = "apache2" }', True),
    ],
)
def test_conditions(tmp_path: Path, match: str, fits: bool) -> None:
    found = one(tmp_path, match)
    decision = found.decide(process())
    assert decision.rule == ("p" if fits else "default")
    steps = found.explain(process())
    assert [step.matches for step in steps] == [fits]
    # The last condition that was looked at is the one that decided.
    last = steps[0].tested[-1]
    assert fits == (last.holds is not last.excluded)


def test_what_is_not_known_fits_nothing(tmp_path: Path) -> None:
    unknown = process(exe="", cmdline=(), cgroup="", unit="", parent=0)
    for key in ("exe", "cmdline", "cgroup", "unit", "container", "parent"):
        assert one(tmp_path, f'{key} = "**"').decide(unknown).rule == "default"


@pytest.fixture
def sleeper() -> Iterator[Process]:
    # Only what it says shows that its exec, which sets the environment up, is over.
    command = ["sh", "-c", "echo; read it"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, env={"MODE": "x/y", "EMPTY": ""}, **pipes) as child:  # type: ignore[call-overload]
        assert child.stdout.readline()
        found = processes.read(child.pid)
        assert found is not None
        yield found


@pytest.mark.parametrize(
    ("match", "fits"),
    [
        ('environment.MODE = "x/*"', True),
        ('environment = { MODE = ["a", "*y"], EMPTY = "" }', True),
        ('environment.EMPTY = "*"', True),
        ('environment.MODE = ""', False),
        ('environment.OTHER = "*"', False),
        ('environment.MODE = "*", not = { environment.EMPTY = "*" }', False),
    ],
)
def test_the_environment(tmp_path: Path, sleeper: Process, match: str, fits: bool) -> None:
    assert one(tmp_path, match).decide(sleeper).rule == ("p" if fits else "default")


RULES = """
[[policy]]
name = "first"
match.exe = "nginx"
rights = { self = ["observe"], user = { nobody = "dump" }, group = { adm = ["observe", "debug"] } }

[[policy]]
name = "second"
match.unit = "nginx.service"

[[policy]]
name = "secret"
match.exe = "/usr/bin/gpg-agent"
rights = { self = "deny", user.nobody = "deny", user.root = ["observe"], group.adm = "all" }
follow_forks = true
hold = "thread"
budget = { share = "12.5%", hits_per_second = 100, over = "remove" }
"""


def rights(decision: Decision, uid: int, *gids: int) -> set[str]:
    return set(decision.rights(uid, frozenset(gids)))


def test_the_first_that_matches_decides(tmp_path: Path) -> None:
    found = policies(tmp_path, RULES)
    decision = found.decide(process())
    assert (decision.rule, decision.place) == ("first", f"{tmp_path}/test.toml:2")
    assert [step.policy for step in found.explain(process())] == ["first"]
    assert rights(decision, 0) == ALL
    assert rights(decision, 33) == {"observe"}
    assert rights(decision, 33, 4) == {"observe", "debug"}
    assert rights(decision, NOBODY) == {"dump"}
    assert rights(decision, NOBODY, 4) == {"dump", "observe", "debug"}
    assert rights(decision, 1234) == set()
    assert (decision.follow_forks, decision.hold, decision.budget) == (False, "process", Limits())
    other = found.decide(process(exe="/usr/sbin/nginx-debug"))
    assert other.rule == "second"
    assert rights(other, 33) == ALL
    assert [step.matches for step in found.explain(other.process)] == [False, True]


def test_deny_is_stronger_than_anything(tmp_path: Path) -> None:
    decision = policies(tmp_path, RULES).decide(process(exe="/usr/bin/gpg-agent", unit=""))
    assert decision.rule == "secret"
    assert rights(decision, 33, 4) == set()
    assert rights(decision, NOBODY, 4) == set()
    assert rights(decision, 1234, 4) == ALL
    assert rights(decision, 0) == {"observe"}
    assert decision.follow_forks
    assert decision.hold == "thread"
    assert decision.budget == Limits(0.125, 100, remove=True)


def test_the_default() -> None:
    decision = Policies().decide(process())
    assert (decision.rule, decision.place) == ("default", "")
    assert rights(decision, 0) == rights(decision, 33) == ALL
    assert rights(decision, 1234) == set()
    # A program that runs with the rights of another user is not the user's own.
    assert rights(Policies().decide(process(uids=(33, 0, 0))), 33) == set()


def test_what_a_denial_says(tmp_path: Path) -> None:
    found = policies(tmp_path, RULES).decide(process())
    assert found.check(0, frozenset(), ALL) is None
    assert found.check(33, frozenset(), OBSERVE) is None
    denial = found.check(33, frozenset(), ALL, "fake_uid needs alter for `pop r` in a.rpn:3")
    assert denial is not None
    assert denial.text == (
        "user 33 (www-data) may not alter, dump, debug process 4321 (nginx): policy first "
        f"({tmp_path}/test.toml:2) gives observe; fake_uid needs alter for `pop r` in a.rpn:3"
    )
    assert denial.missing == ALL - OBSERVE
    none = found.check(1234, frozenset(), frozenset())
    assert none is not None
    assert none.text == (
        "user 1234 may not touch process 4321 (nginx): policy first "
        f"({tmp_path}/test.toml:2) does not name that user, and by default only root and user 33 "
        "(www-data), whose it is, may"
    )
    default = Policies().decide(process()).check(1234, frozenset(), OBSERVE)
    assert default is not None
    assert "no policy matches, and by default only root and user 33" in default.text
    mixed = Policies().decide(process(uids=(33, 0, 0))).check(33, frozenset(), OBSERVE)
    assert mixed is not None
    assert "only root may, because it runs with the rights of two users" in mixed.text


@pytest.mark.parametrize(
    ("kind", "facts"),
    [
        ("init", {"pid": 1}),
        ("dbus", {"exe": "/usr/bin/dbus-daemon"}),
        ("systemd", {"exe": "/usr/lib/systemd/systemd-logind"}),
        ("systemd", {"exe": "/lib/systemd/systemd", "cmdline": ("systemd", "--user")}),
        ("sshd", {"exe": "/usr/sbin/sshd"}),
    ],
)
def test_protected_whatever_the_policies_say(
    tmp_path: Path, kind: str, facts: dict[str, Any]
) -> None:
    subject = process(**facts)
    found = policies(
        tmp_path, '[[policy]]\nname = "p"\nmatch.exe = "**"\nrights.user.root = "all"\n'
    )
    decision = found.decide(subject)
    assert decision.rule == "p"
    assert f"(`{kind}`)" in decision.protected
    assert decision.auto_insertion is None
    denial = decision.check(0, frozenset(), OBSERVE)
    assert denial is not None
    assert "`protect` of dprobed.toml" in denial.text
    others = frozenset(KINDS) - {kind}
    assert Policies(found.policies, others).decide(subject).check(0, frozenset(), ALL) is None


def test_what_is_not_protected() -> None:
    for exe in ("/home/a/dbus-daemon", "/usr/bin/systemctl", "/opt/lib/systemd/x", "/tmp/sshd"):
        assert not Policies().decide(process(exe=exe)).protected
    assert Policies(is_ours=lambda pid: pid == 4321).decide(process()).protected


def test_a_session_of_ssh_is_not_its_listener() -> None:
    facts = ProcessFacts(process(exe="/usr/sbin/sshd"))
    facts.__dict__["parent_exe"] = "/usr/sbin/sshd"
    assert not KINDS["sshd"][0](facts)


def test_applications(tmp_path: Path) -> None:
    (tmp_path / "a.rpn").write_text("name = libc.so.6\noffset = malloc\npush 0\npop r,rax\nexit\n")
    text = """
    [[policy]]
    name = "p"
    match.exe = "nginx"
    apply = { programs = ["a.rpn"], for = "1.5h", processes = 3, share = "5%" }
    budget.over = "remove"
    """
    found = policies(tmp_path, text)
    (auto_insertion,) = found.auto_insertions()
    assert (auto_insertion.policy, auto_insertion.place) == ("p", f"{tmp_path}/test.toml:2")
    assert (auto_insertion.seconds, auto_insertion.processes) == (5400, 3)
    assert auto_insertion.limits == Limits(0.05, None, remove=True)
    (program,) = auto_insertion.programs
    assert (program.label, set(program.needs)) == ("a", {Right.OBSERVE, Right.ALTER})
    assert found.decide(process()).auto_insertion is auto_insertion
    assert found.decide(process(exe="/bin/cat")).auto_insertion is None
    assert found.decide(process(kernel_thread=True)).auto_insertion is None


def test_scripts_are_inserted_as_programs_are(tmp_path: Path) -> None:
    (tmp_path / "types.h").write_text("struct req { int state; };\n")
    (tmp_path / "sizes.bt").write_text(
        '#include "types.h"\n'
        "uprobe:libc.so.6:malloc { @[comm] = hist(arg0); }\n"
        "uprobe:/opt/srv:handle /((struct req *)arg0)->state == 3/ { @bad = count(); arg1 = 0; }\n"
    )
    text = """
    [[policy]]
    name = "p"
    match.exe = "nginx"
    apply.programs = "sizes.bt"
    apply.scripts = ["uprobe:libc.so.6:free { @ = count() }"]
    """
    (auto_insertion,) = policies(tmp_path, text).auto_insertions()
    found = [
        (each.label, decode(each.bytecode).header.name, set(each.needs))
        for each in auto_insertion.programs
    ]
    assert found == [
        ("sizes", "libc.so.6", {Right.OBSERVE}),
        ("sizes", "/opt/srv", {Right.OBSERVE, Right.ALTER}),
        ("p", "libc.so.6", {Right.OBSERVE}),
    ]


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("uprobe:libc.so.6:malloc { @ = hist(arg0 }", ":1:"),
        ('uprobe:libc.so.6:malloc { printf("x"); }', "it prints, or has blocks"),
        ("interval:s:1 { @ = 1; }", "it prints, or has blocks"),
        ("malloc { @ = count() }", "write uprobe:MODULE:malloc"),
    ],
)
def test_scripts_that_are_refused_say_where(tmp_path: Path, script: str, said: str) -> None:
    (tmp_path / "one.bt").write_text(script)
    head = '[[policy]]\nname = "p"\nmatch.exe = "x"\n'
    for text, where in (
        ("apply.programs = 'one.bt'\n", f"{tmp_path}/one.bt"),
        (f"apply.scripts = '{script}'\n", "script"),
    ):
        with pytest.raises(PolicyError) as error:
            policies(tmp_path, head + text)
        assert f"{tmp_path}/test.toml:4:" in str(error.value)
        assert f"{where}:1:" in str(error.value) and said in str(error.value)


@pytest.mark.parametrize("path", sorted(REFUSALS.glob("*.toml")), ids=lambda path: path.stem)
def test_refusals(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole report, word for word."""
    monkeypatch.chdir(REFUSALS)
    with pytest.raises(PolicyError) as error:
        parse([Path(path.name)])
    assert str(error.value) + "\n" == path.with_suffix(".expected").read_text()


def test_all_files_are_checked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REFUSALS)
    with pytest.raises(PolicyError) as error:
        parse([Path("syntax.toml"), Path("table.toml"), Path("missing.toml")])
    assert [each.file for each in error.value.diagnostics] == [
        "syntax.toml",
        "table.toml",
        "missing.toml",
    ]


def test_names_are_unique_over_all_files(tmp_path: Path) -> None:
    for name in ("b", "a"):
        text = '[[policy]]\nname = "p"\nmatch.exe = "x"\n'
        (tmp_path / f"{name}.toml").write_text(text)
    (tmp_path / "c.txt").write_text("not a policy")
    found = files(tmp_path, os.getuid())
    assert [path.name for path in found] == ["a.toml", "b.toml"]
    with pytest.raises(PolicyError, match=f"already, at {tmp_path}/a.toml:1"):
        parse(found)


@pytest.mark.skipif(os.geteuid() != 0, reason="gives files to another user")
def test_files_that_others_can_write_are_not_trusted(tmp_path: Path) -> None:
    program = tmp_path / "a.rpn"
    program.write_text("name = libc.so.6\noffset = malloc\nexit\n")
    path = tmp_path / "p.toml"
    path.write_text('[[policy]]\nname = "p"\nmatch.exe = "x"\napply.programs = "a.rpn"\n')
    assert len(parse([path], trust=0)) == 1
    program.chmod(0o666)
    with pytest.raises(PolicyError, match=f"p.toml:4:18: error: {program} is refused") as error:
        parse([path], trust=0)
    assert f"cannot read the program: is writable by others; run: chmod go-w {program}" in (
        str(error.value)
    )
    program.chmod(0o644)
    included = tmp_path / "more.inc"
    included.write_text("offset = malloc\nexit\n")
    program.write_text('name = libc.so.6\n#include "more.inc"\n')
    assert len(parse([path], trust=0)) == 1
    os.chown(included, NOBODY, NOBODY)
    with pytest.raises(PolicyError, match=f"a.rpn:2:10: .*run: chown 0 {included}"):
        parse([path], trust=0)
    assert len(parse([path])) == 1
    os.chown(included, 0, 0)
    path.chmod(0o620)
    with pytest.raises(PolicyError, match=f"run: chmod go-w {path}"):
        parse([path], trust=0)
    path.chmod(0o600)
    os.chown(path, NOBODY, NOBODY)
    with pytest.raises(PolicyError, match=f"run: chown 0 {path}"):
        parse([path], trust=0)
    assert distrusted(path, NOBODY) == ""


@pytest.mark.skipif(os.geteuid() != 0, reason="gives folders to another user")
def test_folders_in_which_others_could_put_another_file_are_not_trusted(tmp_path: Path) -> None:
    """Of policies and of their programs alike, from the root on."""
    outer, policies, programs = tmp_path / "o", tmp_path / "o" / "p", tmp_path / "o" / "q"
    for folder in (outer, policies, programs):
        folder.mkdir(mode=0o755)
    (programs / "a.rpn").write_text("name = libc.so.6\noffset = malloc\nexit\n")
    path = policies / "p.toml"
    path.write_text('[[policy]]\nname = "p"\nmatch.exe = "x"\napply.programs = "../q/a.rpn"\n')

    def fault() -> str:
        """What is wrong with the whole folder, as a daemon of root's reads it."""
        try:
            assert len(parse(files(policies, 0), trust=0)) == 1
        except PolicyError as error:
            return str(error)
        return ""

    assert fault() == ""
    for folder, prefix in (
        (programs, "cannot read the program: "),
        (outer, f"{policies}: error: "),
    ):
        on_the_way = f"{prefix}the folder {folder} on the way to it "
        folder.chmod(0o777)
        assert f"{on_the_way}is writable by others; run: chmod go-w {folder}" in fault()
        # As in /tmp, where nobody may put another file in the place of ours.
        folder.chmod(0o1777)
        assert fault() == ""
        os.chown(folder, NOBODY, NOBODY)
        assert f"{on_the_way}belongs to user {NOBODY}; run: chown 0 {folder}" in fault()
        os.chown(folder, 0, 0)
        folder.chmod(0o755)
    policies.chmod(0o1777)  # Where others could put further policies.
    assert fault() == f"{policies}: error: is writable by others; run: chmod go-w {policies}"
    policies.chmod(0o755)
    config_file = policies / "dprobed.toml"
    config_file.write_text("protect = []\n")
    outer.chmod(0o775)
    with pytest.raises(
        PolicyError, match=f"error: the folder {outer} on the way to it is writable"
    ):
        config.load(config_file, 0)


@pytest.mark.skipif(os.geteuid() != 0, reason="gives a link to another user")
def test_links_that_others_could_put_elsewhere_are_not_trusted(tmp_path: Path) -> None:
    shared, real = tmp_path / "shared", tmp_path / "real"
    for folder, mode in ((shared, 0o1777), (real, 0o755)):
        folder.mkdir()
        folder.chmod(mode)
    text = '[[policy]]\nname = "p"\nmatch.exe = "x"\n'
    (real / "p.toml").write_text(text)
    link = shared / "link"
    link.symlink_to("../real")
    (real / "q.toml").symlink_to(link / "p.toml")
    assert len(parse([link / "p.toml"], trust=0)) == len(parse([real / "q.toml"], trust=0)) == 1
    os.chown(link, NOBODY, NOBODY, follow_symlinks=False)
    for path in (link / "p.toml", real / "q.toml"):
        with pytest.raises(PolicyError, match=f"{path}: error: the link {link} on the way to it"):
            parse([path], trust=0)
        assert len(parse([path], trust=NOBODY)) == 1
    (real / "r.toml").symlink_to("r.toml")
    with pytest.raises(PolicyError, match="cannot be read: Too many levels of symbolic links"):
        parse([real / "r.toml"], trust=0)


def test_a_folder_of_policies_that_goes_away_takes_no_policy_with_it(tmp_path: Path) -> None:
    folder, elsewhere = tmp_path / "policies.d", tmp_path / "elsewhere"
    store = PolicyStore(config.Config(folder), os.getuid())
    assert (store.policies.policies, store.reload()) == ((), "")  # It never was there.
    folder.mkdir()
    path = folder / "p.toml"
    path.write_text('[[policy]]\nname = "p"\nmatch.exe = "x"\n')

    def names() -> list[str]:
        return [each.name for each in store.policies.policies]

    assert (store.reload(), names()) == ("", ["p"])
    folder.rename(elsewhere)
    stays = "the policies stay as they were"
    assert store.reload().startswith(f"{stays}:\n{folder}: error: is gone\n    hint: make an empty")
    folder.symlink_to("nowhere")
    assert store.reload().startswith(f"{stays}:\n{folder}: error: cannot be read: No such file")
    assert names() == ["p"]
    with pytest.raises(PolicyError, match="cannot be read: No such file"):
        PolicyStore(config.Config(folder), os.getuid())
    folder.unlink()
    elsewhere.rename(folder)
    assert (store.reload(), names(), store.problem) == ("", ["p"], "")
    path.unlink()  # Whoever takes the files away means it.
    assert (store.reload(), names()) == ("", [])


def test_what_is_no_file_keeps_no_daemon_waiting(tmp_path: Path) -> None:
    path = tmp_path / "pipe.toml"
    os.mkfifo(path)
    with pytest.raises(
        PolicyError, match=r"pipe\.toml: error: cannot be read: it is not a regular"
    ):
        parse([path], trust=os.getuid())


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (b'[[policy]]\nname = "p\xff"\n', ":2:10: error: this is not UTF-8"),
        (b'\xef\xbb\xbf[[policy]]\nname = "p"\n', ":1:1: error: the file begins with a byte"),
        (b"a = " + b"[" * 5000, ": error: is not a policy: lists or tables are nested too deeply"),
        (b'[[policy]]\nname = "p"\nhold = ' + b"9" * 5000, ":3:8: error: this number is too large"),
        (b'[[policy]]\rname = "p"\n', ":1:11: error: no TOML"),
        (b"#" * (1 << 20) + b"#", ": error: cannot be read: it has more than 1048576 bytes"),
    ],
    ids=["latin", "mark", "deep", "digits", "return", "huge"],
)
def test_files_that_are_hardly_toml(tmp_path: Path, text: bytes, fault: str) -> None:
    path = tmp_path / "x.toml"
    path.write_bytes(text)
    with pytest.raises(PolicyError) as error:
        parse([path])
    assert str(error.value).startswith(f"{path}{fault}")


def test_hidden_files_are_no_policies(tmp_path: Path) -> None:
    (tmp_path / ".#p.toml").symlink_to("editor@host.1234")
    (tmp_path / "p.toml").write_text("")
    assert files(tmp_path, os.getuid()) == [tmp_path / "p.toml"]


def test_a_configuration_says_what_it_names_and_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "dprobed.toml"
    path.write_text('policies = "policies.d"\n')
    assert config.load(path, os.getuid()).policies == tmp_path / "policies.d"
    path.write_text('policies = "polices.d"\n')
    with pytest.raises(PolicyError, match=f":1:12: error: there is no folder {tmp_path}/polices.d"):
        config.load(path, os.getuid())


def test_a_configuration_that_leads_nowhere_is_not_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    (tmp_path / "dprobed").mkdir()
    config.load(None, NOBODY)
    (tmp_path / "dprobed" / "dprobed.toml").symlink_to("nowhere")
    with pytest.raises(PolicyError, match="cannot be read: No such file"):
        config.load(None, NOBODY)
