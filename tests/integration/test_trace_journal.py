"""Records in a real systemd journal, read by the real journalctl."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.integration.client_support import PATIENCE, cat, running_daemon
from tests.integration.test_trace_sessions import insert, start, until

_JOURNALD = "/lib/systemd/systemd-journald"


@contextmanager
def journal(namespace: str) -> Iterator[subprocess.Popen[bytes]]:
    """A journal of our own: journald serves a namespace wherever it is started by root."""
    with subprocess.Popen([_JOURNALD, namespace], stderr=subprocess.DEVNULL) as process:
        try:
            wait_for(Path(f"/run/systemd/journal.{namespace}/socket"), process)
            yield process
        finally:
            process.terminate()
            process.wait(PATIENCE)
            forget(namespace)


def wait_for(path: Path, process: subprocess.Popen[bytes]) -> None:
    """Wait until journald takes entries: it says so to nobody, so it is asked again and again."""
    deadline = time.monotonic() + 60
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        while True:
            try:
                sock.connect(str(path))
                return
            except (FileNotFoundError, ConnectionRefusedError):
                assert process.poll() is None, "journald ended"
                assert time.monotonic() < deadline, "journald does not listen"


def forget(namespace: str) -> None:
    shutil.rmtree(f"/run/systemd/journal.{namespace}", ignore_errors=True)
    for root in ("/var/log/journal", "/run/log/journal"):
        for folder in Path(root).glob(f"*.{namespace}"):
            shutil.rmtree(folder)


def entries(namespace: str, *matches: str) -> list[dict[str, Any]]:
    command = ["journalctl", f"--namespace={namespace}", "--output=json", *matches]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can start a journal")
def test_records_in_the_journal(tmp_path: Path) -> None:
    namespace = f"dprobed{os.getpid()}"
    with running_daemon(tmp_path) as daemon, cat() as target:
        insert(daemon, tmp_path, target)
        start(daemon, "--format", "journal", "--namespace", namespace)
        target.say("nobody hears it")
        row = until(daemon, "journal", lambda row: row["dropped"] == 1)
        assert row["problem"] == "no journal takes entries"
        with journal(namespace):
            target.say("one")
            target.say("two\\")
            until(daemon, "journal", lambda row: row["written"] == 2 and not row["problem"])
            subprocess.run(["journalctl", f"--namespace={namespace}", "--sync"], check=True)
            found = entries(namespace, "SYSLOG_IDENTIFIER=dprobed", f"OBJECT_PID={target.pid}")
            assert [each["DPROBE_STRING_0"] for each in found] == ["one\n", "two\\\n"]
            assert [each["DPROBE_HIT"] for each in found] == ["2", "3"]
            assert found[0]["MESSAGE"].endswith('write+0x0 #2: 4 "one\\n" [trace]')
            assert found[0]["DPROBE_WORD_0"] == "4"
            assert found[0]["DPROBE_COMM"] == found[0]["OBJECT_COMM"] == "cat"
            assert found[0]["_PID"] == str(daemon.process.pid)
            (only,) = entries(namespace, "DPROBE_WORD_0=5", "DPROBE_PROGRAM=exit_trace")
            assert only["DPROBE_STRING_0"] == "two\\\n"
            daemon.json("trace", "stop", "journal")
