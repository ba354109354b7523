"""``dprobed``, the daemon that listens: its command line, its socket on disk, its start and end."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import faulthandler
import fcntl
import gc
import logging
import os
import socket
import stat
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from dprobed import __version__
from dprobed.daemon.app import HOLD_LIMIT, App, begin, build_public
from dprobed.daemon.change_journals import ChangeJournalFiles
from dprobed.daemon.child_process import begin_afresh
from dprobed.daemon.former import FormerCounts
from dprobed.daemon.kept import Kept
from dprobed.daemon.log import begin_log
from dprobed.daemon.service import ServiceManager
from dprobed.daemon.start import StartError, check_proc, serve
from dprobed.daemon.tracer_child import TracerMain, imported_main
from dprobed.durations import seconds
from dprobed.policy import config as configuration
from dprobed.policy.errors import PolicyError
from dprobed.policy.store import PolicyStore
from dprobed.proc import mounts
from dprobed.wire.socket_path import default_socket

#: A socket that listens, in /proc/net/unix: __SO_ACCEPTCON (include/linux/net.h).
_ACCEPTS: Final = 1 << 16

#: What ``--log-level`` can be, the most talkative first.
_LEVELS: Final = ("debug", "info", "warning", "error")


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
def listening_socket(path: Path, *, public: bool) -> Iterator[socket.socket]:
    """A listening socket at ``path``: only its owner (and root) can connect to it; ``public``: all.

    A lock beside it tells a daemon that runs from a socket that a dead one left; raises StartError.
    """
    with _locked(path):
        try:
            if path.exists() or path.is_symlink():
                if not stat.S_ISSOCK(path.lstat().st_mode):
                    raise StartError(
                        f"{path} exists and is not a socket; remove it, or use --socket"
                    )
                if _is_listened_at(path):
                    raise StartError(
                        f"something else listens at {path}: systemd, which starts dprobed when "
                        "somebody connects? Use --socket for a second"
                    )
                path.unlink()
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            mask = os.umask(0o111 if public else 0o177)
            try:
                sock.bind(str(path))
            finally:
                os.umask(mask)
        except OSError as error:
            raise StartError(f"{path}: {error.strerror or error}") from None
        with sock:
            sock.listen(64)
            try:
                yield sock
            finally:
                path.unlink(missing_ok=True)


@contextlib.contextmanager
def activated_socket(sock: socket.socket, path: Path) -> Iterator[socket.socket]:
    """The listening socket that systemd made at a path, and takes away; raises StartError."""
    with _locked(path), sock:
        yield sock


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock beside a socket, which only one daemon can; raises StartError."""
    lock_path = path.with_name(path.name + ".lock")
    try:
        lock = _lock(lock_path)
    except BlockingIOError:
        raise StartError(f"another dprobed listens at {path}; use --socket for a second") from None
    except OSError as error:
        raise StartError(f"{lock_path}: {error.strerror}") from None
    try:
        yield
    finally:
        lock_path.unlink(missing_ok=True)
        os.close(lock)


def _is_listened_at(path: Path) -> bool:
    """Whether somebody listens at a path: to connect and see would start what systemd starts."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/net/unix").read_bytes().splitlines()[1:]:
            # Num RefCount Protocol Flags Type St Inode Path (net/unix/af_unix.c)
            fields = line.split(maxsplit=7)
            if len(fields) == 8 and fields[7] == os.fsencode(path):
                return bool(int(fields[3], 16) & _ACCEPTS)
    return False


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
    return parser.parse_args(arguments)


def _run(path: Path | None, main: TracerMain, config: Path | None, hold_limit: float) -> None:
    begin_afresh()
    try:
        service = ServiceManager()
    except OSError as error:
        raise StartError(f"what LISTEN_FDS says was given is not there: {error.strerror}") from None
    where = _where(path, service.listeners)
    journals = ChangeJournalFiles(where.with_name(where.name + ".changes"))
    tracers, gate = begin(main, config, journals=journals)
    wanted = gate.store.config
    _check_metrics(wanted)
    mounts.watch()

    with _listening(path, service.listeners) as sock, _metrics_socket(wanted.metrics) as metrics:
        try:
            journals.open()
        except OSError as error:
            folder = where.with_name(where.name + ".changes")
            raise StartError(f"{folder}: {error.strerror}") from None

        def build(_: Callable[[], None]) -> App:
            return build_public(
                tracers,
                gate,
                tracers.resolvers,
                service=service,
                kept=Kept(journals.folder, FormerCounts(journals.notes)),
                hold_limit=hold_limit,
                metrics=metrics,
            )

        asyncio.run(serve(build, sock))


def _where(path: Path | None, given: Sequence[socket.socket]) -> Path:
    """The path of the socket to serve; raises StartError."""
    if not given:
        return path or default_socket(os.geteuid())
    if path is not None:
        raise StartError("systemd gave a socket: leave out --socket, or the socket unit")
    if len(given) > 1:
        raise StartError(f"systemd gave {len(given)} sockets, and dprobed listens at one")
    name = given[0].getsockname()
    if not isinstance(name, str) or not name:
        raise StartError(f"systemd gave a socket without a path: {name!r}; use ListenStream=/PATH")
    return Path(name)


def _listening(
    path: Path | None, given: Sequence[socket.socket]
) -> contextlib.AbstractContextManager[socket.socket]:
    """The socket to serve: the one that systemd gave, else ours; raises StartError."""
    where = _where(path, given)
    if given:
        return activated_socket(given[0], where)
    if path is None:
        _private_folder(where.parent)
    # Anyone may connect to root's daemon: the policies decide what a user may do.
    return listening_socket(where, public=os.geteuid() == 0)


@contextlib.contextmanager
def _metrics_socket(where: Path | tuple[str, int] | None) -> Iterator[socket.socket | None]:
    """Where metrics are to be served, if anywhere; raises StartError."""
    if where is None:
        yield None
    elif isinstance(where, Path):
        with listening_socket(where, public=False) as sock:
            yield sock
    else:
        family = socket.AF_INET6 if ":" in where[0] else socket.AF_INET
        try:
            sock = socket.create_server(where, family=family)
        except OSError as error:
            raise StartError(
                f"metrics: {where[0]} port {where[1]}: {os.strerror(error.errno or 0)}"
            ) from None
        with sock:
            yield sock


def _check_metrics(config: configuration.Config) -> None:
    """That metrics can be made, if they are wanted; raises StartError."""
    if config.metrics is not None and find_spec("prometheus_client") is None:
        raise StartError(
            "metrics need Python's prometheus_client, which is not installed: install it, or take "
            "[metrics] out of the configuration"
        )


def main(arguments: Sequence[str] | None = None) -> None:
    """The command ``dprobed``."""
    options = _arguments(arguments)
    # What is opened later must not become a standard stream that we were started without.
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)
    # Where the watchdog ends a loop that hangs (SIGABRT), the log says where it hung.
    faulthandler.enable()
    begin_log(logging.getLevelName(options.log_level.upper()))
    logging.getLogger("asyncio").setLevel(logging.WARNING)
    try:
        if options.check_config:
            config = configuration.load(options.config, os.geteuid())
            PolicyStore(config, os.geteuid())
            _check_metrics(config)
            return
        check_proc()
        # Here, so that every tracer forked later shares these pages.
        tracer_main = imported_main()
        gc.freeze()  # it is all here to stay
        _run(options.socket, tracer_main, options.config, options.hold_limit)
    except PolicyError as error:
        print(f"dprobed: {error}", file=sys.stderr)
        sys.exit(2)
    except StartError as error:
        print(f"dprobed: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)  # Before there was anything to take out.
