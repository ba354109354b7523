"""``dprobe dump``: cores of running processes, which go on."""

from __future__ import annotations

from pathlib import Path

import click

from dprobe.commands import options
from dprobe.commands import pids as processes
from dprobe.private import running_or_private


@click.command(
    "dump",
    cls=processes.PidsCommand,
    epilog="""\b
examples:
  dprobe dump -p redis-server
  gdb /usr/bin/redis-server "$(dprobe dump -p 1234)"
""",
)
@click.option("--zstd", is_flag=True, help="Compress the cores, with the command `zstd`.")
@processes.option("The processes: numbers, or a name that they have.")
@options.private
@options.json
@click.argument("more", nargs=-1, metavar="[PID]...")
@click.pass_obj
def dump_command(
    socket: Path | None,
    pids: tuple[int, ...],
    more: tuple[str, ...],
    zstd: bool,
    private: bool,
    json: bool,
) -> None:
    """Write a core of each process, which goes on meanwhile, and print where it is."""
    pids, rest = processes.split(more, pids)
    if rest or not pids:
        raise click.UsageError("say which processes, by -p", click.get_current_context())
    with running_or_private(socket, options.complain, alone=private) as daemon:
        # Imported late: a private daemon starts in the meantime.
        import msgspec

        from dprobe.view.tables import encoded
        from dprobed.wire import messages

        connection = daemon.connect()
        for pid in pids:
            connection.request(
                lambda number, pid=pid: messages.Attach(id=number, pid=pid),  # type: ignore[misc]
                messages.Attached,
            )
            done = connection.request(
                lambda number, pid=pid: messages.Dump(id=number, pid=pid, zstd=zstd),  # type: ignore[misc]
                messages.Dumped,
            )
            row = {"pid": pid, **msgspec.to_builtins(done)}
            print(encoded("dumped", row) if json else done.path)
