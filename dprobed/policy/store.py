"""The policies that are in force, and how they come to be: read as a whole, or not at all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from dprobed.policy.config import Config
from dprobed.policy.errors import PolicyError
from dprobed.policy.model import Policies, Policy
from dprobed.printable import readable
from dprobed.program.model import Diagnostic


class PolicyStore:
    """The set in force. ``problem``: what is wrong with it, or with the files since; else empty.

    ``uid``: the user whose daemon this is; ``is_ours``: whether a process is the daemon or one of
    its tracers. Raises PolicyError where the first set is bad.
    """

    def __init__(
        self, config: Config, uid: int, is_ours: Callable[[int], bool] = lambda pid: False
    ) -> None:
        self.config = config
        self.problem = ""
        self._is_ours = is_ours
        self._uid = uid
        self.policies = Policies()
        self.policies = self._load()

    def reload(self) -> str:
        """Read all files anew; what is wrong, and then the last good set stays in force."""
        try:
            self.policies = self._load()
            self.problem = ""
        except PolicyError as error:
            self.problem = f"the policies stay as they were:\n{error}"
        return self.problem

    def note(self, problem: str) -> None:
        """Something is wrong with what is in force."""
        self.problem = f"{self.problem}\n{problem}".strip()

    def settle(self, problem: str) -> None:
        """What was noted is wrong no longer."""
        lines = self.problem.split("\n")
        self.problem = "\n".join(line for line in lines if line != problem)

    def _load(self) -> Policies:
        folder = self.config.policies
        paths = files(folder, self._uid)
        if not paths and self.policies.policies and not folder.is_dir():
            # That would allow whatever the policies forbid.
            hint = "make an empty one there if no policy is to be in force"
            raise _refused(folder, "is gone", hint)
        policies: tuple[Policy, ...] = ()
        if paths:
            # Where there is no policy (for most of those who run a program once), not imported.
            from dprobed.policy.parse import parse

            policies = parse(paths, trust=self._uid)
        return Policies(policies, self.config.protect, self._is_ours)


def files(folder: Path, uid: int) -> list[Path]:
    """The policy files of a folder, in the order in which they count; none where it is not there.

    Raises PolicyError.
    """
    try:
        # What begins with a dot is an editor's, and no `*.toml` for a shell either.
        found = sorted(
            path
            for path in folder.iterdir()
            if path.suffix == ".toml" and not path.name.startswith(".")
        )
        if not found:
            return []
        # Where there is no policy, as for most who run a program once, not imported.
        from dprobed.policy.trust import distrusted

        why = distrusted(folder, uid)
    except OSError as error:
        # A link to nowhere is a mistake, and not passed over.
        if isinstance(error, FileNotFoundError) and not folder.is_symlink():
            return []
        raise _refused(folder, f"cannot be read: {error.strerror}") from None
    if why:
        raise _refused(folder, why)
    return found


def _refused(folder: Path, why: str, hint: str = "") -> PolicyError:
    return PolicyError([Diagnostic(readable(folder), 0, 0, why, hint)])
