"""What each process of a command imports, in its turn, until the command can start."""

from __future__ import annotations

import subprocess
import sys

import pytest


def _imported(*modules: str) -> set[str]:
    """All that is imported where a command imports these, one after the other; with ``executed:``
    before it that which is not late (any more)."""
    names = ", ".join(modules)
    code = (
        f"import sys, types; from dprobe import late; late.install(); import {names}\n"
        "print(*sys.modules, *(f'executed:{name}' for name, module in sys.modules.items()"
        " if type(module) is types.ModuleType))"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


def test_what_is_imported_before_it_is_known_whether_one_is_needed() -> None:
    assert not _imported("dprobe.ahead") & {"click", "msgspec", "socket", "dprobed.wire.messages"}


@pytest.mark.parametrize("more", [(), ("dprobe.lib.places",)])
def test_what_is_imported_before_the_private_daemon_is_forked(more: tuple[str, ...]) -> None:
    """What two of the three processes need, and nothing that only one of them does."""
    there = _imported("dprobe.private", *more, "dprobed.daemon.private")
    shared = ("wire.messages", "wire.protocol", "program.verifier", "resolver.client")
    assert {f"dprobed.{each}" for each in shared} <= there
    assert not there & {"click", "dataclasses", "asyncio", "rich", "elftools", "iced_x86.Code"}
    assert not there & {"ast", "dis", "typing_extensions", "ssl", "_hashlib"}
    for name in ("program.rpn", "daemon.app", "tracer", "engine", "resolver.service", "policy"):
        assert f"dprobed.{name}" not in there


def test_what_a_private_daemon_imports_for_itself() -> None:
    there = _imported("dprobed.daemon.private", "dprobed.daemon.private_service")
    assert "asyncio" in there
    assert not there & {"click", "rich", "elftools", "psutil", "ast", "dis", "ssl", "ctypes"}
    for name in (
        "daemon.deploy",
        "daemon.policy_reload",
        "daemon.policy_requests",
        "daemon.recovery",
        "daemon.records.external",
        "daemon.records.trace_sessions",
        "policy.parse",
        "program.rpn",
        "trace",
        "tracer",
    ):
        assert f"dprobed.{name}" not in there


def test_what_the_first_tracer_imports_for_itself() -> None:
    there = _imported("dprobed.daemon.private", "dprobed.tracer.main")
    assert not there & {"asyncio", "click", "rich", "elftools", "psutil", "ast", "dis"}
    assert {"iced_x86.Code", "executed:iced_x86.Mnemonic"} <= there
    assert "executed:iced_x86.Code" not in there  # it is late, and has 5,000 names
    for name in (
        "daemon.app",
        "policy",
        "program.rpn",
        "tracer.dump.snapshot",
        "binary.elf",
        "engine.inline",
    ):
        assert f"dprobed.{name}" not in there


def test_what_a_command_imports_beside_them() -> None:
    there = _imported("dprobed.daemon.private", "dprobe.main", "dprobe.commands.run")
    assert not there & {"asyncio", "rich", "elftools", "psutil", "ast", "dis"}
    for name in ("daemon.app", "engine", "program.bt", "program.rpn", "tracer"):
        assert f"dprobed.{name}" not in there


def test_what_a_command_with_a_script_imports_besides() -> None:
    there = _imported("dprobe.main", "dprobe.commands.run", "dprobe.commands.scripts")
    assert "dprobed.program.bt.compiler" in there
    assert not there & {"asyncio", "rich", "elftools", "psutil", "ast", "dis", "dataclasses"}
    for name in ("daemon.app", "engine", "program.exec", "tracer"):
        assert f"dprobed.{name}" not in there


def test_what_a_command_printed_is_written_however_it_ends() -> None:
    code = (
        "import dprobe.main, dprobe.__main__ as command\n"
        "dprobe.main.main = lambda: print('printed', end='') or 3\n"
        "command.main()"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (3, b"printed", b"")
