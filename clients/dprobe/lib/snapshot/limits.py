"""What the configuration says of values that are shown: root's, and the user's own."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from dprobe.lib.errors import UserError
from dprobed.policy.config import NAME, SnapshotLimits, default_folder, load
from dprobed.policy.errors import PolicyError

#: Names whose values are not shown, whatever is asked for.
REDACTED: Final = ("*passw*", "*secret*", "*token*", "*credential*", "*private*key*", "*api*key*")


def configured() -> SnapshotLimits:
    """What root's configuration and the user's own say together; raises UserError."""
    uids = dict.fromkeys((0, os.geteuid()))
    return strictest((default_folder(uid) / NAME, uid) for uid in uids)


def strictest(files: Iterable[tuple[Path, int]]) -> SnapshotLimits:
    """The smallest of the limits, and all patterns of names, of files and the users whose they are;
    those that are not there, or may not be read, say nothing. Raises UserError."""
    found = SnapshotLimits(redact=REDACTED)
    for path, uid in files:
        if not os.access(path, os.R_OK):
            continue
        try:
            one = load(path, uid).snapshots
        except PolicyError as error:
            raise UserError(str(error)) from None
        found = SnapshotLimits(
            min(found.depth, one.depth),
            min(found.width, one.width),
            min(found.string, one.string),
            min(found.frames, one.frames),
            tuple(dict.fromkeys((*found.redact, *one.redact))),
        )
    return found
