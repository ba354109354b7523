"""The daemon's configuration file: what root (or a user, for a daemon of the user's own) decides.

``dprobed.toml`` says where the policies are and which kinds of processes are protected whatever
those say. Without the file, the default holds.
"""

from __future__ import annotations

import os
import pwd
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from dprobed.policy.errors import PolicyError
from dprobed.policy.model import Rights, Stay
from dprobed.policy.protected import KINDS

if TYPE_CHECKING:
    from dprobed.policy.source import PolicyFile

_KEYS: Final = (
    "policies",
    "protect",
    "stay",
    "load_kernel_module",
    "kernel",
    "metrics",
    "snapshots",
)
#: For how long what ordinary users leave behind stays, unless they or the file say otherwise.
_STAY: Final = Stay(86400.0)
NAME: Final = "dprobed.toml"
#: Bytes of a Unix socket's path (unix(7)), without the NUL byte.
_LONGEST: Final = 107


class SnapshotLimits(msgspec.Struct, frozen=True):
    """What `dprobe snapshot` shows at most, and names (patterns) of variables and members whose
    values neither it nor `dprobe logpoint` shows."""

    depth: int = 16
    width: int = 1000
    string: int = 1 << 16
    frames: int = 255
    redact: tuple[str, ...] = ()


class Config(msgspec.Struct, frozen=True):
    """``policies``: the folder of the policy files; ``protect``: kinds of protected.py; ``stay``:
    for how long what ordinary users leave behind stays, unless they say it;
    ``load_kernel_module``: for programs of the kernel, where it is not loaded; ``kernel``: who but
    root may have some, and which. ``metrics``: where they are served, a Unix socket or a port of
    this machine; None: nowhere. ``snapshots``: the clients read that."""

    policies: Path
    protect: frozenset[str] = frozenset(KINDS)
    stay: Stay = _STAY
    load_kernel_module: bool = False
    kernel: Rights = Rights()
    metrics: Path | tuple[str, int] | None = None
    snapshots: SnapshotLimits = SnapshotLimits()


def default_folder(uid: int) -> Path:
    """Where a user's configuration is: ``/etc/dprobed`` for root."""
    if uid == 0:
        return Path("/etc/dprobed")
    given = os.environ.get("XDG_CONFIG_HOME", "")
    if given.startswith("/"):
        return Path(given) / "dprobed"
    try:
        home = pwd.getpwuid(uid).pw_dir
    except KeyError:
        home = os.environ.get("HOME", "/nonexistent")
    return Path(home) / ".config" / "dprobed"


def load(path: Path | None, uid: int) -> Config:
    """The configuration in ``path``, which must be there; None: that at its usual place, if any.

    Raises PolicyError with all that is wrong.
    """
    folder = default_folder(uid)
    config = Config(folder / "policies.d")
    if path is None:
        path = folder / NAME
        if not os.path.lexists(path):  # A link to nowhere is a mistake, and not passed over.
            return config
    # Where there is no such file, as for most who run a program once, not imported.
    from dprobed.policy.source import PolicyFile

    source = PolicyFile(path, uid)
    if not source.diagnostics:
        config = _read(source, config)
    if source.diagnostics:
        raise PolicyError(sorted(source.diagnostics, key=lambda found: (found.line, found.column)))
    return config


def _read(source: PolicyFile, config: Config) -> Config:
    table = source.table((), source.data, _KEYS)
    folder, protect, stay = config.policies, config.protect, config.stay
    if "policies" in table:
        text = source.of_type(("policies",), table["policies"], str)
        folder = source.path.parent / (text or "")
        # Else a slip of the pen would allow whatever the policies there forbid. The usual folder
        # need not be there.
        usual = source.path.parent / config.policies.name
        if text is not None and folder != usual and not os.path.isdir(folder):  # noqa: PTH112
            source.report(("policies",), f"there is no folder {folder}")
    if "protect" in table:
        at = ("protect",)
        # An empty list is meant: nothing is protected.
        words = source.strings(at, table["protect"]) if table["protect"] != [] else []
        kinds = [source.choice(each, word, KINDS, "kind of process") for each, word in words]
        protect = frozenset(kind for kind in kinds if kind is not None)
    if "stay" in table:
        stay = source.stay(("stay",), table["stay"])
    load_module = config.load_kernel_module
    if "load_kernel_module" in table:
        at = ("load_kernel_module",)
        load_module = bool(source.of_type(at, table["load_kernel_module"], bool))
    kernel = config.kernel
    if "kernel" in table:
        from dprobed.policy.grants import read_rights

        kernel = read_rights(source, ("kernel",), table["kernel"], own=False)
    metrics = _metrics(source, table["metrics"]) if "metrics" in table else None
    snapshots = _snapshots(source, table["snapshots"]) if "snapshots" in table else config.snapshots
    return Config(folder, protect, stay, load_module, kernel, metrics, snapshots)


def _snapshots(source: PolicyFile, value: object) -> SnapshotLimits:
    at = ("snapshots",)
    found: dict[str, object] = {}
    for key, each in source.table(at, value, SnapshotLimits.__struct_fields__).items():
        if key == "redact":
            found[key] = tuple(pattern for _, pattern in source.strings((*at, key), each))
        elif (number := source.positive((*at, key), each)) is not None:
            found[key] = min(number, getattr(SnapshotLimits(), key))
    return msgspec.structs.replace(SnapshotLimits(), **found)


def _metrics(source: PolicyFile, value: object) -> Path | tuple[str, int] | None:
    """Where metrics are served: an absolute path, or an address of this machine with a port."""
    # Here: few have it, and every private daemon reads this file.
    import ipaddress

    at = ("metrics", "listen")
    table = source.table(("metrics",), value, ("listen",))
    if "listen" not in table:
        return None
    text = source.of_type(at, table["listen"], str)
    if text is None:
        return None
    hint = 'write "/run/dprobed/metrics.sock" or "127.0.0.1:9464"'
    if text.startswith("/"):
        if len(os.fsencode(text)) > _LONGEST:
            source.report(at, f"a socket's path has at most {_LONGEST} bytes")
        return Path(text)
    host, _, port = text.rpartition(":")
    try:
        address = ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
    except ValueError:
        source.report(at, "`listen` is a path from / on, or an address with a port", hint)
        return None
    if not address.is_loopback:
        # What is in it is not for the network; whoever wants that has a proxy with a password.
        source.report(at, "metrics are served on this machine alone", hint)
    if not port.isascii() or not port.isdecimal() or not 0 < int(port) <= 65535:
        source.report(at, f"`{port}` is no port", hint)
        return None
    return str(address), int(port)
