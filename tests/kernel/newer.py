"""A newer kernel than this machine's: Debian's backports, for which the module is built as well.

Headers and image are fetched by apt with a configuration and lists of their own, and unpacked into
the cache: on this machine nothing is installed, and no source of packages is added.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Final, NamedTuple

SUITE: Final = "bookworm-backports"
_META: Final = "linux-headers-cloud-amd64"
_MIRROR: Final = "http://deb.debian.org/debian"
_KEYS: Final = "/usr/share/keyrings/debian-archive-keyring.gpg"


class NewerKernel(NamedTuple):
    """``release``: as `uname -r` has it; ``build``: its headers; ``image``: what boots."""

    release: str
    build: Path
    image: Path


class NoneError(Exception):
    """It cannot be had; the text says why."""


def newer_kernel(cache: Path) -> NewerKernel:
    """The newest that the suite has, of the cache if it is there; raises NoneError."""
    apt = cache / "apt"
    _configure(apt)
    release = _newest(apt)
    made = cache / release
    if not made.exists():
        work = cache / f"unpacked-{os.getpid()}"
        for package in _fetch(apt, release):
            _run(["dpkg", "-x", str(package), str(work)], apt)
            package.unlink()
        # Nobody sees a part of it.
        work.rename(made)
    return NewerKernel(release, _headers(made, release), made / "boot" / f"vmlinuz-{release}")


def _configure(apt: Path) -> None:
    for folder in ("lists/partial", "cache/archives/partial", "packages"):
        (apt / folder).mkdir(parents=True, exist_ok=True)
    (apt / "status").write_text("")
    (apt / "sources.list").write_text(f"deb [signed-by={_KEYS}] {_MIRROR} {SUITE} main\n")
    names = {
        "Dir::Etc::sourcelist": apt / "sources.list",
        "Dir::Etc::sourceparts": "-",
        "Dir::State::lists": apt / "lists",
        "Dir::State::status": apt / "status",
        "Dir::Cache": apt / "cache",
        # The folders of a test are not that user's.
        "APT::Sandbox::User": "root",
    }
    (apt / "apt.conf").write_text("".join(f'{name} "{value}";\n' for name, value in names.items()))


def _run(command: list[str], apt: Path) -> str:
    if shutil.which(command[0]) is None:
        raise NoneError(f"there is no {command[0]}")
    done = subprocess.run(
        command,
        cwd=apt / "packages",
        env={**os.environ, "APT_CONFIG": str(apt / "apt.conf"), "LC_ALL": "C"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise NoneError(f"{' '.join(command)}: {done.stderr.strip()[-500:]}")
    return done.stdout


def _newest(apt: Path) -> str:
    _run(["apt-get", "update", "--error-on=any"], apt)
    depends = re.search(
        r"^Depends: linux-headers-(\S+)", _run(["apt-cache", "show", _META], apt), re.MULTILINE
    )
    if depends is None:
        raise NoneError(f"{SUITE} has no {_META}")
    return depends[1]


def _fetch(apt: Path, release: str) -> list[Path]:
    version = release.removesuffix("-cloud-amd64")
    packages = [f"linux-headers-{release}", f"linux-headers-{version}-common"]
    packages += [f"linux-kbuild-{version}", f"linux-image-{release}"]
    _run(["apt-get", "download", *packages], apt)
    return sorted((apt / "packages").glob("*.deb"))


def _headers(root: Path, release: str) -> Path:
    """The folder to make in; it names the other ones as if they were installed."""
    headers = root / "usr" / "src" / f"linux-headers-{release}"
    makefile = headers / "Makefile"
    text = makefile.read_text()
    makefile.write_text(re.sub(r"(?<=include )/usr/src/", f"{root}/usr/src/", text))
    return headers
