"""Root's daemon with policies, and other users who ask it."""

from __future__ import annotations

import base64
import os
import socket as sockets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from dprobed.program.bytecode import encode
from dprobed.program.rpn.parser import assemble
from tests.integration.client_support import (
    PATIENCE,
    WRITES,
    Cat,
    Daemon,
    Json,
    Peer,
    cat,
    running_daemon,
)

NOBODY: Final = 65534
DAEMON: Final = 1


class Place:
    """A folder that every user can look into, with a configuration, policies and a journal."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.policies = folder / "policies.d"
        self.policies.mkdir()
        self.config = folder / "dprobed.toml"
        self.config.write_text('policies = "policies.d"\n')
        self.journal = sockets.socket(sockets.AF_UNIX, sockets.SOCK_DGRAM)
        self.journal.bind(str(folder / "journal"))
        self.journal.settimeout(PATIENCE)

    def write(self, text: str, name: str = "test") -> Path:
        """A policy file."""
        path = self.policies / f"{name}.toml"
        path.write_text(text)
        return path

    def entry(self) -> dict[str, str]:
        """The next entry of the journal."""
        lines = self.journal.recv(1 << 16).decode().splitlines()
        return dict(line.split("=", 1) for line in lines)

    @contextmanager
    def daemon(self) -> Iterator[Daemon]:
        """Root's daemon, by this configuration."""
        environment = {**os.environ, "DPROBED_JOURNAL_SOCKET": str(self.folder / "journal")}
        with running_daemon(self.folder, "--config", self.config, env=environment) as daemon:
            yield daemon


@contextmanager
def asking(daemon: Daemon, uid: int = NOBODY) -> Iterator[Peer]:
    """A connection of another user: the kernel tells the daemon who connected."""
    os.setegid(uid)
    os.seteuid(uid)
    try:
        peer = Peer(daemon)
    finally:
        os.seteuid(0)
        os.setegid(0)
    with peer:
        yield peer


@contextmanager
def cat_of(uid: int, path: Path | str = "cat") -> Iterator[Cat]:
    with cat([path], user=uid, group=uid, extra_groups=[]) as target:
        yield target


def upload(text: str = WRITES, label: str = "writes") -> Json:
    code = encode(assemble(text, f"{label}.rpn"))
    return {"label": label, "bytecode": base64.b64encode(code).decode()}


def attach(peer: Peer, pid: int) -> Json:
    return answer(peer, {"type": "attach", "id": 1, "pid": pid})


def insert(peer: Peer, pid: int, *uploads: Json, keep: bool = False) -> Json:
    message = {"type": "insert", "id": 2, "pid": pid, "keep": keep}
    return answer(peer, {**message, "programs": list(uploads or [upload()])})


def answer(peer: Peer, message: Json) -> Json:
    """The reply; reports that come before it are left out."""
    peer.send(message)
    while (found := peer.read()) is not None and "id" not in found:
        pass
    assert found is not None
    return found


def report(peer: Peer, kind: str) -> Json:
    """The next report of a kind."""
    while (found := peer.read()) is not None:
        if found["type"] == kind:
            return found
    raise AssertionError(f"no {kind}")


def refused(found: Json) -> str:
    assert found["type"] == "error", found
    return str(found["error"])


def until(daemon: Daemon, holds: Callable[[Json], bool]) -> Json:
    """The deployment, as soon as it is as it should be."""
    deadline = time.monotonic() + PATIENCE
    while True:
        found = [row for row in daemon.query() if row["type"] == "deployment"]
        if len(found) == 1 and holds(found[0]):
            return found[0]
        assert time.monotonic() < deadline, found
