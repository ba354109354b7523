"""nginx with workers, in a folder and at a port of its own."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import psutil

from tests.integration.client_support import children
from tests.service.surroundings import PATIENCE, folder_for, wait_gone, wait_until

NGINX: Final = Path("/usr/sbin/nginx")
LIBZ: Final = Path("/lib/x86_64-linux-gnu/libz.so.1")
WORKERS: Final = 2

_CONFIGURATION: Final = """
user www-data;
worker_processes {workers};
pid {folder}/pid;
error_log {folder}/error.log notice;
env LD_LIBRARY_PATH;
events {{ worker_connections 256; }}
http {{
    log_format counted "$pid $status $request_uri";
    access_log {folder}/access.log counted;
    default_type text/plain;
    keepalive_requests 500;
    server {{
        listen 127.0.0.1:{port};
        root {folder}/pages;
        gzip_types text/plain;
        location /zipped {{ gzip on; }}
    }}
}}
"""


class Nginx:
    """A master and its workers; ``workers`` and ``master`` are asked of the system anew."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = _free_port()
        self._libraries = folder / "lib"
        self._libraries.mkdir()
        # Of its own, so that programs for it go into no other nginx of this machine.
        self.executable = Path(shutil.copy(NGINX, folder / "nginx"))
        self.library = Path(shutil.copy(LIBZ.resolve(), self._libraries / "libz.so.1"))
        pages = folder / "pages"
        pages.mkdir()
        (pages / "plain").write_text("hello\n" * 10)
        (pages / "zipped").write_text("to be made smaller\n" * 200)
        configuration = _CONFIGURATION.format(folder=folder, port=self.port, workers=WORKERS)
        (folder / "nginx.conf").write_text(configuration)

    def start(self) -> None:
        """As a service manager does: the command ends when the master runs by itself."""
        subprocess.run(
            [self.executable, "-p", self.folder, "-c", self.folder / "nginx.conf"],
            env={**os.environ, "LD_LIBRARY_PATH": str(self._libraries)},
            check=True,
            timeout=PATIENCE,
        )
        wait_until(lambda: len(self.workers()) == WORKERS)

    @property
    def master(self) -> int:
        """The process that the newest pid file names."""
        return int((self.folder / "pid").read_text())

    def workers(self, master: int | None = None) -> list[int]:
        """The workers that take requests, of the newest master or another one."""
        return sorted(filter(_is_worker, children(master or self.master)))

    def replace_worker(self, pid: int) -> int:
        """Ask a worker to end when it is done; the one that the master starts in its place."""
        before = self.workers()
        os.kill(pid, signal.SIGQUIT)
        wait_until(lambda: len(set(self.workers()) - {pid}) == WORKERS)
        (fresh,) = set(self.workers()) - set(before)
        wait_gone(pid)
        return fresh

    def reload(self) -> list[int]:
        """All workers anew, by the same master; the old ones are gone."""
        old = self.workers()
        os.kill(self.master, signal.SIGHUP)
        wait_until(lambda: len(set(self.workers()) - set(old)) == WORKERS)
        for pid in old:
            wait_gone(pid)
        return self.workers()

    def upgrade(self) -> int:
        """Another master executes the program anew and takes over; the old one is gone."""
        old = self.start_another()
        os.kill(old, signal.SIGQUIT)
        wait_gone(old)
        return self.master

    def start_another(self) -> int:
        """Another master executes the program anew and serves besides; the old one's number."""
        old = self.master
        os.kill(old, signal.SIGUSR2)
        wait_until(lambda: self._has_master_besides(old) and len(self.workers()) == WORKERS)
        return old

    def _has_master_besides(self, old: int) -> bool:
        try:
            return self.master != old
        except (FileNotFoundError, ValueError):
            return False  # It is just being written.

    @property
    def build_id(self) -> str:
        """That of the library on disk."""
        data = self.library.read_bytes()
        at = _build_id_at(data)
        return data[at : at + 20].hex()

    def replace_library(self) -> None:
        """Another build of the library takes the place of the one that is mapped."""
        data = bytearray(self.library.read_bytes())
        at = _build_id_at(data)
        data[at : at + 20] = bytes(reversed(data[at : at + 20]))
        fresh = self.library.with_suffix(".new")
        fresh.write_bytes(data)
        fresh.rename(self.library)

    def logged(self, path: str | None = None) -> Counter[int]:
        """How many requests each process says that it has served, all or those for a path."""
        lines = (self.folder / "access.log").read_text().splitlines()
        entries = [line.split() for line in lines]
        assert all(status == "200" for _, status, _ in entries)
        return Counter(int(pid) for pid, _, asked in entries if path in (None, asked))

    def complaints(self) -> list[str]:
        """What it logged that is worse than a notice."""
        lines = (self.folder / "error.log").read_text().splitlines()
        return [line for line in lines if "[notice]" not in line]

    def stop(self) -> None:
        """The end of it, when all requests are done."""
        master = self.master
        os.kill(master, signal.SIGQUIT)
        wait_gone(master)

    def kill(self) -> None:
        """Whatever is left of it, at once: the tests must not wait for one that hangs."""
        for process in psutil.process_iter(["exe"]):
            if process.info["exe"] == str(self.executable):
                process.kill()


@contextmanager
def nginx() -> Iterator[Nginx]:
    """An nginx, not yet started, of which nothing is left afterwards."""
    with folder_for("nginx") as folder:
        service = Nginx(folder)
        try:
            yield service
        finally:
            service.kill()


def _is_worker(pid: int) -> bool:
    """Whether it takes requests; one that is about to end has another title."""
    try:
        title = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
    return title.rstrip(b"\0") == b"nginx: worker process"


def _build_id_at(data: bytes | bytearray) -> int:
    """Where the build-id is in a file: behind the header of its note."""
    return data.index(b"\x04\0\0\0\x14\0\0\0\x03\0\0\0GNU\0") + 16


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
