"""`dprobe policy`: who may do what to which process, and what is put in by itself."""

from __future__ import annotations

from pathlib import Path

import click

from dprobe.commands import options

_file = click.Path(dir_okay=False, path_type=Path)


@click.group(
    "policy",
    epilog="""\b
examples:
  dprobe policy explain 1234            # who may do what to it, by which rule
  dprobe policy check 10-web.toml       # before it is put into policies.d
  dprobe policy test 10-web.toml 1234   # what it would decide
  dprobe policy reload
""",
)
def policy_command() -> None:
    """Show, check and reload the policies: who may do what to which process.

    Those of root's dprobed are in /etc/dprobed/policies.d, those of a user's own in
    ~/.config/dprobed/policies.d; docs/policies.md says what is in such a file.
    """


@policy_command.command("list", epilog="\b\nexample:\n  dprobe policy list --json\n")
@options.json
@click.pass_obj
def list_command(socket: Path | None, json: bool) -> None:
    """List the policies in force, in the order in which they are tried."""
    from dprobe.lib import policies

    policies.list_(socket, json=json)


@policy_command.command(
    "check",
    epilog="""\b
examples:
  dprobe policy check                 # all that are in policies.d
  dprobe policy check etc/policies/*.toml
""",
)
@options.json
@click.argument("files", nargs=-1, type=_file)
def check_command(files: tuple[Path, ...], json: bool) -> None:
    """Check FILES, or those in policies.d; exit status 2 and all that is wrong if anything is.

    No daemon is needed.
    """
    from dprobe.lib import policies

    policies.check(files, json=json)


@policy_command.command("explain", epilog="\b\nexample:\n  dprobe policy explain 1234\n")
@options.json
@click.argument("pid", type=options.pid_type)
@click.pass_obj
def explain_command(socket: Path | None, pid: int, json: bool) -> None:
    """Show which policy in force decides about process PID, why that one, and what follows."""
    from dprobe.lib import policies

    policies.explain(socket, pid, json=json)


@policy_command.command("reload", epilog="\b\nexample:\n  dprobe policy reload\n")
@options.json
@click.pass_obj
def reload_command(socket: Path | None, json: bool) -> None:
    """Have the daemon read the policy files anew, and list them.

    Where anything is wrong in any file, those in force stay, all that is wrong is shown, and the
    exit status is 2. Programs that are no longer allowed where they are go out.
    """
    from dprobe.lib import policies

    policies.reload(socket, json=json)


@policy_command.command("test", epilog="\b\nexample:\n  dprobe policy test 10-web.toml 1234\n")
@options.json
@click.argument("file", type=_file)
@click.argument("pid", type=options.pid_type)
def test_command(file: Path, pid: int, json: bool) -> None:
    """Show what the policies in FILE alone would decide about process PID.

    No daemon is needed, and nothing changes.
    """
    from dprobe.lib import policies

    policies.test(file, pid, json=json)
