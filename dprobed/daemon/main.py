"""``dprobed``: the daemon's command line, its socket on disk, its start and its end."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import fcntl
import gc
import logging
import os
import resource
import signal
import socket
import stat
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

from dprobed import __version__
from dprobed.daemon.app import HOLD_LIMIT, App, begin, build_private, build_public
from dprobed.daemon.tracer_process import TracerMain
from dprobed.durations import seconds
from dprobed.policy import config as configuration
from dprobed.policy.errors import PolicyError
from dprobed.policy.store import PolicyStore
from dprobed.printable import LAYOUT, printable
from dprobed.wire.socket_path import default_socket

#: Seconds that tracers have at the daemon's end to remove their probes; later they go on alone.
PATIENCE: Final = 10.0
#: RLIMIT_NOFILE is raised to this where it can be: every tracer takes two descriptors.
DESCRIPTORS: Final = 1 << 14

#: What ``--log-level`` can be, the most talkative first.
_LEVELS: Final = ("debug", "info", "warning", "error")

_log = logging.getLogger("dprobed")


class _Lines(logging.Formatter):
    """Log messages whose further lines are indented, so that they cannot look like others."""

    def format(self, record: logging.LogRecord) -> str:
        """The message, with a traceback if there is one."""
        return printable(super().format(record), LAYOUT).replace("\n", "\n    ")


class StartError(Exception):
    """The daemon cannot start; the text says why and what to do."""


def _check_proc() -> None:
    """Check that /proc is that of our process namespace; raises StartError.

    In a new process namespace /proc shows the old one until it is mounted again: a decision about
    one process would then be applied to another.
    """
    try:
        shown = str(Path("/proc/self").readlink())
    except OSError as error:
        raise StartError(f"/proc/self: {error.strerror}; run: mount -t proc proc /proc") from None
    if shown != str(os.getpid()):
        raise StartError(
            f"/proc is that of another process namespace (this process is {os.getpid()}, and "
            f"{shown} there); run: mount -t proc proc /proc"
        )


def _private_folder(path: Path) -> None:
    """Make the socket's folder, or check that nobody else can put anything into it.

    Raises StartError.
    """
    public = os.geteuid() == 0 and path == Path("/run/dprobed")
    try:
        with contextlib.suppress(FileExistsError):
            path.mkdir(mode=0o755 if public else 0o700)
        status = path.lstat()
    except OSError as error:
        raise StartError(f"{path}: {error.strerror}; choose another place by --socket") from None
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
        raise StartError(
            f"{path} is not a folder of user {os.geteuid()}; remove it, or use --socket"
        )
    if status.st_mode & 0o022:
        raise StartError(f"{path} is writable by others; run: chmod go-w {path}")


@contextlib.contextmanager
def listening_socket(path: Path) -> Iterator[socket.socket]:
    """A listening socket at ``path``: only its owner (and root) can connect to it; to root's, all.

    A lock beside it tells a daemon that runs from a socket that a dead one left; raises StartError.
    """
    lock_path = path.with_name(path.name + ".lock")
    try:
        lock = _lock(lock_path)
    except BlockingIOError:
        raise StartError(f"another dprobed listens at {path}; use --socket for a second") from None
    except OSError as error:
        raise StartError(f"{lock_path}: {error.strerror}") from None
    try:
        try:
            if path.exists() or path.is_symlink():
                if not stat.S_ISSOCK(path.lstat().st_mode):
                    raise StartError(
                        f"{path} exists and is not a socket; remove it, or use --socket"
                    )
                path.unlink()
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            # Anyone may connect to root's daemon: the policies decide what a user may do.
            mask = os.umask(0o111 if os.geteuid() == 0 else 0o177)
            try:
                sock.bind(str(path))
            finally:
                os.umask(mask)
        except OSError as error:
            raise StartError(f"{path}: {error.strerror or error}") from None
        with sock:
            sock.listen(64)
            yield sock
        path.unlink(missing_ok=True)
    finally:
        lock_path.unlink(missing_ok=True)
        os.close(lock)


def _lock(path: Path) -> int:
    """An exclusive lock on a file that is still there under its name when it is locked."""
    while True:
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(lock), path.stat()):
                return lock
        except FileNotFoundError:
            pass  # Its owner ended between our open and our lock.
        except BaseException:
            os.close(lock)
            raise
        os.close(lock)


async def _serve(build: Callable[[Callable[[], None]], App], sock: socket.socket) -> None:
    """Serve a listening socket until a signal, or one that is connected until its end.

    ``build``: makes the daemon; it is given what ends this.
    """
    loop = asyncio.get_running_loop()
    end = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, end.set)
    app = build(end.set)
    if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        loop.add_signal_handler(signal.SIGHUP, app.reload)
        _log.info("dprobed %s listens at %s", __version__, sock.getsockname())
        await app.listen(sock)
    else:
        loop.add_signal_handler(signal.SIGHUP, end.set)
        await app.serve_one(sock)
    await end.wait()
    await app.stop(PATIENCE)


def _seconds(text: str) -> float:
    """A duration above 0, in seconds."""
    number = seconds(text)
    if not number:
        raise argparse.ArgumentTypeError(f"{text} is no duration above 0, like 30s or 10m")
    return number


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="dprobed",
        description="Puts probes into running programs, as `dprobe` asks it to.",
        epilog="examples:\n  dprobed &\n  dprobed --socket ./my.sock  # dprobe --socket ./my.sock",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"dprobed {__version__}")
    parser.add_argument("--socket", type=Path, help=f"default: {default_socket(os.geteuid())}")
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help=f"default: {configuration.default_folder(os.geteuid()) / configuration.NAME}",
    )
    parser.add_argument(
        "--check-config",
        action="store_true",
        help="check the configuration and all policies, say what is wrong, and end",
    )
    parser.add_argument(
        "--hold-limit",
        type=_seconds,
        default=HOLD_LIMIT,
        metavar="DURATION",
        help="how long `exit debugger` holds a process without a debugger (default: %(default)g)",
    )
    parser.add_argument(
        "--log-level",
        choices=_LEVELS,
        default="info",
        help="what is said of what happens: debug is each request, too (default: %(default)s)",
    )
    for letter, name, level in (("-v", "--verbose", "debug"), ("-q", "--quiet", "warning")):
        parser.add_argument(
            letter,
            name,
            dest="log_level",
            action="store_const",
            const=level,
            help=f"the same as --log-level {level}",
        )
    parser.add_argument("--private", type=int, metavar="FD", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def _run_private(descriptor: int, main: TracerMain) -> None:
    tracers, gate = begin(main, None)
    os.closerange(3, descriptor)
    os.closerange(descriptor + 1, os.sysconf("SC_OPEN_MAX"))
    # Nothing of the client's surroundings is held while it may be gone already.
    os.chdir("/")
    with socket.socket(fileno=descriptor) as sock:

        def build(end: Callable[[], None]) -> App:
            return build_private(tracers, gate, tracers.resolvers, on_last_gone=end)

        asyncio.run(_serve(build, sock))
    # The client waits for our end, and taking down the interpreter would only make it later.
    os._exit(0)


def _allow_descriptors() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if resource.RLIM_INFINITY != soft < DESCRIPTORS:
        allowed = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, DESCRIPTORS)
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))


def _run_public(
    path: Path | None, main: TracerMain, config: Path | None, hold_limit: float
) -> None:
    tracers, gate = begin(main, config)
    _allow_descriptors()
    if path is None:
        path = default_socket(os.geteuid())
        _private_folder(path.parent)

    def build(_: Callable[[], None]) -> App:
        return build_public(tracers, gate, tracers.resolvers, hold_limit=hold_limit)

    with listening_socket(path) as sock:
        asyncio.run(_serve(build, sock))


def main(arguments: Sequence[str] | None = None) -> None:
    """The command ``dprobed``."""
    options = _arguments(arguments)
    # What is opened later must not become a standard stream that we were started without.
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)
    level = logging.WARNING if options.private is not None else options.log_level.upper()
    log = logging.StreamHandler(sys.stderr)
    log.setFormatter(_Lines("dprobed: %(message)s"))
    logging.basicConfig(level=level, handlers=[log])
    logging.getLogger("asyncio").setLevel(logging.WARNING)
    try:
        if options.check_config:
            PolicyStore(configuration.load(options.config, os.geteuid()), os.geteuid())
            return
        _check_proc()
        # Here, so that every tracer forked later shares these pages.
        from dprobed.tracer.main import main as tracer_main

        gc.freeze()  # it is all here to stay
        gc.enable()
        if options.private is not None:
            _run_private(options.private, tracer_main)
        else:
            _run_public(options.socket, tracer_main, options.config, options.hold_limit)
    except PolicyError as error:
        text = str(error)
        if options.private is not None:  # Its client shows one line.
            text = f"{text.splitlines()[0]} (`dprobed --check-config` shows all)"
        print(f"dprobed: {text}", file=sys.stderr)
        sys.exit(2)
    except StartError as error:
        print(f"dprobed: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)  # Before there was anything to take out.
