"""Listing and removing cores for who may not sleep: their folder may be where nobody answers.

``store`` does it, here where the folder is on a local file system, else in the helper process.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from dprobed.corefile import store
from dprobed.corefile.store import Core, StoreError
from dprobed.proc import far, files, helper


class _Listed(msgspec.Struct, frozen=True, array_like=True):
    """A core as the helper tells it: names of files may have bytes that are no text."""

    name: bytes
    file: bytes
    bytes: int
    about: dict[str, Any]
    state: str


def cores(folder: Path) -> list[Core]:
    """As ``store.cores``; raises StoreError also where nobody answers."""
    try:
        if files.is_near(str(folder)):
            return store.cores(folder)
        _, descriptor = _do(folder, _cores, (os.fsencode(folder),))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise _failed(folder, error) from None
    with os.fdopen(descriptor, "rb") as told:
        listed = msgspec.msgpack.decode(told.read(), type=list[_Listed])
    return [
        Core(
            os.fsdecode(each.name),
            folder / os.fsdecode(each.file),
            each.bytes,
            each.about,
            each.state,
        )
        for each in listed
    ]


def remove(folder: Path, wanted: Iterable[Core]) -> list[Core]:
    """As ``store.remove``; raises StoreError also where nobody answers."""
    wanted = [core for core in wanted if core.path.parent == folder]
    if not wanted:
        return []
    try:
        if files.is_near(str(folder)):
            return store.remove(folder, wanted)
        names = b"\0".join(os.fsencode(core.path.name) for core in wanted)
        (told,), _ = _do(folder, _remove, (os.fsencode(folder), names))
    except OSError as error:
        raise _failed(folder, error) from None
    assert isinstance(told, bytes)
    gone = told.split(b"\0")
    return [core for core in wanted if os.fsencode(core.path.name) in gone]


def _do(
    folder: Path, job: helper.Job, values: Sequence[helper.Value]
) -> tuple[list[helper.Value], int]:
    """Have it done; raises OSError, and StoreError as ``store`` did there."""
    told, descriptor = helper.HELPER.do(("dumps", str(folder)), job, values)
    refusal, *rest = told
    if refusal:
        assert isinstance(refusal, str)
        raise StoreError(refusal)
    return rest, descriptor


def _failed(folder: Path, error: OSError) -> StoreError:
    reason = far.SILENCE if isinstance(error, helper.SilentError) else error.strerror
    return StoreError(f"{folder}: {reason}")


# --- in the helper ---


def _given(values: Sequence[helper.Value]) -> tuple[Path, bytes]:
    folder, names = (*values, b"")[:2]
    assert isinstance(folder, bytes)
    assert isinstance(names, bytes)
    return Path(os.fsdecode(folder)), names


@helper.job
def _cores(
    values: Sequence[helper.Value], _descriptors: Sequence[int]
) -> tuple[list[helper.Value], int]:
    folder, _ = _given(values)
    try:
        found = store.cores(folder)
    except StoreError as error:
        return [str(error)], -1
    listed = [
        _Listed(
            os.fsencode(core.name),
            os.fsencode(core.path.name),
            core.bytes,
            core.about,
            core.state,
        )
        for core in found
    ]
    return [""], far.in_memory(msgspec.msgpack.encode(listed))


@helper.job
def _remove(
    values: Sequence[helper.Value], _descriptors: Sequence[int]
) -> tuple[list[helper.Value], int]:
    folder, names = _given(values)
    meant = set(names.split(b"\0"))
    try:
        found = [core for core in store.cores(folder) if os.fsencode(core.path.name) in meant]
        removed = store.remove(folder, found)
    except StoreError as error:
        return [str(error), b""], -1
    return ["", b"\0".join(os.fsencode(core.path.name) for core in removed)], -1
