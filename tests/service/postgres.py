"""PostgreSQL, a process for each connection, in a folder of its own and on a socket there."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import psutil

from tests.integration.client_support import children
from tests.service.surroundings import PATIENCE, folder_for, wait_until

_CONFIGURATION: Final = """
listen_addresses = ''
unix_socket_directories = '{folder}'
shared_buffers = 16MB
fsync = off
autovacuum = off
log_connections = on
log_line_prefix = '%p '
"""
#: One transaction of `pgbench`, and nothing else that it would ask.
_SCRIPT: Final = "SELECT count(*) FROM pg_class;\n"
_DONE: Final = re.compile(r"number of transactions actually processed: (\d+)")
_FAILED: Final = re.compile(r"number of failed transactions: (\d+)")


class Postgres:
    """A server and what it forks; ``main`` is asked of the system anew."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._data = folder / "data"
        self._log = folder / "log"
        # It does not run as root.
        self._user: dict[str, Any] = {}
        if os.geteuid() == 0:
            entry = pwd.getpwnam("postgres")
            os.chown(folder, entry.pw_uid, entry.pw_gid)
            self._user = {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
        self._installed = _newest()
        self._bin = self._copy(folder)
        self.executable = self._bin / "postgres"
        (folder / "script").write_text(_SCRIPT)
        self._run(self._bin / "initdb", "--no-sync", "--auth=trust", "-U", "postgres", self._data)
        self.configure(_CONFIGURATION.format(folder=folder))

    def _copy(self, folder: Path) -> Path:
        """Of its own, so that programs for it go into no other server of this machine.

        It finds what belongs to it from where it is itself.
        """
        version = self._installed.parent.name
        (folder / "share" / "postgresql").mkdir(parents=True)
        share = Path("share") / "postgresql" / version
        (folder / share).symlink_to("/usr" / share)
        own = folder / "lib" / "postgresql" / version
        (own / "bin").mkdir(parents=True)
        (own / "lib").symlink_to(self._installed.parent / "lib")
        for name in ("postgres", "pg_ctl", "initdb"):
            shutil.copy(self._installed / name, own / "bin")
        return own / "bin"

    def _run(self, *command: str | Path) -> None:
        done = subprocess.run(
            command,
            cwd=self._folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=PATIENCE,
            check=False,
            **self._user,
        )
        assert done.returncode == 0, done.stdout

    def configure(self, text: str) -> None:
        """Further lines of its configuration, which it does not read by itself."""
        with (self._data / "postgresql.conf").open("a") as file:
            file.write(text)

    def control(self, *command: str) -> None:
        """`pg_ctl`, which ends when a start, restart or stop is done."""
        self._run(self._bin / "pg_ctl", "-D", self._data, "-l", self._log, *command)

    @property
    def main(self) -> int:
        """The process that takes connections and forks."""
        return int((self._data / "postmaster.pid").read_text().split()[0])

    def processes(self) -> set[int]:
        """All that there are."""
        return {self.main, *children(self.main)}

    def said(self, text: str) -> list[int]:
        """The processes that have logged something with this text in it."""
        lines = self._log.read_text().splitlines()
        return [int(line.split()[0]) for line in lines if text in line]

    def connected(self) -> list[int]:
        """The processes that have had a client."""
        return self.said("connection authorized")

    def complaints(self) -> list[str]:
        """What it logged that is no part of a good life."""
        lines = self._log.read_text().splitlines()
        return [line for line in lines if " LOG: " not in line or "terminated by" in line]

    def kill(self) -> None:
        """Whatever is left of it, at once."""
        for process in psutil.process_iter(["exe"]):
            if process.info["exe"] == str(self.executable):
                process.kill()

    @contextmanager
    def load(self, *options: str) -> Iterator[Load]:
        """Transactions as fast as they are done."""
        with (self._folder / "load").open("w+") as output:
            script = self._folder / "script"
            where = ("-h", self._folder, "-U", "postgres")
            process = subprocess.Popen(
                [self._installed / "pgbench", "-n", "-f", script, *where, *options, "postgres"],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
            load = Load(process, Path(output.name))
            try:
                yield load
            finally:
                process.kill()
                process.wait()


class Load:
    """`pgbench`, which counts for itself."""

    def __init__(self, process: subprocess.Popen[bytes], output: Path) -> None:
        self._process = process
        self._output = output

    def failure(self) -> str:
        """Wait for its end; why it did not do all that it should, empty where it did."""
        return self._output.read_text() if self._process.wait(PATIENCE) else ""

    def end(self) -> int:
        """Wait for its end, without failure; how many transactions were done."""
        assert not self.failure(), self.failure()
        text = self._output.read_text()
        done, failed = _DONE.search(text), _FAILED.search(text)
        assert done is not None, text
        assert failed is not None, text
        assert int(failed[1]) == 0, text
        return int(done[1])


@contextmanager
def postgres() -> Iterator[Postgres]:
    """A server, not yet started, of which nothing is left afterwards."""
    with folder_for("postgres") as folder:
        service = Postgres(folder)
        try:
            yield service
        finally:
            service.kill()
            wait_until(lambda: not _runs(service.executable))


def _runs(executable: Path) -> bool:
    return any(each.info["exe"] == str(executable) for each in psutil.process_iter(["exe"]))


def _newest() -> Path:
    """The commands of the newest version that is installed."""
    found = Path("/usr/lib/postgresql").glob("*/bin/postgres")
    return max(found, key=lambda path: int(path.parts[-3])).parent
